import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MessageStream, type VfioUserMessage } from "../../src/vfio-user/message-stream.js";
import { message } from "./fake-server.js";

const MOST_BYTES = 200;

/** What a stream tells of these pieces, and why it broke. */
function read(pieces: readonly Uint8Array[]): { readonly told: string[]; readonly broken: string[] } {
  const told: string[] = [];
  const broken: string[] = [];
  const note = ({ id, command, payload }: VfioUserMessage): void => {
    const bytes = new Uint8Array(payload.buffer, payload.byteOffset, payload.byteLength);
    told.push(`${id} ${command} ${Buffer.from(bytes).toString("hex")}`);
  };
  const stream = new MessageStream(MOST_BYTES, note, (why) => broken.push(why));
  // Each piece in memory of its own, as a socket gives them.
  for (const piece of pieces) stream.push(piece.slice());
  return { told, broken };
}

/** Cuts bytes into pieces of these sizes, the last one as long as it takes. */
function cut(bytes: Uint8Array, sizes: readonly number[]): Uint8Array[] {
  const pieces: Uint8Array[] = [];
  let at = 0;
  for (const size of sizes) {
    pieces.push(bytes.subarray(at, at + size));
    at += size;
  }
  return [...pieces, bytes.subarray(at)];
}

const payloads = fc.array(fc.uint8Array({ maxLength: MOST_BYTES - 16 }), { minLength: 1, maxLength: 5 });
const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { maxLength: 60 });

describe("a stream of messages", () => {
  it("tells the same messages however it was cut into pieces", () => {
    fc.assert(
      fc.property(payloads, sizes, (contents, cuts) => {
        const messages = contents.map((payload, i) => message(i, 3, 1, 0, Buffer.from(payload)));
        const expected = contents.map((payload, i) => `${i} 3 ${Buffer.from(payload).toString("hex")}`);
        expect(read(cut(Buffer.concat(messages), cuts))).toEqual({ told: expected, broken: [] });
      }),
      { numRuns: 200 },
    );
  });

  it("tells a message when its last byte comes, not before", () => {
    const bytes = message(7, 3, 1, 0, Buffer.from("abc"));
    expect(read([bytes.subarray(0, 5), bytes.subarray(5, -1)]).told).toEqual([]);
    expect(read([bytes.subarray(0, 5), bytes.subarray(5, -1), bytes.subarray(-1)]).told).toEqual(["7 3 616263"]);
  });

  it.each([15, MOST_BYTES + 1, 2 ** 32 - 1])("ends where a header names %i bytes, also one in pieces", (byteLength) => {
    const good = message(1, 3, 1, 0, Buffer.alloc(4));
    const bad = message(2, 3, 1, 0, Buffer.alloc(0));
    new DataView(bad.buffer, bad.byteOffset).setUint32(4, byteLength, true);
    const why = [`expected a message of 16 to ${MOST_BYTES} bytes, got ${byteLength}`];
    expect(read([Buffer.concat([good, bad, good])])).toEqual({ told: ["1 3 00000000"], broken: why });
    expect(read(cut(Buffer.concat([good, bad, good]), [23, 3, 9]))).toEqual({ told: ["1 3 00000000"], broken: why });
  });

  it("keeps what it told: later pieces do not change it", () => {
    const kept: DataView[] = [];
    const stream = new MessageStream(MOST_BYTES, ({ payload }) => kept.push(payload), expect.unreachable);
    const bytes = Buffer.concat([message(1, 3, 1, 0, Buffer.from("one")), message(2, 3, 1, 0, Buffer.from("two"))]);
    for (const piece of cut(bytes, [4, 14, 9, 3])) stream.push(piece.slice());
    expect(kept.map((view) => String.fromCharCode(view.getUint8(0)))).toEqual(["o", "t"]);
  });
});

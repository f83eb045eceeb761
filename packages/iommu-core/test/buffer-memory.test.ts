import { afterEach, describe, expect, it, vi } from "vitest";
import { BufferMemory, sharedEntries } from "../src/index.js";

function twoRegions(): { memory: BufferMemory; low: Uint8Array; high: Uint8Array } {
  const low = new Uint8Array(2 * 4096);
  const high = new Uint8Array(new SharedArrayBuffer(4096));
  return {
    memory: new BufferMemory([
      { firstPfn: 1, bytes: low },
      { firstPfn: 2 ** 20, bytes: high },
    ]),
    low,
    high,
  };
}

describe("BufferMemory", () => {
  afterEach(() => vi.restoreAllMocks());

  it("reads and writes bytes of every region at its guest-physical address", () => {
    const { memory, low, high } = twoRegions();
    expect(memory.write(4096 + 10, Uint8Array.of(1, 2, 3))).toBe(true);
    expect([...low.subarray(10, 13)]).toEqual([1, 2, 3]);
    expect(memory.write(2 ** 32, Uint8Array.of(9))).toBe(true);
    expect(high[0]).toBe(9);
    const into = new Uint8Array(2);
    expect(memory.read(4096 + 11, into)).toBe(true);
    expect([...into]).toEqual([2, 3]);
  });

  it("reaches the first and the last byte and word of a region, and words in their order", () => {
    const { memory, low, high } = twoRegions();
    expect(memory.write(3 * 4096 - 2, Uint8Array.of(6, 7))).toBe(true);
    expect([...low.subarray(-2)]).toEqual([6, 7]);
    expect(memory.writeWord(4096, 0x0403_0201)).toBe(true);
    expect(memory.writeWord(4100, -1)).toBe(true);
    expect([...low.subarray(0, 9)]).toEqual([1, 2, 3, 4, 255, 255, 255, 255, 0]);
    expect(memory.writeWord(2 ** 32 + 4092, 5)).toBe(true);
    expect(high.at(-4)).toBe(5);
    const words = new Int32Array(2);
    expect(memory.fetch(4096, words)).toBe(true);
    expect([...words]).toEqual([0x0403_0201, -1]);
    expect(memory.fetch(2 ** 32 + 4092, words)).toBe(false);
    expect(memory.fetch(2 ** 32 + 4092, words.subarray(1))).toBe(true);
    expect([...words]).toEqual([0x0403_0201, 5]);
    expect(memory.ram).toEqual([
      { firstPfn: 1, pageCount: 2 },
      { firstPfn: 2 ** 20, pageCount: 1 },
    ]);
  });

  it("reads entries of shared buffers whole, one by one, and single words as such", () => {
    const { memory, high } = twoRegions();
    const gpa = 2 ** 32 + 64;
    const words = new Int32Array(high.buffer, high.byteOffset);
    words.set([1, 2, 3, 4], 16);
    const load = vi.spyOn(Atomics, "load");
    const into = new Int32Array(4);
    expect(memory.fetch(gpa, into)).toBe(true);
    const entries = load.mock.calls.map(([array, at]) => [array.constructor, at]);
    load.mockClear();
    expect(memory.fetch(gpa + 4, into.subarray(0, 1))).toBe(true);
    const single = load.mock.calls.map(([array, at]) => [array.constructor, at]);
    load.mockRestore();
    expect([...into]).toEqual([2, 2, 3, 4]);
    expect(entries).toEqual([
      [BigInt64Array, 8],
      [BigInt64Array, 9],
    ]);
    expect(single).toEqual([[Int32Array, 17]]);
  });

  it("reads shared words that begin in the middle of an entry, and odd numbers of them", () => {
    const { memory, high } = twoRegions();
    new Int32Array(high.buffer).set([1, 2, 3, 4]);
    const into = new Int32Array(2);
    expect(memory.fetch(2 ** 32 + 4, into)).toBe(true);
    expect([...into]).toEqual([2, 3]);
    const three = new Int32Array(3);
    expect(memory.fetch(2 ** 32, three)).toBe(true);
    expect([...three]).toEqual([1, 2, 3]);
  });

  it("lets devices write past it only where the host says so", () => {
    expect(twoRegions().memory.directWrites).toBe(false);
    expect(new BufferMemory([], { directWrites: true }).directWrites).toBe(true);
  });

  it("takes regions that touch, and buffers that begin inside of others", () => {
    const bytes = new Uint8Array(8192 + 8);
    const memory = new BufferMemory([
      { firstPfn: 1, bytes: bytes.subarray(8, 4104) },
      { firstPfn: 2, bytes: bytes.subarray(4104) },
    ]);
    memory.writeWord(4096, 7);
    memory.writeWord(8192, 8);
    expect([bytes[8], bytes[4104]]).toEqual([7, 8]);
    expect(memory.window(2)?.words[0]).toBe(8);
    // A request over both is refused: they lie apart in the host.
    expect(memory.read(8190, new Uint8Array(4))).toBe(false);
  });

  it("answers false where a byte is not RAM, and changes nothing", () => {
    const { memory, low } = twoRegions();
    expect(memory.read(0, new Uint8Array(1))).toBe(false);
    expect(memory.write(3 * 4096 - 1, Uint8Array.of(5, 5))).toBe(false);
    expect(low.at(-1)).toBe(0);
    expect(memory.fetch(3 * 4096, new Int32Array(1))).toBe(false);
    expect(memory.writeWord(0, 1)).toBe(false);
    expect(memory.compareExchange(0, 0, 1)).toBe(false);
  });

  it("exchanges a word only if it still is what was expected, in private and shared buffers", () => {
    const { memory } = twoRegions();
    for (const gpa of [4096, 2 ** 32]) {
      const word = new Int32Array(1);
      expect(memory.compareExchange(gpa, 0, -7)).toBe(true);
      expect(memory.compareExchange(gpa, 0, 8)).toBe(false);
      expect(memory.fetch(gpa, word) && word[0]).toBe(-7);
      // Unsigned, it is the same word.
      expect(memory.compareExchange(gpa, -7 >>> 0, 0xffff_fff0)).toBe(true);
      expect(memory.fetch(gpa, word) && word[0]).toBe(-16);
    }
  });

  it("gives the same window for every frame of a region, and none outside", () => {
    const { memory } = twoRegions();
    expect(memory.window(1)).toBe(memory.window(2));
    expect(memory.window(1)).toMatchObject({ firstPfn: 1, pageCount: 2 });
    expect(memory.window(3)).toBeUndefined();
  });

  it("refuses regions that overlap or are not whole aligned pages", () => {
    const page = new Uint8Array(8192);
    expect(
      () =>
        new BufferMemory([
          { firstPfn: 1, bytes: page },
          { firstPfn: 2, bytes: page },
        ]),
    ).toThrow(expect.objectContaining({ code: "bad-range" }));
    for (const [bytes, message] of [
      [page.subarray(0, 100), /multiple of 4096 bytes, got 100/],
      [new ArrayBuffer(4096) as never, /expected a Uint8Array.*new Uint8Array\(buffer\)/],
    ] as const)
      expect(() => new BufferMemory([{ firstPfn: 1, bytes }])).toThrow(
        expect.objectContaining({ code: "bad-range", message: expect.stringMatching(message) as unknown }),
      );
    expect(() => new BufferMemory([{ firstPfn: 1, bytes: new Uint8Array(new ArrayBuffer(8200), 4, 4096) }])).toThrow(
      /aligned/,
    );
  });

  it("takes shared buffers at any multiple of 8 bytes", () => {
    const words = new Int32Array(new SharedArrayBuffer(64));
    expect(sharedEntries(words.subarray(4))?.byteOffset).toBe(16);
    expect(() => sharedEntries(words.subarray(1))).toThrow(expect.objectContaining({ code: "bad-range" }));
  });

  it("says so when a buffer has gone from under it, as WebAssembly memory does when it grows, instead of having no RAM", () => {
    const bytes = new Uint8Array(2 * 4096);
    const memory = new BufferMemory([
      { firstPfn: 0, bytes: new Uint8Array(4096) },
      { firstPfn: 4, bytes },
    ]);
    expect(memory.read(4 * 4096, new Uint8Array(4))).toBe(true);
    structuredClone(bytes.buffer, { transfer: [bytes.buffer] });
    const uses = [
      () => memory.read(4 * 4096, new Uint8Array(4)),
      () => memory.write(4 * 4096, Uint8Array.of(1)),
      () => memory.fetch(4 * 4096, new Int32Array(2)),
      () => memory.writeWord(4 * 4096, 1),
      () => memory.compareExchange(4 * 4096, 0, 1),
      () => memory.window(4),
    ];
    const error = expect.objectContaining({
      code: "bad-range",
      message: expect.stringContaining(
        "expected the buffer of the region at frame 4, got one that is detached",
      ) as string,
    }) as Error;
    for (const use of uses) expect(use).toThrow(error);
    expect(memory.read(0, new Uint8Array(4))).toBe(true);
    // Where no region was, there is no RAM, as before.
    for (const gpa of [4096, 4 * 4096 - 4, 6 * 4096]) expect(memory.read(gpa, new Uint8Array(4))).toBe(false);
    for (const gpa of [4 * 4096 - 2, 5 * 4096, 6 * 4096 - 2])
      expect(() => memory.read(gpa, new Uint8Array(4))).toThrow(error);
  });
});

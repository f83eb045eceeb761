import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { SparseMemory } from "../src/machine/sparse-memory.js";

const RAM = [
  { firstPfn: 0, pageCount: 2 },
  { firstPfn: 4, pageCount: 1 },
];
const END = 6 * 4096;

function isRam(gpa: number, byteLength: number): boolean {
  for (let at = gpa; at < gpa + byteLength; at++) if (at >= 5 * 4096 || (at >= 2 * 4096 && at < 4 * 4096)) return false;
  return true;
}

describe("sparse memory", () => {
  it("agrees with a plain array of bytes, and refuses what is not RAM", () => {
    const action = fc.record({
      kind: fc.constantFrom("read", "write", "word", "exchange"),
      gpa: fc.nat(END - 1),
      bytes: fc.uint8Array({ minLength: 1, maxLength: 40 }),
    });
    fc.assert(
      fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
        const memory = new SparseMemory(RAM);
        const model = new Uint8Array(END + 64);
        const modelWord = (gpa: number): number => new DataView(model.buffer).getInt32(gpa, true);
        for (const { kind, gpa, bytes } of actions) {
          const aligned = gpa - (gpa % 4);
          const word = bytes[0] ?? 0;
          if (kind === "read") {
            const into = new Uint8Array(bytes.length);
            expect(memory.read(gpa, into)).toBe(isRam(gpa, bytes.length));
            if (isRam(gpa, bytes.length)) expect(into).toEqual(model.slice(gpa, gpa + bytes.length));
          } else if (kind === "write") {
            expect(memory.write(gpa, bytes)).toBe(isRam(gpa, bytes.length));
            if (isRam(gpa, bytes.length)) model.set(bytes, gpa);
          } else if (kind === "word") {
            expect(memory.writeWord(aligned, word - 100)).toBe(isRam(aligned, 4));
            if (isRam(aligned, 4)) new DataView(model.buffer).setInt32(aligned, word - 100, true);
          } else {
            const expected = word % 2 === 0 ? modelWord(aligned) : 0;
            const swaps = isRam(aligned, 4) && modelWord(aligned) === expected;
            expect(memory.compareExchange(aligned, expected, word)).toBe(swaps);
            if (swaps) new DataView(model.buffer).setInt32(aligned, word, true);
          }
          const into = new Int32Array(1);
          expect(memory.fetch(aligned, into)).toBe(isRam(aligned, 4));
          if (isRam(aligned, 4)) expect(into[0]).toBe(modelWord(aligned));
          const window = memory.window(Math.floor(aligned / 4096));
          expect(window?.words[(aligned % 4096) / 4]).toBe(isRam(aligned, 4) ? modelWord(aligned) : undefined);
        }
      }),
    );
  });
});

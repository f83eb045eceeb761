/**
 * Reading table entries, with and without windows of RAM, and the arithmetic of indexes, against plain arithmetic on the same memory.
 */

import { FakeMemory } from "@iommu-kit/iommu-core/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EntryReader } from "../src/translate/entry-reader.js";
import { levelSpan, offsetInBlock, tableIndex } from "../src/translate/table-index.js";

describe("a reader of table entries", () => {
  it("answers what memory holds at that moment, whatever the host shows of it and takes back", () => {
    const step = fc.record({
      do: fc.constantFrom("read", "read", "read", "write", "poison", "heal", "window"),
      pfn: fc.constantFrom(0, 1, 15, 16, 17, 40, 63, 64, 2 ** 20, 2 ** 20 + 1, 2 ** 20 + 15, 2 ** 39),
      index: fc.constantFrom(0, 1, 255, 511),
      low: fc.integer(),
      high: fc.integer(),
    });
    fc.assert(
      fc.property(fc.boolean(), fc.array(step, { maxLength: 40 }), (windows, steps) => {
        const memory = new FakeMemory({
          windows,
          ram: [
            { firstPfn: 0, pageCount: 64 },
            { firstPfn: 2 ** 20, pageCount: 16 },
          ],
        });
        const reader = new EntryReader(memory);
        const poisoned = new Set<number>();
        for (const { do: what, pfn, index, low, high } of steps) {
          const gpa = pfn * 4096 + index * 8;
          const there = (pfn < 64 || (pfn >= 2 ** 20 && pfn < 2 ** 20 + 16)) && !poisoned.has(pfn);
          if (what === "write" && there) memory.pokeEntry(gpa, low, high);
          if (what === "poison") {
            memory.poison(pfn);
            poisoned.add(pfn);
          }
          if (what === "heal") {
            memory.heal(pfn);
            poisoned.delete(pfn);
          }
          if (what === "window") {
            const window = reader.windowOf(pfn);
            if (!there || !windows) expect(window).toBeUndefined();
            else if (window !== undefined) {
              expect(window.words[(pfn - window.firstPfn) * 1024 + index * 2]).toBe(memory.peek(gpa));
            }
          }
          if (what !== "read") continue;
          expect(reader.fetch(pfn, index)).toBe(there);
          if (there) expect([reader.low, reader.high]).toEqual([memory.peek(gpa), memory.peek(gpa + 4)]);
          const at = reader.locate(pfn, index);
          expect(at >= 0).toBe(there);
          if (there) expect([...reader.words.subarray(at, at + 2)]).toEqual([memory.peek(gpa), memory.peek(gpa + 4)]);
          // The same through an entry that points there, whatever its other bits are.
          const entry = [
            ((pfn % 2 ** 20) << 12) | (low & 0xfff),
            Math.floor(pfn / 2 ** 20) | (high & ~0xfffff),
          ] as const;
          const behind = reader.follow(...entry, index);
          expect(behind >= 0).toBe(there);
          if (there)
            expect([...reader.words.subarray(behind, behind + 2)]).toEqual([memory.peek(gpa), memory.peek(gpa + 4)]);
        }
      }),
      { numRuns: 120 },
    );
  });

  it("asks the memory port for nothing that it can see", () => {
    const memory = new FakeMemory({ windows: true });
    memory.pokeEntry(17 * 4096 + 8, 5, 6);
    memory.pokeEntry(18 * 4096, 7, 8);
    const reader = new EntryReader(memory);
    memory.resetCounters();
    expect([reader.fetch(17, 1), reader.low, reader.high]).toEqual([true, 5, 6]);
    expect([reader.fetch(18, 0), reader.low, reader.high]).toEqual([true, 7, 8]);
    expect(memory.counters).toMatchObject({ reads: 0, fetches: 0 });
  });
});

describe("indexes", () => {
  it("are nine bits of the frame for each level", () => {
    fc.assert(
      fc.property(
        fc.maxSafeNat().map((pfn) => pfn % 2 ** 52),
        fc.integer({ min: 1, max: 5 }),
        (pfn, level) => {
          expect(tableIndex(pfn, level)).toBe(Number((BigInt(pfn) >> BigInt((level - 1) * 9)) & 511n));
          expect(levelSpan(level)).toBe(512 ** (level - 1));
        },
      ),
    );
    fc.assert(
      fc.property(
        fc.maxSafeNat().map((pfn) => pfn % 2 ** 52),
        fc.integer({ min: 0, max: 30 }),
        (pfn, order) => {
          expect(offsetInBlock(pfn, 2 ** order)).toBe(pfn % 2 ** order);
        },
      ),
    );
  });
});

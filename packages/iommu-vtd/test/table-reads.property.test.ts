/**
 * Reading table entries, with and without windows of RAM, and the arithmetic of indexes, against plain arithmetic on the same memory.
 */

import { BufferMemory } from "@iommu-kit/iommu-core";
import { FakeMemory } from "@iommu-kit/iommu-core/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { TableReader } from "../src/scan/table-reader.js";
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

  it("reads shared RAM and RAM of one thread alike, in any order, however many windows there are", () => {
    // Nine windows, two of three shared with other threads.
    const regions = Array.from({ length: 9 }, (_, i) => {
      const buffer = i % 3 === 0 ? new ArrayBuffer(2 * 4096) : new SharedArrayBuffer(2 * 4096);
      return { firstPfn: i < 6 ? i * 4 : 2 ** 20 + i * 2, bytes: new Uint8Array(buffer) };
    });
    const memory = new BufferMemory(regions);
    const frames = regions.flatMap(({ firstPfn }) => [firstPfn, firstPfn + 1]);
    const step = fc.record({
      pfn: fc.constantFrom(...frames, 2, 2 ** 20),
      index: fc.constantFrom(0, 1, 511),
      low: fc.integer(),
      high: fc.integer(),
      writes: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        for (const { bytes } of regions) bytes.fill(0);
        const model = new Map<number, readonly [number, number]>();
        const reader = new EntryReader(memory);
        const tables = new TableReader(memory);
        for (const { pfn, index, low, high, writes } of steps) {
          const gpa = pfn * 4096 + index * 8;
          const there = frames.includes(pfn);
          if (writes) {
            expect([memory.writeWord(gpa, low), memory.writeWord(gpa + 4, high)]).toEqual([there, there]);
            model.set(gpa, [low, high]);
          }
          const [wantedLow, wantedHigh] = model.get(gpa) ?? [0, 0];
          expect(reader.fetch(pfn, index)).toBe(there);
          if (there) expect([reader.low, reader.high]).toEqual([wantedLow, wantedHigh]);
          const words = tables.read(pfn, 1, index, index + 1);
          expect(words !== undefined).toBe(there);
          const at = tables.firstWord + index * 2;
          if (words !== undefined) expect([...words.subarray(at, at + 2)]).toEqual([wantedLow, wantedHigh]);
        }
      }),
      { numRuns: 120 },
    );
  });

  it("refuses shared windows in which entries are not aligned, and says how to lay them", () => {
    const words = new Int32Array(new SharedArrayBuffer(4 + 4096), 4);
    const memory = Object.assign(new BufferMemory([]), { window: () => ({ firstPfn: 0, pageCount: 1, words }) });
    expect(() => new EntryReader(memory).fetch(0, 0)).toThrow(
      expect.objectContaining({ code: "bad-range", hint: expect.stringContaining("aligned") as string }) as Error,
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

  it("hands a table out by integers wherever it lies: one of 8 GiB or more into a window as a view of its own", () => {
    const asked: (number | undefined)[][] = [];
    const far = new Int32Array(1024);
    // Stands for a window of 16 GiB.
    class Words extends Int32Array {
      override subarray(begin?: number, end?: number): Int32Array<ArrayBuffer> {
        asked.push([begin, end]);
        return far;
      }
    }
    const memory = new FakeMemory({ windows: true });
    const words = new Words(1);
    const reader = new TableReader(
      Object.assign(Object.create(memory) as FakeMemory, {
        window: () => ({ firstPfn: 16, pageCount: 2 ** 22, words }),
      }),
    );
    expect(reader.read(16 + 2 ** 21 - 1, 1, 0, 512)).toBe(words);
    expect([reader.firstWord, asked]).toEqual([2 ** 31 - 1024, []]);
    expect(reader.read(16 + 2 ** 21, 1, 0, 512)).toBe(far);
    expect([reader.firstWord, asked]).toEqual([0, [[2 ** 31, 2 ** 31 + 1024]]]);
  });
});

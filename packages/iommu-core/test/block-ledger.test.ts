import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { alignedBlock, BlockLedger } from "../src/notify/block-ledger.js";

const step = fc.record({
  add: fc.boolean(),
  first: fc.oneof(fc.nat(2000), fc.constantFrom(2 ** 18, 2 ** 36, 2 ** 51)),
  order: fc.oneof(fc.nat(5), fc.constantFrom(9, 10, 18)),
});

describe("BlockLedger", () => {
  it("equals a list of blocks: which one holds a frame, and which touch a range", () => {
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 40 }),
        fc.nat(2200),
        fc.integer({ min: 1, max: 2 ** 20 }),
        (steps, from, count) => {
          const ledger = new BlockLedger();
          let model: { first: number; pages: number }[] = [];
          for (const { add, first: near, order } of steps) {
            const pages = 2 ** order;
            const first = near - (near % pages);
            const overlaps = model.some((block) => block.first < first + pages && first < block.first + block.pages);
            if (add && !overlaps) {
              ledger.add(first, pages);
              model.push({ first, pages });
            } else if (!add) {
              ledger.remove(first);
              model = model.filter((block) => block.first !== first);
            }
          }
          expect(ledger.blockCount).toBe(model.length);
          for (const { first, pages } of model) {
            for (const pfn of [first, first + pages - 1]) expect(ledger.pagesAt(pfn)).toBe(pages);
          }
          const holder = model.find(({ first, pages }) => from >= first && from < first + pages);
          expect(ledger.pagesAt(from)).toBe(holder?.pages ?? 0);
          const touching = model.filter(({ first, pages }) => first < from + count && from < first + pages);
          expect(ledger.touching(from, count)).toEqual(touching.map(({ first }) => first).sort((a, b) => a - b));
          expect(ledger.touching(0, 2 ** 52)).toHaveLength(model.length);
          const most = 1 + (from % 5);
          const [beyond] = ledger.touching(from, count).slice(most);
          expect(ledger.framesOf(from, count, most)).toBe(beyond === undefined ? count : beyond - from);
          ledger.clear();
          expect(ledger.touching(0, 2 ** 52)).toEqual([]);
        },
      ),
    );
  });

  it("finds the largest aligned block that fits", () => {
    fc.assert(
      fc.property(fc.nat(2 ** 20), fc.integer({ min: 1, max: 2 ** 20 }), fc.nat(20), (first, count, order) => {
        const pages = alignedBlock(first, count, 2 ** order);
        expect(first % pages).toBe(0);
        expect(pages).toBeLessThanOrEqual(Math.min(count, 2 ** order));
        const double = pages * 2;
        expect(double > count || double > 2 ** order || first % double !== 0).toBe(true);
      }),
    );
  });
});

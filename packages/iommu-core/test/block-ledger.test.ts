import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { alignedBlock, BlockLedger } from "../src/notify/block-ledger.js";

interface Block {
  readonly first: number;
  readonly pages: number;
}

/** Three tables of frames, so that ranges begin and end within, at and between them. */
const FRAMES = 3 * 512;
const step = fc.record({
  add: fc.boolean(),
  first: fc.oneof(fc.nat(FRAMES), fc.nat(20), fc.constantFrom(512, 1024, 2 ** 18, 2 ** 36, 2 ** 51)),
  order: fc.oneof(fc.nat(2), fc.constantFrom(5, 8, 9, 10, 18)),
});
const range = fc.record({
  from: fc.oneof(fc.nat(FRAMES), fc.constantFrom(0, 511, 512, 513, 1024)),
  count: fc.oneof(
    fc.integer({ min: 1, max: FRAMES }),
    fc.constantFrom(1, 511, 512, 513, 1024, 2 ** 20, 2 ** 37, 2 ** 51),
  ),
  most: fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constantFrom(Infinity)),
});

/** Does the same to a ledger and to a list. */
function play(steps: readonly { readonly add: boolean; readonly first: number; readonly order: number }[]) {
  const ledger = new BlockLedger();
  let model: Block[] = [];
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
  return { ledger, model: model.sort((a, b) => a.first - b.first) };
}

describe("BlockLedger", () => {
  it("equals a list of blocks: which one holds a frame", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), fc.array(fc.nat(FRAMES), { minLength: 20 }), (steps, frames) => {
        const { ledger, model } = play(steps);
        expect(ledger.blockCount).toBe(model.length);
        for (const { first, pages } of model)
          for (const pfn of [first, first + pages - 1]) expect(ledger.pagesAt(pfn)).toBe(pages);
        for (const pfn of frames) {
          const holder = model.find(({ first, pages }) => pfn >= first && pfn < first + pages);
          expect(ledger.pagesAt(pfn)).toBe(holder?.pages ?? 0);
        }
        ledger.clear();
        expect(ledger.touching(0, 2 ** 52)).toEqual([]);
        expect(ledger.blockCount).toBe(0);
      }),
    );
  });

  it("equals a list of blocks: which touch a range, and how far no more than a number of them do", () => {
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 10, maxLength: 80 }),
        fc.array(range, { minLength: 25, maxLength: 25 }),
        (steps, ranges) => {
          const { ledger, model } = play(steps);
          for (const { from, count, most } of ranges) {
            const touching = model.filter(({ first, pages }) => first < from + count && from < first + pages);
            expect(ledger.touching(from, count)).toEqual(touching.map(({ first }) => first));
            const beyond = touching[most]?.first;
            expect(ledger.framesOf(from, count, most)).toBe(beyond === undefined ? count : beyond - from);
          }
        },
      ),
    );
  });

  it("finds blocks in ascending order, in whichever they came", () => {
    const ledger = new BlockLedger();
    for (const first of [2 ** 20, 2048, 513, 0, 100_352, 2 ** 30, 1024, 512]) ledger.add(first, 1);
    expect(ledger.touching(0, 2 ** 40)).toEqual([0, 512, 513, 1024, 2048, 100_352, 2 ** 20, 2 ** 30]);
    expect(ledger.framesOf(0, 2 ** 40, 4)).toBe(2048);
  });

  it("counts the blocks of whole tables", () => {
    const ledger = new BlockLedger();
    for (let first = 0; first < FRAMES; first += 4) ledger.add(first, 4);
    for (const [from, end, most, frames] of [
      [0, FRAMES, 127, 508],
      [0, FRAMES, 128, 512],
      [0, FRAMES, 129, 516],
      [0, FRAMES, 256, 1024],
      [0, FRAMES, 384, FRAMES],
      [1, 512, 128, 511],
      [4, 512 + 4, 128, 512],
      [4, 512 + 5, 128, 512],
      [508, FRAMES, 129, 516],
      [510, FRAMES, 130, 518],
      [512, 1024, 128, 512],
      [512, 1023, 128, 511],
      [512, 1025, 128, 512],
    ] as const)
      expect(ledger.framesOf(from, end - from, most)).toBe(frames);
  });

  it("finds the largest aligned block that fits", () => {
    for (let first = 0; first <= 64; first++) {
      for (let count = 1; count <= 40; count++) {
        const sizes = [1, 2, 4, 8, 16, 32, 64].filter((pages) => pages <= count && first % pages === 0);
        const found = [1, 4, 64].map((limit) => alignedBlock(first, count, limit));
        expect(found).toEqual([1, 4, 64].map((limit) => Math.max(...sizes.filter((pages) => pages <= limit))));
      }
    }
  });
});

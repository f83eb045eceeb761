/**
 * Targets that nobody may reach, against a list of frames: the interrupt window and any protected regions together.
 */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OutputFilter } from "../src/translate/output-filter.js";

/** Around the window, 0xfee00 to 0xfeeff. */
const pfn = fc.integer({ min: 0xfedf0, max: 0xfef10 });
const anywhere = fc.record({ firstPfn: pfn, pageCount: fc.integer({ min: 1, max: 40 }) });
/** Such that one often ends where the next begins. */
const aligned = anywhere.map(({ firstPfn, pageCount }) => ({
  firstPfn: firstPfn - (firstPfn % 16),
  pageCount: pageCount > 20 ? 32 : 16,
}));
const region = fc.oneof(anywhere, aligned);

describe("the filter of targets", () => {
  it("blocks the window and every protected frame, says which are protected, and finds any of them in a block", () => {
    fc.assert(
      fc.property(
        fc.array(fc.array(region, { maxLength: 3 }), { minLength: 1, maxLength: 2 }),
        pfn,
        fc.nat(60),
        (sets, at, count) => {
          const filter = new OutputFilter();
          for (const regions of sets) filter.protect(regions);
          const regions = sets.at(-1)!;
          const isProtected = (one: number): boolean =>
            regions.some(({ firstPfn, pageCount }) => one >= firstPfn && one < firstPfn + pageCount);
          const isBlocked = (one: number): boolean => (one >= 0xfee00 && one <= 0xfeeff) || isProtected(one);
          for (const one of [at, 0xfedff, 0xfee00, 0xfeeff, 0xfef00]) {
            expect(filter.protects(one)).toBe(isProtected(one));
            expect(filter.blocks(one)).toBe(isBlocked(one));
          }
          const edges = filter.blocked.flatMap(({ firstPfn, pageCount }) => [firstPfn, firstPfn + pageCount]);
          for (const first of [at, ...edges, ...edges.map((edge) => edge - count)]) {
            const block = Array.from({ length: count }, (_, offset) => first + offset);
            if (count > 0) expect(filter.touches(first, count)).toBe(block.some(isBlocked));
          }
          expect(filter.protectedRegions).toEqual(regions);
          // Ascending, with a gap between any two of them.
          let end = -1;
          for (const range of filter.blocked) {
            expect(range.firstPfn).toBeGreaterThan(end);
            end = range.firstPfn + range.pageCount;
          }
          const listed = filter.blocked.reduce((sum, range) => sum + range.pageCount, 0);
          let blocked = 0;
          for (let one = 0xfed00; one < 0xff000; one++) if (isBlocked(one)) blocked += 1;
          expect(listed).toBe(blocked);
        },
      ),
    );
  });

  it("blocks the window alone before anything is protected", () => {
    const filter = new OutputFilter();
    expect(filter.blocked).toEqual([{ firstPfn: 0xfee00, pageCount: 0x100 }]);
    expect([filter.protectedRegions, filter.protects(0xfee00)]).toEqual([[], false]);
    expect([0xfedff, 0xfee00, 0xfeeff, 0xfef00].map((one) => filter.blocks(one))).toEqual([false, true, true, false]);
  });
});

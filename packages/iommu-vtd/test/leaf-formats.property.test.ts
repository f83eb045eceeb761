/**
 * What a leaf entry says, by bit arithmetic of whole 64-bit numbers: rights by the tables above, nothing where a bit is reserved or where nobody may reach the target.
 */

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { secondStageFormats } from "../src/scan/leaf-formats.js";
import { reservedIndex } from "../src/spec/second-stage.js";
import { OutputFilter } from "../src/translate/output-filter.js";

/** Around the window, 0xfee00 to 0xfeeff, in the same place of other 4 GiB, and anywhere. */
const frame = fc.oneof(
  fc.integer({ min: 0xfedf8, max: 0xfef08 }),
  fc.tuple(fc.integer({ min: 0xfedf8, max: 0xfef08 }), fc.nat(3)).map(([low, high]) => high * 2 ** 20 + low),
  fc.nat(2 ** 40 - 1),
);
const entry = fc.record({ frame, low: fc.nat(0xfff), high: fc.nat(0xfff) });
const region = fc.record({
  firstPfn: fc.oneof(fc.integer({ min: 0xfedf0, max: 0xfef10 }), frame),
  pageCount: fc.integer({ min: 1, max: 40 }),
});
// Bits that differ from each other and from the window's.
const RESERVED_LOW = 0x800;
const RESERVED_HIGH = 0x4000_0000;

describe("the format of second-stage leaf entries", () => {
  it("keeps rights and target of entries that may be used, and nothing of others, whatever is protected", () => {
    let blocked = 0;
    let kept = 0;
    fc.assert(
      fc.property(
        fc.array(region, { maxLength: 2 }),
        fc.nat(3),
        fc.array(entry, { minLength: 1, maxLength: 20 }),
        (regions, rules, entries) => {
          const filter = new OutputFilter();
          const reserved = new Int32Array(24);
          reserved.set([RESERVED_LOW, RESERVED_HIGH], reservedIndex(1, 0));
          const formats = secondStageFormats(reserved, filter);
          // A format made before does not know of what is protected since.
          formats.of(rules);
          if (regions.length > 0) filter.protect(regions);
          const words = Int32Array.from(
            entries.flatMap(({ frame: pfn, low, high }) => [
              (pfn % 2 ** 20) * 4096 + low,
              Math.floor(pfn / 2 ** 20) + high * 2 ** 20,
            ]),
          );
          const expected = entries.flatMap(({ frame: pfn, low }, i) => {
            const access = low & rules & 3;
            const reaches =
              !(pfn >= 0xfee00 && pfn <= 0xfeeff) &&
              !regions.some(({ firstPfn, pageCount }) => pfn >= firstPfn && pfn < firstPfn + pageCount);
            const isReserved = (words[i * 2]! & RESERVED_LOW) !== 0 || (words[i * 2 + 1]! & RESERVED_HIGH) !== 0;
            if (access !== 0 && !isReserved && !reaches) blocked += 1;
            if (access === 0 || isReserved || !reaches) return [0, 0];
            kept += 1;
            return [(words[i * 2]! & ~3) | access, words[i * 2 + 1]!];
          });
          const behind = Int32Array.of(...words, 7, 7);
          formats.of(rules).decode(behind, entries.length);
          expect([...behind]).toEqual([...expected, 7, 7]);
        },
      ),
      { numRuns: 300 },
    );
    expect(blocked).toBeGreaterThan(20);
    expect(kept).toBeGreaterThan(100);
  });
});

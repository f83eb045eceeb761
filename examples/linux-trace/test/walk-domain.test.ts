import { type Domain, type FrameRange, LeafTable, type MappingSink } from "@iommu-kit/iommu-core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { walkDomain } from "../src/follow/walk-domain.js";

const HOLE: FrameRange = { firstPfn: 700, pageCount: 9 };

/** A domain of two leaf tables, at frames 512 and 1024, whose scan tells them as a backend does. */
function tables(entries: readonly Int32Array[]): Domain {
  return {
    kind: "table",
    label: "two tables",
    holes: [HOLE],
    scan(_range: FrameRange, sink: MappingSink) {
      const table = new LeafTable();
      for (const [index, words] of entries.entries()) {
        table.words = words;
        if (!sink.table(512 * (index + 1), table)) return;
      }
    },
  };
}

/** 512 entries from stretches: consecutive targets, or nothing. */
const table = fc
  .array(fc.record({ length: fc.integer({ min: 1, max: 200 }), gpaPfn: fc.nat(2 ** 30), access: fc.nat(3) }), {
    minLength: 1,
    maxLength: 20,
  })
  .map((stretches) => {
    const words = new Int32Array(1024);
    let at = 0;
    for (const { length, gpaPfn, access } of stretches) {
      for (let index = 0; index < length && at < 512; index++, at++) {
        if (access === 0) continue;
        words[at * 2] = ((gpaPfn + index) << 12) | access;
        words[at * 2 + 1] = Math.floor((gpaPfn + index) / 2 ** 20);
      }
    }
    return words;
  });

describe("a walk of a domain", () => {
  it("finds every page that its tables map in the range, outside of holes, in the longest runs", () => {
    fc.assert(
      fc.property(
        fc.tuple(table, table),
        fc.nat(1600),
        fc.integer({ min: 1, max: 1600 }),
        (entries, firstPfn, pageCount) => {
          const runs = walkDomain(tables(entries), [], { firstPfn, pageCount });
          const pages = new Map<number, string>();
          for (const run of runs) {
            for (let page = 0; page < run.pageCount; page++)
              pages.set(run.iovaPfn + page, `${run.gpaPfn + page}/${run.access}`);
          }
          const expected = new Map<number, string>();
          for (let pfn = Math.max(512, firstPfn); pfn < Math.min(1536, firstPfn + pageCount); pfn++) {
            if (pfn >= HOLE.firstPfn && pfn < HOLE.firstPfn + HOLE.pageCount) continue;
            const words = entries[Math.floor(pfn / 512) - 1] ?? new Int32Array(1024);
            const [low = 0, high = 0] = words.subarray((pfn % 512) * 2, (pfn % 512) * 2 + 2);
            if ((low & 3) !== 0) expected.set(pfn, `${high * 2 ** 20 + (low >>> 12)}/${low & 3}`);
          }
          expect(pages).toEqual(expected);
          for (const [index, run] of runs.entries()) {
            const before = runs[index - 1];
            const joins =
              before !== undefined &&
              before.iovaPfn + before.pageCount === run.iovaPfn &&
              before.gpaPfn + before.pageCount === run.gpaPfn &&
              before.access === run.access;
            expect(joins).toBe(false);
          }
        },
      ),
    );
  });

  it("finds the host's regions where requests pass, and nothing where they are refused", () => {
    const of = (kind: Domain["kind"]): Domain => ({ kind, label: kind, holes: [HOLE], scan: () => undefined });
    const all = { firstPfn: 0, pageCount: 2 ** 52 };
    const region = { firstPfn: 690, pageCount: 20 };
    expect(walkDomain(of("bypass"), [region], all)).toEqual([
      { iovaPfn: 690, pageCount: 10, gpaPfn: 690, access: 3 },
      { iovaPfn: 709, pageCount: 1, gpaPfn: 709, access: 3 },
    ]);
    expect(walkDomain(of("blocked"), [region], all)).toEqual([]);
  });
});

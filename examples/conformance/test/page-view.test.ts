import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PageView } from "../src/view/page-view.js";
import { ViewNotifier } from "../src/view/view-notifier.js";

const SMALL = 3000;

/** Ranges around block boundaries, in a space small enough for a naive map. */
const range = fc.record({
  first: fc.integer({ min: 0, max: SMALL - 1 }),
  pages: fc.oneof(fc.constantFrom(1, 511, 512, 513, 1024), fc.integer({ min: 1, max: 1500 })),
});
const change = fc.record({
  range,
  target: fc.integer({ min: 0, max: 2 ** 30 }),
  access: fc.integer({ min: 0, max: 3 }),
});

describe("PageView", () => {
  it("agrees with a map from page to target and rights after any changes", () => {
    fc.assert(
      fc.property(
        fc.array(change, { maxLength: 20 }),
        fc.constantFrom(0, 2 ** 18 - 1000, 2 ** 27 - 1500, 2 ** 36 - 100),
        (changes, base) => {
          const view = new PageView();
          const naive = new Map<number, number>();
          for (const {
            range: { first, pages },
            target,
            access,
          } of changes) {
            if (access === 0) view.clear(base + first, pages);
            else view.set(base + first, pages, target, access);
            for (let page = 0; page < pages; page++)
              naive.set(base + first + page, access === 0 ? 0 : (target + page) * 4 + access);
          }
          const mapped = new Map<number, number>();
          view.each(base, SMALL * 2, (first, pages, target, access) => {
            for (let page = 0; page < pages; page++) mapped.set(first + page, (target + page) * 4 + access);
          });
          expect(mapped).toEqual(new Map([...naive].filter(([, value]) => value !== 0).sort(([a], [b]) => a - b)));
          expect([...naive].filter(([pfn, value]) => view.at(pfn) !== value)).toEqual([]);
        },
      ),
      { numRuns: 100 },
    );
  });

  it("finds every page on which two views differ, and no other", () => {
    fc.assert(
      fc.property(fc.array(change, { maxLength: 8 }), fc.array(change, { maxLength: 8 }), range, (one, two, window) => {
        const views = [one, two].map((changes) => {
          const view = new PageView();
          for (const {
            range: { first, pages },
            target,
            access,
          } of changes)
            if (access === 0) view.clear(first, pages);
            else view.set(first, pages, target, access);
          return view;
        });
        const [mine, other] = views as [PageView, PageView];
        const found = new Set<number>();
        for (const { iovaPfn, pageCount, ...values } of mine.difference(
          other,
          { firstPfn: window.first, pageCount: window.pages },
          Infinity,
        )) {
          expect([values.mine, values.other]).toEqual([mine.at(iovaPfn), other.at(iovaPfn)]);
          for (let page = 0; page < pageCount; page++) found.add(iovaPfn + page);
        }
        const wrong: number[] = [];
        for (let page = window.first; page < window.first + window.pages; page++) {
          if (found.has(page) !== (mine.at(page) !== other.at(page))) wrong.push(page);
        }
        expect(wrong).toEqual([]);
        expect(found.size).toBeLessThanOrEqual(window.pages);
      }),
      { numRuns: 100 },
    );
  });

  it("calls a block and its 512 pages equal", () => {
    const [block, pages] = [new PageView(), new PageView()];
    block.set(512, 512, 4096, 3);
    for (let page = 0; page < 512; page++) pages.set(512 + page, 1, 4096 + page, 3);
    expect(block.difference(pages, { firstPfn: 0, pageCount: 2 ** 52 })).toEqual([]);
  });
});

describe("ViewNotifier", () => {
  it("reports pages that were unmapped and are mapped as before when the step ends", () => {
    const notifier = new ViewNotifier("page", "test");
    notifier.map(100, 8, 1000, 3);
    expect(notifier.settle()).toEqual([]);
    notifier.unmap(100, 8);
    notifier.map(102, 2, 1002, 3);
    expect(notifier.settle()).toEqual([
      { firstPfn: 102, pageCount: 1 },
      { firstPfn: 103, pageCount: 1 },
    ]);
    expect(notifier.settle()).toEqual([]);
  });

  it("does not object to a change of target or rights", () => {
    const notifier = new ViewNotifier("page", "test");
    notifier.map(100, 2, 1000, 3);
    notifier.unmap(100, 2);
    notifier.map(100, 1, 2000, 3);
    notifier.map(101, 1, 1001, 1);
    expect(notifier.settle()).toEqual([]);
    expect(notifier.breaches).toEqual([]);
  });

  it("objects to a map of held pages and to an unmap of others", () => {
    const notifier = new ViewNotifier("page", "test");
    notifier.map(100, 2, 1000, 3);
    notifier.map(101, 1, 1001, 3);
    notifier.unmap(101, 2);
    expect(notifier.breaches).toHaveLength(2);
  });

  it("objects, as a block notifier, to an unmap that cuts a block", () => {
    const notifier = new ViewNotifier("block", "test");
    notifier.map(0, 512, 4096, 3);
    notifier.map(512, 512, 9000, 3);
    notifier.unmap(0, 1024);
    expect(notifier.breaches).toEqual([]);
    notifier.map(0, 512, 4096, 3);
    notifier.unmap(0, 1);
    expect(notifier.breaches).toHaveLength(1);
  });
});

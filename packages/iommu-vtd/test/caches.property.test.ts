/**
 * The IOTLB and the context and PASID caches against naive lists: what they still answer after any sequence of fills and invalidations.
 */

import { type Access, Translation } from "@iommu-kit/iommu-core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type InterruptEntry, InterruptEntryCache } from "../src/interrupt/interrupt-entry-cache.js";
import { BindingCache } from "../src/translate/binding-cache.js";
import { Iotlb } from "../src/translate/iotlb.js";

interface Entry {
  readonly owner: number;
  readonly domainId: number;
  readonly pasid: number;
  readonly firstStage: boolean;
  readonly first: number;
  readonly pageCount: number;
  readonly target: number;
  readonly access: Access;
  readonly dirtyPending: boolean;
}

const owner = fc.integer({ min: 0, max: 3 });
const domainId = fc.integer({ min: 1, max: 3 });
const pasid = fc.integer({ min: 0, max: 2 });
const pageCount = fc.constantFrom(1, 1, 1, 512, 2 ** 18);
/** Near and far frames, and frames that fall into the same set. */
const iovaPfn = fc.oneof(
  fc.integer({ min: 0, max: 20 }),
  fc.integer({ min: 500, max: 1030 }),
  fc.integer({ min: 0, max: 40 }).map((n) => n * 4096),
  fc.constantFrom(2 ** 18, 2 ** 31 - 1, 2 ** 31, 2 ** 40 + 3, 2 ** 51, 2 ** 52 - 1),
);
const command = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant("fill" as const),
      owner,
      domainId,
      pasid,
      firstStage: fc.boolean(),
      iovaPfn,
      pageCount,
      block: fc.integer({ min: 0, max: 100 }),
      access: fc.constantFrom<Access>(1, 2, 3),
      dirtyPending: fc.boolean(),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("lookup" as const),
      owner,
      iovaPfn,
      wanted: fc.constantFrom<Access>(1, 2, 3),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("pages" as const),
      domainId,
      iovaPfn,
      order: fc.integer({ min: 0, max: 20 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("owner" as const), owner, iovaPfn, order: fc.integer({ min: 0, max: 52 }) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("domain" as const), domainId }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("firstStage" as const), domainId }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("pasid" as const), domainId, pasid }) },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("pasidPages" as const),
      domainId,
      pasid,
      iovaPfn,
      order: fc.integer({ min: 0, max: 20 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("all" as const) }) },
);

const overlaps = (entry: Entry, first: number, count: number): boolean =>
  entry.first < first + count && entry.first + entry.pageCount > first;

function compare(
  entryCount: number,
  commands: readonly (typeof command extends fc.Arbitrary<infer T> ? T : never)[],
): number {
  const iotlb = new Iotlb(entryCount);
  const out = new Translation();
  let model: Entry[] = [];
  let hits = 0;
  const drop = (picks: (entry: Entry) => boolean): void => {
    model = model.filter((entry) => !picks(entry));
  };
  for (const step of commands) {
    if (step.do === "fill") {
      const first = step.iovaPfn - (step.iovaPfn % step.pageCount);
      const target = step.block * step.pageCount;
      const { owner: who, domainId: did, pasid: ps, firstStage, access, dirtyPending } = step;
      drop((entry) => entry.owner === who && entry.first === first && entry.pageCount === step.pageCount);
      model.push({
        owner: who,
        domainId: did,
        pasid: ps,
        firstStage,
        first,
        pageCount: step.pageCount,
        target,
        access,
        dirtyPending,
      });
      iotlb.fill(who, { domainId: did, pasid: ps, firstStage }, step.iovaPfn, {
        gpaPfn: target + (step.iovaPfn - first),
        access,
        pageCount: step.pageCount,
        dirtyPending,
      });
      // What was filled last is there, with the rights that need no further walk. (An older leaf of another size that the guest has not invalidated may stand before it.)
      const usable = (dirtyPending ? access & 1 : access) as Access;
      const alone = model.filter((entry) => entry.owner === who && overlaps(entry, step.iovaPfn, 1)).length === 1;
      if (usable !== 0 && alone) {
        const found = iotlb.lookup(who, step.iovaPfn, usable, out);
        expect(found).toBe(entryCount > 0);
        if (found) hits += 1;
      }
    } else if (step.do === "lookup") {
      const found = iotlb.lookup(step.owner, step.iovaPfn, step.wanted, out);
      if (!found) continue;
      hits += 1;
      // It may have forgotten what it was told, but it may not make anything up.
      const known = model.some(
        (entry) =>
          entry.owner === step.owner &&
          overlaps(entry, step.iovaPfn, 1) &&
          entry.target + (step.iovaPfn - entry.first) === out.gpaPfn &&
          entry.access === out.access &&
          entry.pageCount === out.pageCount &&
          (step.wanted & ~(entry.dirtyPending ? entry.access & 1 : entry.access)) === 0,
      );
      expect(known).toBe(true);
    } else if (step.do === "pages") {
      const count = 2 ** step.order;
      const first = step.iovaPfn - (step.iovaPfn % count);
      iotlb.invalidatePages(step.domainId, first, count);
      drop((entry) => entry.domainId === step.domainId && overlaps(entry, first, count));
    } else if (step.do === "owner") {
      const count = 2 ** step.order;
      const first = step.iovaPfn - (step.iovaPfn % count);
      iotlb.invalidateOwner(step.owner, first, count);
      drop((entry) => entry.owner === step.owner && overlaps(entry, first, count));
    } else if (step.do === "domain") {
      iotlb.invalidateDomain(step.domainId);
      drop((entry) => entry.domainId === step.domainId);
    } else if (step.do === "firstStage") {
      iotlb.invalidateFirstStage(step.domainId);
      drop((entry) => entry.domainId === step.domainId && entry.firstStage);
    } else if (step.do === "pasid") {
      iotlb.invalidatePasid(step.domainId, step.pasid);
      drop((entry) => entry.domainId === step.domainId && entry.pasid === step.pasid);
    } else if (step.do === "pasidPages") {
      const count = 2 ** step.order;
      const first = step.iovaPfn - (step.iovaPfn % count);
      iotlb.invalidatePasidPages(step.domainId, step.pasid, first, count);
      drop(
        (entry) =>
          entry.domainId === step.domainId &&
          entry.pasid === step.pasid &&
          entry.firstStage &&
          overlaps(entry, first, count),
      );
    } else {
      iotlb.invalidateAll();
      model = [];
    }
    expect(iotlb.size).toBeLessThanOrEqual(Math.max(model.length, 0));
  }
  return hits;
}

describe("the IOTLB", () => {
  for (const entryCount of [0, 8, 64, 4096]) {
    it(`of ${entryCount} entries never answers what was invalidated or never filled`, () => {
      let hits = 0;
      fc.assert(
        fc.property(fc.array(command, { maxLength: 120 }), (commands) => {
          hits += compare(entryCount, commands);
        }),
        { numRuns: 150 },
      );
      expect(hits > 0).toBe(entryCount > 0);
    });
  }

  it("forgets nothing that was not invalidated while no set is full, and counts what it answers", () => {
    const place = fc.record({
      owner: fc.integer({ min: 0, max: 1 }),
      page: fc.constantFrom(0, 1, 513, 2 ** 18 + 5),
      size: fc.constantFrom(0, 1, 2),
    });
    const places = fc.uniqueArray(place, {
      maxLength: 4,
      selector: ({ owner: who, page, size }) => `${who} ${page} ${size}`,
    });
    const facts = fc.record({
      domainId: fc.integer({ min: 1, max: 2 }),
      pasid: fc.integer({ min: 0, max: 1 }),
      firstStage: fc.boolean(),
      access: fc.constantFrom<Access>(1, 2, 3),
      dirtyPending: fc.boolean(),
    });
    const edit = fc.record({
      do: fc.constantFrom("pages", "ownerPages", "domain", "firstStage", "pasid", "pasidPages", "all", "nothing"),
      domainId: fc.integer({ min: 1, max: 3 }),
      pasid: fc.integer({ min: 0, max: 1 }),
      page: fc.constantFrom(0, 1, 2, 512, 513, 514, 1024, 2 ** 18, 2 ** 18 + 5, 2 ** 19),
      count: fc.constantFrom(1, 2, 512, 2 ** 18),
    });
    fc.assert(
      fc.property(
        fc.constantFrom(8, 4096),
        places,
        fc.array(facts, { minLength: 4, maxLength: 4 }),
        fc.array(edit, { maxLength: 3 }),
        (entryCount, filled, details, edits) => {
          const iotlb = new Iotlb(entryCount);
          let model: Entry[] = [];
          filled.forEach(({ owner: who, page, size }, index) => {
            const leafPages = [1, 512, 2 ** 18][size] ?? 1;
            const detail = details[index]!;
            const first = page - (page % leafPages);
            const target = (index + 1) * 2 ** 18;
            model = model.filter(
              (entry) => entry.owner !== who || entry.first !== first || entry.pageCount !== leafPages,
            );
            model.push({ owner: who, first, pageCount: leafPages, target, ...detail });
            const { access, dirtyPending } = detail;
            iotlb.fill(who, detail, page, {
              gpaPfn: target + page - first,
              access,
              pageCount: leafPages,
              dirtyPending,
            });
          });
          for (const { do: what, domainId: did, pasid: ps, page, count } of edits) {
            const first = page - (page % count);
            if (what === "pages") iotlb.invalidatePages(did, first, count);
            if (what === "ownerPages") iotlb.invalidateOwner(ps, first, count);
            if (what === "domain") iotlb.invalidateDomain(did);
            if (what === "firstStage") iotlb.invalidateFirstStage(did);
            if (what === "pasid") iotlb.invalidatePasid(did, ps);
            if (what === "pasidPages") iotlb.invalidatePasidPages(did, ps, first, count);
            if (what === "all") iotlb.invalidateAll();
            model = model.filter((entry) => {
              if (what === "nothing") return true;
              if (what === "all") return false;
              if (what === "ownerPages") return entry.owner !== ps || !overlaps(entry, first, count);
              const pasidNamed = !what.startsWith("pasid") || entry.pasid === ps;
              const stageNamed = !["firstStage", "pasidPages"].includes(what) || entry.firstStage;
              const pagesNamed = !what.toLowerCase().endsWith("pages") || overlaps(entry, first, count);
              return entry.domainId !== did || !pasidNamed || !stageNamed || !pagesNamed;
            });
            expect(iotlb.size).toBe(model.length);
          }
          const out = new Translation();
          let [hits, misses] = [iotlb.hits, iotlb.misses];
          for (const who of [0, 1])
            for (const page of [0, 1, 2, 512, 513, 2 ** 18 + 5, 2 ** 18 + 6])
              for (const wanted of [1, 2, 3] as const) {
                const smallest = model
                  .filter((entry) => entry.owner === who && overlaps(entry, page, 1))
                  .toSorted((one, other) => one.pageCount - other.pageCount)[0];
                const usable =
                  smallest === undefined ? 0 : smallest.dirtyPending ? smallest.access & 1 : smallest.access;
                const expected = (wanted & ~usable) === 0;
                expect(iotlb.lookup(who, page, wanted, out)).toBe(expected);
                if (expected) hits += 1;
                else misses += 1;
                if (expected && smallest !== undefined)
                  expect([out.gpaPfn, out.pageCount, out.access]).toEqual([
                    smallest.target + page - smallest.first,
                    smallest.pageCount,
                    smallest.access,
                  ]);
              }
          expect([iotlb.hits, iotlb.misses]).toEqual([hits, misses]);
        },
      ),
      { numRuns: 100 },
    );
  });

  it("gives up the leaves of a full set one after the other", () => {
    const iotlb = new Iotlb(4);
    const tag = { domainId: 1, pasid: 0, firstStage: false };
    const out = new Translation();
    const fill = (pfn: number): void =>
      iotlb.fill(0, tag, pfn, { gpaPfn: pfn, access: 3, pageCount: 1, dirtyPending: false });
    const held = (): number[] =>
      Array.from({ length: 12 }, (_, pfn) => pfn).filter((pfn) => iotlb.lookup(0, pfn, 1, out));
    for (let pfn = 0; pfn < 5; pfn++) fill(pfn);
    expect(held()).toHaveLength(4);
    expect(held()).toContain(4);
    for (let pfn = 5; pfn < 8; pfn++) fill(pfn);
    expect(held()).toEqual([4, 5, 6, 7]);
    expect(iotlb.size).toBe(4);
    // What is there already takes no place of another.
    for (let round = 0; round < 5; round++) fill(6);
    expect(held()).toEqual([4, 5, 6, 7]);
    iotlb.invalidatePages(1, 5, 1);
    fill(9);
    expect(held()).toEqual([4, 6, 7, 9]);
  });

  it("keeps everything that fits", () => {
    const iotlb = new Iotlb(4096);
    const tag = { domainId: 1, pasid: 0, firstStage: false };
    for (let pfn = 0; pfn < 512; pfn++)
      iotlb.fill(0, tag, pfn, { gpaPfn: pfn + 7, access: 3, pageCount: 1, dirtyPending: false });
    let kept = 0;
    const out = new Translation();
    for (let pfn = 0; pfn < 512; pfn++) if (iotlb.lookup(0, pfn, 3, out) && out.gpaPfn === pfn + 7) kept += 1;
    expect(kept).toBe(512);
  });
});

describe("the context and PASID caches", () => {
  it("hold the latest values of at most so many keys, and nothing that was invalidated", () => {
    const operation = fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({
          do: fc.constant("fill" as const),
          key: fc.integer({ min: 0, max: 9 }),
          value: fc.nat(99),
        }),
      },
      { weight: 4, arbitrary: fc.record({ do: fc.constant("lookup" as const), key: fc.integer({ min: 0, max: 9 }) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant("some" as const), bit: fc.constantFrom(1, 2, 4) }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant("all" as const) }) },
    );
    fc.assert(
      fc.property(fc.constantFrom(0, 1, 4, 100), fc.array(operation, { maxLength: 100 }), (entryCount, operations) => {
        const cache = new BindingCache<number>(entryCount);
        const model = new Map<number, number>();
        for (const step of operations) {
          if (step.do === "fill") {
            cache.fill(step.key, step.value);
            model.set(step.key, step.value);
            if (entryCount > 0) expect(cache.lookup(step.key)).toBe(step.value);
          } else if (step.do === "lookup") {
            const found = cache.lookup(step.key);
            if (found !== undefined) expect(found).toBe(model.get(step.key));
            else if (model.has(step.key)) expect(entryCount).toBeLessThan(10);
          } else if (step.do === "some") {
            cache.invalidate((key) => (key & step.bit) !== 0);
            for (const key of model.keys()) if ((key & step.bit) !== 0) model.delete(key);
          } else {
            cache.invalidateAll();
            model.clear();
          }
          expect(cache.size).toBeLessThanOrEqual(entryCount);
        }
      }),
    );
  });

  it("are exactly what a list would be that gives up its oldest key, and count what they answer", () => {
    const operation = fc.record({
      do: fc.constantFrom("fill", "fill", "fill", "lookup", "lookup", "some", "all"),
      key: fc.integer({ min: 0, max: 6 }),
      value: fc.nat(99),
    });
    fc.assert(
      fc.property(fc.constantFrom(0, 1, 2, 5), fc.array(operation, { maxLength: 60 }), (entryCount, operations) => {
        const cache = new BindingCache<number>(entryCount);
        const model = new Map<number, number>();
        let [hits, misses] = [0, 0];
        for (const { do: what, key, value } of operations) {
          if (what === "fill") {
            cache.fill(key, value);
            const [oldest] = model.keys();
            if (entryCount > 0 && model.size >= entryCount && !model.has(key) && oldest !== undefined)
              model.delete(oldest);
            if (entryCount > 0) model.set(key, value);
          } else if (what === "lookup") {
            expect(cache.lookup(key)).toBe(model.get(key));
            if (model.has(key)) hits += 1;
            else misses += 1;
          } else if (what === "some") {
            cache.invalidate((one, held) => one === key || held === value);
            for (const [one, held] of model) if (one === key || held === value) model.delete(one);
          } else {
            cache.invalidateAll();
            model.clear();
          }
          expect([cache.size, cache.hits, cache.misses]).toEqual([model.size, hits, misses]);
        }
      }),
    );
  });

  it("replace the value of a key they hold without giving up another one", () => {
    const cache = new BindingCache<string>(2);
    cache.fill(1, "a");
    cache.fill(2, "b");
    cache.fill(2, "c");
    expect([cache.lookup(1), cache.lookup(2)]).toEqual(["a", "c"]);
  });
});

describe("the interrupt entry cache", () => {
  it("answers what was filled last for an index, and nothing that was invalidated", () => {
    const index = fc.oneof(fc.integer({ min: 0, max: 20 }), fc.constantFrom(255, 256, 257, 65_535));
    const operation = fc.oneof(
      { weight: 4, arbitrary: fc.record({ do: fc.constant("fill" as const), index, vector: fc.nat(255) }) },
      { weight: 4, arbitrary: fc.record({ do: fc.constant("lookup" as const), index }) },
      {
        weight: 1,
        arbitrary: fc.record({
          do: fc.constant("some" as const),
          first: index,
          count: fc.constantFrom(1, 2, 8, 2 ** 31),
        }),
      },
      { weight: 1, arbitrary: fc.record({ do: fc.constant("all" as const) }) },
    );
    const entryOf = (vector: number): InterruptEntry => ({
      kind: "posted",
      sourceValidation: { type: 0, qualifier: 0, sourceId: 0 },
      faultsDisabled: false,
      vector,
      urgent: false,
      descriptorGpa: 0,
    });
    let hits = 0;
    fc.assert(
      fc.property(fc.constantFrom(0, 1, 5, 256), fc.array(operation, { maxLength: 60 }), (entryCount, operations) => {
        const cache = new InterruptEntryCache(entryCount);
        const model = new Map<number, InterruptEntry>();
        for (const step of operations) {
          if (step.do === "fill") {
            const entry = entryOf(step.vector);
            cache.fill(step.index, entry);
            model.set(step.index, entry);
            expect(cache.lookup(step.index)).toBe(entryCount === 0 ? undefined : entry);
          } else if (step.do === "lookup") {
            const found = cache.lookup(step.index);
            if (found === undefined) continue;
            hits += 1;
            expect(found).toBe(model.get(step.index));
          } else if (step.do === "some") {
            cache.invalidate(step);
            for (const key of model.keys()) if (key >= step.first && key < step.first + step.count) model.delete(key);
          } else {
            cache.invalidate(undefined);
            model.clear();
          }
          expect(cache.size).toBeLessThanOrEqual(Math.min(model.size, entryCount * 2));
        }
      }),
    );
    expect(hits).toBeGreaterThan(0);
  });
});

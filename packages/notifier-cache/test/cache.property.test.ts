/**
 * Random guests against a naive history: for every page, the set of answers that were right at some time since the last invalidation that covered it.
 */
import { Access, type AddressSpace, Translation } from "@iommu-kit/iommu-core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CacheNotifier, type CacheShape, TranslationCache } from "../src/index.js";
import { FakeMachine } from "./fake-machine.js";

const FRAMES = 2048;

type Step =
  | {
      readonly do: "map";
      readonly pfn: number;
      readonly target: number;
      readonly access: Access;
      readonly large: boolean;
    }
  | { readonly do: "unmap"; readonly pfn: number }
  | { readonly do: "invalidate"; readonly pfn: number; readonly count: number }
  | { readonly do: "everything" }
  | { readonly do: "overtake"; readonly pfn: number; readonly target: number }
  | { readonly do: "use"; readonly pfn: number; readonly access: Access };

// Pages cluster, so that steps meet.
const pfn = fc.oneof(fc.nat({ max: 15 }), fc.nat({ max: FRAMES - 1 }), fc.constantFrom(511, 512, 513, 1023, 1024));
const access = fc.constantFrom<Access>(Access.read, Access.write, Access.readWrite);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("map" as const),
      pfn,
      target: fc.nat({ max: 99_999 }),
      access,
      large: fc.boolean(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("unmap" as const), pfn }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("invalidate" as const),
      pfn,
      count: fc.oneof(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: FRAMES })),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("everything" as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("overtake" as const), pfn, target: fc.nat({ max: 99_999 }) }) },
  { weight: 12, arbitrary: fc.record({ do: fc.constant("use" as const), pfn, access }) },
);
const shape: fc.Arbitrary<Required<CacheShape>> = fc.constantFrom(
  { entries: 1, ways: 1 },
  { entries: 8, ways: 2 },
  { entries: 16, ways: 16 },
  { entries: 256, ways: 4 },
);

/** Every answer that a page may still get: `"target/rights"`, or `"none"`. */
class History {
  readonly #answers: Set<string>[] = Array.from({ length: FRAMES }, () => new Set(["none"]));
  readonly #machine: FakeMachine;

  constructor(machine: FakeMachine) {
    this.#machine = machine;
  }

  now(frame: number): string {
    const entry = this.#machine.read(frame);
    return entry === undefined ? "none" : `${entry.gpaPfn}/${entry.access}`;
  }

  /** The table changed. */
  note(first: number, count: number): void {
    for (let frame = first; frame < first + count; frame++) this.#answers[frame]?.add(this.now(frame));
  }

  /** An invalidation has completed: only the present is right. */
  forget(first: number, count: number): void {
    for (let frame = first; frame < Math.min(FRAMES, first + count); frame++)
      this.#answers[frame] = new Set([this.now(frame)]);
  }

  allows(frame: number, answer: string): boolean {
    return this.#answers[frame]?.has(answer) === true;
  }

  list(frame: number): string[] {
    return [...(this.#answers[frame] ?? [])];
  }
}

class Guest {
  readonly machine = new FakeMachine();
  readonly history = new History(this.machine);
  readonly space: AddressSpace = this.machine.space;

  /** Changes the table; what overlaps the new block goes. */
  map(at: number, target: number, rights: Access, large: boolean): void {
    const span = large ? 512 : 1;
    const first = Math.floor(at / span) * span;
    this.remove(first, span);
    this.machine.map(first, target, rights, span);
    this.history.note(first, span);
  }

  remove(first: number, count: number): void {
    const block = Math.floor(first / 512) * 512;
    for (let frame = block; frame < first + count; frame++) {
      const large = frame === block;
      if (!large && frame < first) continue;
      const before = this.machine.read(frame);
      if (before === undefined) continue;
      // A large block around the page goes too; its other pages become unmapped.
      this.machine.unmap(frame);
    }
    this.history.note(block, Math.max(512, first + count - block));
  }
}

describe("property: a cache against the history of the guest's table", () => {
  it("never answers what was not right since the last covering invalidation, and never exceeds its size", () => {
    fc.assert(
      fc.property(shape, fc.array(step, { maxLength: 120 }), (sizes, steps) => {
        const guest = new Guest();
        const cache = new CacheNotifier(guest.space, sizes);
        guest.space.attach(cache);
        const out = new Translation();
        for (const each of steps) {
          if (each.do === "map") guest.map(each.pfn, each.target, each.access, each.large);
          else if (each.do === "unmap") guest.remove(each.pfn, 1);
          else if (each.do === "invalidate") {
            expect(guest.machine.invalidate(each.pfn, each.count)).toBeUndefined();
            guest.history.forget(each.pfn, each.count);
          } else if (each.do === "everything") {
            void guest.machine.invalidate();
            guest.history.forget(0, FRAMES);
          } else if (each.do === "overtake") {
            guest.machine.duringNextTranslation(() => {
              guest.map(each.pfn, each.target, Access.readWrite, false);
              void guest.machine.invalidate(each.pfn, 1);
              guest.history.forget(each.pfn, 1);
            });
          } else {
            use(cache, guest, each, out);
          }
          expect(cache.entryCount).toBeLessThanOrEqual(sizes.entries);
        }
        const { hits, misses, fills, evictions, flushedEntries } = cache.statistics;
        expect(hits + misses).toBe(steps.filter((each) => each.do === "use").length);
        expect(fills - evictions - flushedEntries).toBeGreaterThanOrEqual(cache.entryCount);
      }),
      { numRuns: 300 },
    );
  });
});

function use(
  cache: CacheNotifier,
  guest: Guest,
  each: { readonly pfn: number; readonly access: Access },
  out: Translation,
): void {
  const atRequest = guest.machine.read(each.pfn);
  const answered = cache.translate(each.pfn, each.access, out);
  if (!answered) {
    // A refusal is of the table as it was asked, or as it became meanwhile: refusals are not remembered.
    const tables = [atRequest, guest.machine.read(each.pfn)];
    expect(tables.some((entry) => entry === undefined || (entry.access & each.access) !== each.access)).toBe(true);
    return;
  }
  expect(out.access & each.access).toBe(each.access);
  // The answer speaks for its whole block: check its ends and its middle.
  const first = each.pfn - (each.pfn % out.pageCount);
  for (const frame of [each.pfn, first, first + out.pageCount - 1, first + Math.floor(out.pageCount / 2)]) {
    const answer = `${out.gpaPfn + frame - each.pfn}/${out.access}`;
    expect(
      guest.history.allows(frame, answer),
      `page ${frame}: ${answer} is none of ${guest.history.list(frame).join(" ")}`,
    ).toBe(true);
  }
}

describe("property: TranslationCache against a list", () => {
  it("holds the newest answer of every page that it holds, and drops what an invalidation touches", () => {
    const operation = fc.oneof(
      fc.record({
        insert: pfn,
        target: fc.integer({ min: 2048, max: 99_999 }),
        size: fc.constantFrom(1, 2, 512, 1024),
        access,
      }),
      fc.record({ drop: pfn, count: fc.integer({ min: 1, max: 700 }) }),
    );
    fc.assert(
      fc.property(shape, fc.array(operation, { maxLength: 60 }), (sizes, operations) => {
        const cache = new TranslationCache(sizes);
        const naive = new Map<number, { readonly gpaPfn: number; readonly access: Access }>();
        const answer = new Translation();
        for (const each of operations) {
          if ("insert" in each) {
            answer.allow(each.target, each.size, each.access);
            expect(cache.insert(each.insert, answer, () => true)).not.toBe("outside");
            const span = each.size >= 512 ? 512 : 1;
            const first = Math.floor(each.insert / span) * span;
            for (let i = first; i < first + span; i++)
              naive.set(i, { gpaPfn: each.target + i - each.insert, access: each.access });
          } else {
            cache.invalidate(each.drop, each.count);
            for (let i = each.drop; i < each.drop + each.count; i++) naive.delete(i);
          }
        }
        let heldPages = 0;
        for (let frame = 0; frame < FRAMES; frame++) {
          if (!cache.lookup(frame, Access.none, answer) && !cache.lookup(frame, Access.write, answer)) continue;
          heldPages += 1;
          expect({ gpaPfn: answer.gpaPfn, access: answer.access }).toEqual(naive.get(frame));
        }
        expect(heldPages > 0).toBe(cache.entryCount > 0);
        const listed = [...cache.entries()].flatMap(({ iovaPfn, pageCount, gpaPfn, access: rights }) =>
          Array.from({ length: pageCount }, (_, i) => [iovaPfn + i, { gpaPfn: gpaPfn + i, access: rights }] as const),
        );
        expect([...cache.entries()].length).toBe(cache.entryCount);
        for (const [frame, target] of listed) expect(target).toEqual(naive.get(frame));
        expect(cache.clear()).toBeLessThanOrEqual(sizes.entries);
        expect(cache.entryCount).toBe(0);
      }),
      { numRuns: 200 },
    );
  });
});

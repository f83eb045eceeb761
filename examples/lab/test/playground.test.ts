import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { walkDomain } from "@iommu-kit/linux-trace/follow/walk-domain";
import { type Action, CONTEXTS, INVALIDATIONS, problemOf } from "../src/sessions/action.js";
import { Playground } from "../src/sessions/playground.js";
import { STRATEGIES, type Strategy } from "../src/sessions/session.js";
import { TOUR } from "../src/sessions/tour.js";

const SOURCE_ID = 0x18;
const DOMAIN_FLUSH: Action = { do: "invalidate", what: "domain" };
const WORK: Action = { do: "dma", iovaPfn: 0x10, pageCount: 8, access: 1 };

function totals(playground: Playground, strategy: Strategy): { vanishedPages: number; refusedRequests: number } {
  return playground.followed[strategy].get(SOURCE_ID)!.timeline.totals;
}

function shadowOf(playground: Playground, strategy: Strategy): unknown[] {
  return [...playground.machines[strategy].device.container.inner.ranges()];
}

function tablesOf(playground: Playground, strategy: Strategy): unknown[] {
  const { device, regions } = playground.machines[strategy];
  return walkDomain(device.space.domain, regions, { firstPfn: 0, pageCount: 2 ** 52 });
}

describe("the playground", () => {
  it("shows every live page vanish under the old strategy when a domain is flushed, and none under ours", () => {
    const playground = new Playground();
    playground.perform(WORK);
    const story = playground.perform(DOMAIN_FLUSH);
    expect(totals(playground, "old")).toMatchObject({ vanishedPages: 8 + 4 + 512, refusedRequests: 8 });
    expect(totals(playground, "ours")).toMatchObject({ vanishedPages: 0, refusedRequests: 0 });
    expect(story).toContain("524 under the old strategy, 0 under ours");
  });

  it("tells nobody of an edit before it is invalidated", () => {
    const playground = new Playground();
    playground.perform({ do: "map", iovaPfn: 0x40, gpaPfn: 0x140, pageCount: 1, access: 3, leafPages: 1 });
    for (const strategy of STRATEGIES)
      expect(shadowOf(playground, strategy)).not.toEqual(tablesOf(playground, strategy));
    playground.perform({ do: "invalidate", what: "page", iovaPfn: 0x40 });
    for (const strategy of STRATEGIES) expect(shadowOf(playground, strategy)).toEqual(tablesOf(playground, strategy));
  });

  it.each(INVALIDATIONS)("keeps live pages under ours on an invalidation that changes nothing: %s", (what) => {
    const playground = new Playground();
    playground.perform({ do: "invalidate", what, iovaPfn: 0x10 });
    const { recorder } = playground.followed.ours.get(SOURCE_ID)!;
    expect(recorder.last).toBeUndefined();
    expect(totals(playground, "old").vanishedPages > 0).toBe(what !== "page");
  });

  it("begins its tour with new machines after the user did something with these", () => {
    const playground = new Playground();
    playground.perform({ do: "detach", kind: "map" });
    playground.perform({ do: "translation", on: false });
    expect(playground.step()).toBe(true);
    expect(playground.story).toMatch(/^The tour begins with new machines\. /);
    expect(playground.tourStep).toBe(1);
    while (playground.step()) expect(playground.story).not.toContain("new machines");
    expect(totals(playground, "ours").vanishedPages).toBe(0);
    expect(totals(playground, "old").vanishedPages).toBeGreaterThan(0);
  });

  it.each<[Action, string]>([
    [{ do: "split", iovaPfn: 0x40 }, "There is no 2 MiB page at 0x40"],
    [{ do: "split", iovaPfn: 0x10 }, "There is no 2 MiB page at 0x10"],
    [{ do: "unmap", iovaPfn: 0x40, pageCount: 2 }, "None of these pages is mapped"],
  ])("refuses what makes no sense for these tables: %j", (action, sentence) => {
    expect(() => new Playground().perform(action)).toThrow(sentence);
  });

  it("says how DMA went by each way", () => {
    const playground = new Playground();
    expect(playground.perform(WORK)).toContain("8 of 8 pages reached, 0 from the cache");
    expect(playground.perform(WORK)).toContain("8 of 8 pages reached, 8 from the cache");
    expect(playground.perform({ do: "dma", iovaPfn: 0x20, pageCount: 1, access: 2 })).toContain("0 of 1 pages reached");
  });

  it("takes everything from a notifier that is detached, and replays for one that is attached", () => {
    const playground = new Playground();
    playground.perform({ do: "detach", kind: "map" });
    for (const strategy of STRATEGIES) expect(shadowOf(playground, strategy)).toEqual([]);
    playground.perform({ do: "attach", kind: "map" });
    for (const strategy of STRATEGIES) expect(shadowOf(playground, strategy)).toEqual(tablesOf(playground, strategy));
    playground.perform({ do: "detach", kind: "unmap" });
    playground.perform(WORK);
    expect(playground.machines.ours.device.cache.entryCount).toBe(0);
  });

  it("refuses what makes no sense, with a sentence, and changes nothing", () => {
    const playground = new Playground();
    const bad: Action = { do: "map", iovaPfn: 0x201, gpaPfn: 0x400, pageCount: 512, access: 3, leafPages: 512 };
    expect(() => playground.perform(bad)).toThrow(/multiples of 0x200/);
    expect(playground.position).toBe(0);
    expect(problemOf({ do: "dma", iovaPfn: Number.NaN, pageCount: 1, access: 1 })).toMatch(/hexadecimal/);
    expect(problemOf({ do: "unmap", iovaPfn: 2 ** 27 - 1, pageCount: 2 })).toMatch(/below 0x8000000/);
    expect(problemOf({ do: "dma", iovaPfn: 0, pageCount: 0, access: 1 })).toMatch(/1 to 512/);
    expect(problemOf({ do: "invalidate", what: "page" })).toMatch(/needs a page/);
    expect(problemOf({ do: "map", iovaPfn: 0, gpaPfn: 0x20000, pageCount: 1, access: 3, leafPages: 1 })).toMatch(
      /target page/,
    );
  });

  it("ends the tour with both shadows equal to the tables, and only the old one having lost anything", () => {
    const playground = new Playground();
    const { length } = playground;
    const said: string[] = [];
    while (playground.step()) said.push(playground.story);
    expect(said).toEqual(TOUR.map(({ say }) => say));
    expect(playground.position).toBe(length);
    expect(playground.length).toBe(length);
    for (const strategy of STRATEGIES) expect(shadowOf(playground, strategy)).toEqual(tablesOf(playground, strategy));
    expect(totals(playground, "ours")).toMatchObject({ vanishedPages: 0, refusedRequests: 0 });
    expect(totals(playground, "old").vanishedPages).toBeGreaterThan(2_000);
    expect(totals(playground, "old").refusedRequests).toBeGreaterThan(20);
  });

  it("plays on to the next step in which a shadow changes", () => {
    const playground = new Playground();
    expect(playground.stepToChange()).toBe(true);
    expect(playground.tourStep).toBe(3);
    while (playground.stepToChange());
    expect(playground.tourStep).toBe(TOUR.length);
  });

  it("property: whatever the user does, no page vanishes under ours, and a global flush makes both shadows the tables", () => {
    const page = fc.oneof(fc.integer({ min: 0x10, max: 0x34 }), fc.integer({ min: 0x200, max: 0x203 }));
    const action: fc.Arbitrary<Action> = fc.oneof(
      fc.record({
        do: fc.constant("map" as const),
        iovaPfn: page,
        gpaPfn: fc.integer({ min: 0x100, max: 0x110 }),
        pageCount: fc.integer({ min: 1, max: 4 }),
        access: fc.constantFrom(1 as const, 3 as const),
        leafPages: fc.constant(1 as const),
      }),
      fc.record({ do: fc.constant("unmap" as const), iovaPfn: page, pageCount: fc.integer({ min: 1, max: 4 }) }),
      fc.record({ do: fc.constant("invalidate" as const), what: fc.constantFrom(...INVALIDATIONS), iovaPfn: page }),
      fc.record({ do: fc.constant("context" as const), to: fc.constantFrom(...CONTEXTS) }),
      fc.record({
        do: fc.constant("dma" as const),
        iovaPfn: page,
        pageCount: fc.constant(2),
        access: fc.constant(1 as const),
      }),
      fc.constant<Action>({ do: "re-enable" }),
      fc.constant<Action>({ do: "split", iovaPfn: 0x200 }),
    );
    fc.assert(
      fc.property(fc.array(action, { maxLength: 12 }), (actions) => {
        const playground = new Playground();
        const last: readonly Action[] = [
          { do: "invalidate", what: "context-global" },
          { do: "invalidate", what: "global" },
        ];
        for (const each of [...actions, ...last])
          if (playground.machines.ours.problemOf(each) === undefined) playground.perform(each);
        expect(totals(playground, "ours").vanishedPages).toBe(0);
        for (const strategy of STRATEGIES)
          expect(shadowOf(playground, strategy)).toEqual(tablesOf(playground, strategy));
      }),
      { numRuns: 25 },
    );
  });
});

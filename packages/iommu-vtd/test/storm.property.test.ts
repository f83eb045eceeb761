/**
 * Random guests: edits of tables and contexts, invalidations of every kind, translation on and off, in any order. No call ever unmaps a page that stays mapped, and after the guest has
 * flushed everything, every notifier holds what its device reaches, and no cache answers anything else.
 */

import { RecordingFlushNotifier, RecordingNotifier, RunList } from "@iommu-kit/iommu-core/testing";
import { type Access, Translation } from "@iommu-kit/iommu-core";
import { Command, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { WatchedGuest } from "./support/watched-guest.js";

const DEVICES = ["00:03.0", "00:04.0"] as const;
const DOMAINS = [5, 6] as const;
const RAM = [
  { firstPfn: 0, pageCount: 0x80 },
  { firstPfn: 0x20000, pageCount: 0x8000 },
];

const domain = fc.constantFrom(...DOMAINS);
const device = fc.constantFrom(...DEVICES);
const frame = fc.oneof(
  fc.integer({ min: 0, max: 15 }),
  fc.integer({ min: 500, max: 530 }),
  fc.constantFrom(1023, 0xfee00, 2 ** 27),
);
const count = fc.integer({ min: 1, max: 6 });
const access = fc.constantFrom<Access>(1, 2, 3, 3);

/** One thing that a guest does. */
const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant("map" as const),
      domain,
      frame,
      count,
      access,
      target: fc.integer({ min: 0x30, max: 0x40 }),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("unmap" as const), domain, frame, count }) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("large" as const),
      domain,
      at: fc.constantFrom(0, 512),
      access,
      target: fc.constantFrom(0x1000, 0x1200, 0xfee00),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("split" as const), domain, frame }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("spoil" as const), domain, frame, level: fc.constantFrom(1, 2) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("lose" as const),
      domain,
      frame,
      level: fc.constantFrom(1, 2, 3),
      found: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant("context" as const),
      device,
      domain,
      kind: fc.constantFrom("table", "table", "table", "pass", "clear"),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ do: fc.constant("pages" as const), domain, frame, order: fc.integer({ min: 0, max: 10 }) }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant("flush" as const),
      what: fc.constantFrom("domain", "all", "contexts", "contextsOfDomain", "context"),
      domain,
      device,
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("switch" as const), what: fc.constantFrom("off", "on", "root", "reset") }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("dma" as const), device, frame, access }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("attach" as const), device }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** Opens a window in any consumer of blocks: without it, whether one opens is left to chance. */
const CUT_A_SUPERPAGE: readonly Step[] = [
  { do: "large", domain: 5, at: 0, access: 3, target: 0x1000 },
  { do: "pages", domain: 5, frame: 0, order: 9 },
  { do: "split", domain: 5, frame: 3 },
  { do: "unmap", domain: 5, frame: 3, count: 1 },
  { do: "pages", domain: 5, frame: 3, order: 0 },
];

/** The host loses a table that it has vouched for in between: all of it, its directory and its neighbours. */
const LOSE_A_TABLE: readonly Step[] = [
  { do: "map", domain: 5, frame: 0, count: 1, access: 1, target: 48 },
  { do: "flush", what: "domain", domain: 5, device: DEVICES[0] },
  { do: "flush", what: "domain", domain: 5, device: DEVICES[0] },
  { do: "lose", domain: 5, frame: 0, level: 1, found: false },
];

function perform(guest: WatchedGuest, one: Step, extra: RecordingNotifier[]): void {
  switch (one.do) {
    case "map":
      for (let i = 0; i < one.count; i++)
        guest.map(one.domain, { iovaPfn: one.frame + i, gpaPfn: one.target + i, access: one.access });
      break;
    case "unmap":
      guest.unmap(one.domain, one.frame, one.count);
      break;
    case "large":
      guest.map(one.domain, { iovaPfn: one.at, gpaPfn: one.target, access: one.access, leafPages: 512 });
      break;
    case "split":
      guest.tables(one.domain).split(one.frame);
      break;
    case "spoil": {
      const gpa = guest.tables(one.domain).entryGpa(one.frame, one.level);
      guest.memory.poke(gpa + 4, guest.memory.peek(gpa + 4) ^ (1 << 30));
      break;
    }
    case "lose": {
      // The host loses the page of a table, or finds it again.
      const pfn = Math.floor(guest.tables(one.domain).entryGpa(one.frame, one.level) / 4096);
      if (one.found) guest.memory.heal(pfn);
      else guest.memory.poison(pfn);
      break;
    }
    case "context":
      guest.editContext(one.device, () => {
        if (one.kind === "clear") guest.contexts.clear(one.device);
        else guest.context(one.device, { did: one.domain, passThrough: one.kind === "pass" });
      });
      break;
    case "pages":
      guest.invalidate.page(one.domain, one.frame, one.order);
      break;
    case "flush":
      if (one.what === "domain") guest.invalidate.domain(one.domain);
      else if (one.what === "all") guest.invalidate.all();
      else if (one.what === "contexts") {
        guest.tellContexts();
        guest.invalidate.contexts();
      } else if (one.what === "contextsOfDomain") guest.invalidate.contextsOfDomain(one.domain);
      else {
        guest.tellContexts(one.device);
        guest.invalidate.context(one.device);
      }
      break;
    case "switch":
      guest.tellContexts();
      if (one.what === "off") guest.disable();
      else if (one.what === "reset") guest.reset();
      else {
        guest.setRoot();
        if ((guest.status & Command.QIE) === 0) guest.enableQueue();
        guest.enable();
      }
      break;
    case "dma":
      guest.device(one.device).translate(one.frame, one.access, new Translation());
      break;
    case "attach":
      if (extra.length < 3) extra.push(guest.watch(one.device, { name: one.device, replace: true }));
      break;
  }
}

/** A cache that is filled by translating and emptied by its notifier: what it still holds must be true once the guest has flushed. */
class Cache {
  readonly held = new RunList();
  readonly notifier = new RecordingFlushNotifier({
    onCall: (range) => this.held.delete(range.firstPfn, range.pageCount),
  });

  fill(guest: WatchedGuest, name: string, iovaPfn: number): void {
    const out = new Translation();
    if (!guest.device(name).translate(iovaPfn, 1, out)) return;
    this.held.set({ iovaPfn, pageCount: 1, gpaPfn: out.gpaPfn, access: out.access });
  }
}

function storm(options: GuestOptions, steps: readonly Step[], granularity: "page" | "block"): void {
  const guest = new WatchedGuest({ ram: RAM, iotlbEntries: 64, ...options });
  for (const name of DEVICES) guest.context(name, { did: 5 });
  guest.start();
  const watched = DEVICES.map((name) => guest.watch(name, { granularity }));
  const caches = DEVICES.map((name) => {
    const cache = new Cache();
    guest.device(name).attach(cache.notifier);
    return cache;
  });
  const extra: RecordingNotifier[] = [];
  for (const one of steps) {
    perform(guest, one, extra);
    if (one.do === "dma") caches[DEVICES.indexOf(one.device)]?.fill(guest, one.device, one.frame);
    for (const notifier of [...watched, ...extra]) notifier.check();
  }
  if ((guest.status & Command.QIE) === 0) guest.enableQueue();
  guest.tellContexts();
  guest.invalidate.contexts();
  guest.invalidate.all();
  for (const [i, name] of DEVICES.entries()) {
    const notifier = watched[i];
    if (notifier !== undefined) guest.assertInStep(name, notifier);
    expect(caches[i]?.held.entries).toEqual([]);
  }
  for (const notifier of extra) guest.assertInStep(notifier.name, notifier);
}

describe("a storm of edits and invalidations", () => {
  it("never unmaps a page that stays mapped, and ends in step", () => {
    fc.assert(
      fc.property(
        fc.array(step, { minLength: 10, maxLength: 60 }),
        fc.record({ windows: fc.boolean(), generations: fc.boolean() }),
        (steps, memory) => storm(memory, steps, "page"),
      ),
      { numRuns: 15, examples: [[[...LOSE_A_TABLE], { windows: false, generations: true }]] },
    );
  });

  it("only ever unmaps whole blocks of a consumer that cannot cut them, and ends in step", () => {
    fc.assert(
      fc.property(fc.array(step, { minLength: 10, maxLength: 60 }), (steps) =>
        storm({ windows: true }, steps, "block"),
      ),
      { numRuns: 15 },
    );
  });

  it("in the smallest slices ends in step as well", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 10, maxLength: 40 }), async (steps) => {
        const guest = new WatchedGuest({ ram: RAM, limits: { entriesPerSlice: 1, mappingsPerSlice: 1 } });
        for (const name of DEVICES) guest.context(name, { did: 5 });
        guest.start();
        // The guest goes on in the middle of a pass: what it edits then is judged at the end only.
        const notifiers = DEVICES.map((name) => {
          const notifier = new RecordingNotifier({ name, granularity: "page" });
          guest.device(name).attach(notifier);
          return notifier;
        });
        for (const [i, one] of steps.entries()) {
          if (one.do !== "attach") perform(guest, one, []);
          if (i % 3 === 0) guest.scheduler.turn();
        }
        guest.command(Command.QIE, false);
        guest.start();
        guest.tellContexts();
        guest.invalidate.contexts();
        guest.invalidate.all();
        await guest.scheduler.idle();
        expect(guest.queue.completed).toBe(true);
        for (const [i, name] of DEVICES.entries()) {
          const notifier = notifiers[i];
          if (notifier !== undefined) guest.assertInStep(name, notifier);
        }
      }),
      { numRuns: 15 },
    );
  });

  it("reports every live page that a consumer of whole blocks had to lose for a moment, and no page that it kept", () => {
    let reported = 0;
    fc.assert(
      fc.property(fc.array(step, { minLength: 10, maxLength: 60 }), (steps) => {
        const guest = new WatchedGuest({ ram: RAM });
        guest.context(DEVICES[0], { did: 5 });
        guest.start();
        const held = new RunList();
        const lost = new Set<number>();
        const touched = new Set<number>();
        const notifier = new RecordingNotifier({
          granularity: "block",
          onCall: ({ type, iovaPfn, pageCount, gpaPfn, access: rights }) => {
            if (type === "map") held.set({ iovaPfn, pageCount, gpaPfn, access: rights });
            if (type !== "unmap") return;
            const reached = new RunList();
            for (const run of guest.reachable(DEVICES[0])) reached.set(run);
            for (let pfn = iovaPfn; pfn < iovaPfn + pageCount; pfn++) {
              const [was, is] = [held.lookup(pfn), reached.lookup(pfn)];
              touched.add(pfn);
              if (was?.gpaPfn === is?.gpaPfn && was?.access === is?.access) lost.add(pfn);
            }
            held.delete(iovaPfn, pageCount);
          },
        });
        guest.device(DEVICES[0]).attach(notifier);
        const windows = new Set<number>();
        guest.unit.events.on("window", ({ iovaPfn, pageCount }) => {
          for (let pfn = iovaPfn; pfn < iovaPfn + pageCount; pfn++) windows.add(pfn);
        });
        for (const one of [...CUT_A_SUPERPAGE, ...steps]) {
          if (one.do === "attach") continue;
          for (const set of [lost, touched, windows]) set.clear();
          perform(guest, one, []);
          expect([...lost].filter((pfn) => !windows.has(pfn))).toEqual([]);
          expect([...windows].filter((pfn) => !touched.has(pfn))).toEqual([]);
          reported += windows.size;
        }
        notifier.check();
      }),
      { numRuns: 15 },
    );
    expect(reported).toBeGreaterThan(0);
  });

  it("in the smallest slices, with consumers that answer later, never unmaps a page that stays mapped either", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 25 }), async (steps) => {
        const guest = new WatchedGuest({ ram: RAM, limits: { entriesPerSlice: 1, mappingsPerSlice: 1 } });
        for (const name of DEVICES) guest.context(name, { did: 5 });
        guest.start();
        const watched = DEVICES.map((name) => guest.watch(name, { answers: "microtask" }));
        await guest.scheduler.idle();
        for (const one of steps) {
          if (one.do !== "attach") perform(guest, one, []);
          await guest.scheduler.idle();
          for (const notifier of watched) notifier.check();
        }
        if ((guest.status & Command.QIE) === 0) guest.enableQueue();
        guest.tellContexts();
        guest.invalidate.contexts();
        await guest.scheduler.idle();
        expect(guest.queue.completed).toBe(true);
        for (const [i, name] of DEVICES.entries()) {
          const notifier = watched[i];
          if (notifier !== undefined) guest.assertInStep(name, notifier);
        }
      }),
      { numRuns: 12 },
    );
  });
});

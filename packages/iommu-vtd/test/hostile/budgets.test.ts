/**
 * A guest spends what its unit has (design D9): everything counted, nothing timed.
 */

import { type AddressSpace, parseSourceId } from "@iommu-kit/iommu-core";
import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask } from "../support/watched-guest.js";

const HOSTILE = "00:03.0";
const HONEST = "00:04.0";
const DID = 5;
const FSTS = 0x34;

/** The work of one access of the guest, or of one turn of the event loop. */
interface Work {
  readonly entries: number;
  readonly mappings: number;
}

/** A guest whose work is counted at every register write and every turn. */
class CountedGuest extends GuestDriver {
  readonly mirror = new RecordingNotifier();
  readonly work: Work[] = [];
  #pages = 0;

  /** Notes what has been done since the last time. */
  note(): void {
    this.#pages = 0;
    for (const { type, pageCount } of this.mirror.calls.splice(0))
      if (type === "map" || type === "unmap" || type === "replace") this.#pages += pageCount;
    this.work.push({ entries: this.memory.counters.fetchedWords / 2, mappings: this.#pages });
    this.memory.resetCounters();
  }

  /** Runs the event loop, turn by turn. */
  async finish(): Promise<void> {
    for (let quiet = 0; quiet < 3; quiet++) {
      if (this.scheduler.turn() > 0) quiet = -1;
      this.note();
      for (let i = 0; i < 5; i++) await Promise.resolve();
    }
  }

  get most(): Work {
    return {
      entries: Math.max(...this.work.map(({ entries }) => entries)),
      mappings: Math.max(...this.work.map(({ mappings }) => mappings)),
    };
  }
}

/** Makes every entry of a domain's four-level table point to the table itself: 2^36 pages. */
function loop(guest: GuestDriver): void {
  const { rootPfn } = guest.tables(DID);
  for (let i = 0; i < 512; i++) guest.memory.pokeEntry(rootPfn * 4096 + i * 8, (rootPfn << 12) | 3, 0);
}

describe("a table of four levels whose 512 entries all point to itself, with a MAP notifier", () => {
  const limits = { entriesPerSlice: 8192, mappingsPerSlice: 8192, mappingsPerView: 40_000, tablesPerView: 4096 };

  function begin(options: GuestOptions = {}): CountedGuest {
    const guest = new CountedGuest({ cachingMode: true, limits, ...options });
    guest.context(HOSTILE, { did: DID });
    guest.context(HONEST, { did: 6 });
    guest.map(DID, { iovaPfn: 1, gpaPfn: 0x100 });
    guest.map(6, { iovaPfn: 1, gpaPfn: 0x200 });
    guest.start();
    return guest;
  }

  it.each([
    ["mappings", limits],
    ["tables", { ...limits, mappingsPerView: 2 ** 20, tablesPerView: 16 }],
  ] as const)(
    "does one slice of work at a time, goes on in later ones, fails closed by the budget of %s, harms nobody, and recovers",
    async (budget, given) => {
      const guest = begin({ limits: given });
      const honest = new RecordingNotifier();
      const honestCache = new RecordingFlushNotifier();
      guest.device(HOSTILE).attach(guest.mirror);
      guest.device(HONEST).attach(honest);
      guest.device(HONEST).attach(honestCache);
      const spent: string[] = [];
      guest.unit.events.on("budget", (event) => spent.push(`${event.space.label} ${event.budget} ${event.limit}`));
      await guest.finish();
      guest.work.length = 0;

      loop(guest);
      guest.invalidate.domain(DID);
      guest.note();
      expect(guest.queue.completed).toBe(false);
      // The queue goes on; what it finds next is served as well.
      guest.map(6, { iovaPfn: 2, gpaPfn: 0x201 });
      guest.invalidate.domain(6);
      guest.note();
      await guest.finish();

      // A table that has been begun is finished, and the way to the next one is read again: at most one table and four levels more.
      expect(guest.most.entries).toBeLessThanOrEqual(given.entriesPerSlice + 5 * 512);
      expect(guest.most.mappings).toBeLessThanOrEqual(given.mappingsPerSlice + 512);
      expect(guest.work.length).toBeGreaterThan(2);
      expect(guest.queue.completed).toBe(true);
      expect(spent).toEqual([
        `00:03.0 ${budget} ${budget === "mappings" ? given.mappingsPerView : given.tablesPerView}`,
      ]);
      expect(guest.mirror.pageCount).toBe(0);
      expect(honest.held()).toEqual([{ iovaPfn: 1, pageCount: 2, gpaPfn: 0x200, access: 3 }]);
      expect(ask(guest.device(HONEST), 2)).toBe(0x201);

      guest.memory.clear(guest.tables(DID).rootPfn);
      guest.map(DID, { iovaPfn: 7, gpaPfn: 0x300 });
      guest.invalidate.page(DID, 7);
      await guest.finish();
      expect(guest.mirror.held()).toEqual([{ iovaPfn: 7, pageCount: 1, gpaPfn: 0x300, access: 3 }]);
      guest.mirror.check();
      honest.check();
    },
  );

  it("does no more when it is told of the same again and again", async () => {
    const small = { entriesPerSlice: 1024, mappingsPerSlice: 1024, mappingsPerView: 2000, tablesPerView: 4096 };
    const guest = begin({ limits: small });
    guest.device(HOSTILE).attach(guest.mirror);
    await guest.finish();
    loop(guest);
    guest.work.length = 0;
    for (let i = 0; i < 70; i++) {
      guest.invalidate.domain(DID);
      guest.note();
    }
    await guest.finish();
    // A turn of the event loop may hold a task of the queue and one of the views: a slice each.
    expect(guest.most.entries).toBeLessThanOrEqual(2 * (small.entriesPerSlice + 5 * 512));
    expect(guest.most.mappings).toBeLessThanOrEqual(2 * (small.mappingsPerSlice + 512));
    expect(guest.mirror.pageCount).toBe(0);
    guest.mirror.check();
  });
});

describe("a guest that takes away the tables that a slice has read, before the next one", () => {
  it.each([false, true])("meets its budget of tables: %s", (takes) => {
    const guest = new GuestDriver({ cachingMode: true, limits: { entriesPerSlice: 1025, tablesPerView: 8 } });
    guest.context(HOSTILE, { did: DID });
    guest.map(DID, { iovaPfn: 0, gpaPfn: 0x300 });
    const third = guest.memory.peek(guest.tables(DID).rootPfn * 4096) & ~0xfff;
    const [second, first] = [guest.newFrame(), guest.newFrame()];
    guest.memory.pokeEntry(second * 4096, (first << 12) | 3, 0);
    guest.memory.pokeEntry(third, 0, 0);
    for (let i = 1; i < 512; i++) guest.memory.pokeEntry(third + i * 8, (second << 12) | 3, 0);
    guest.start();
    const spent: string[] = [];
    guest.unit.events.on("budget", ({ budget }) => spent.push(budget));
    guest.memory.resetCounters();
    guest.device(HOSTILE).attach(new RecordingNotifier());
    for (let i = 1; guest.scheduler.turn() > 0; i++) if (takes && i < 512) guest.memory.pokeEntry(third + i * 8, 0, 0);
    expect(spent).toEqual(["tables"]);
    // The budget, what it is met with, and the way to the cursor in each slice.
    expect(guest.memory.counters.fetchedWords / 2).toBeLessThan(40 * 512);
  });
});

describe("an invalidation queue of nothing but errors", () => {
  it("stops at the first, does nothing more until the guest clears it, and one step each time that it does", async () => {
    const guest = new CountedGuest({ cachingMode: true });
    guest.context(HOSTILE, { did: DID });
    guest.start();
    await guest.finish();
    guest.work.length = 0;
    guest.memory.resetCounters();
    guest.queue.submit(...Array.from({ length: 200 }, () => Int32Array.of(0xf, -1, -1, -1)));
    const head = guest.unit.mmio.read32(0x80);
    expect(guest.faultStatus & 0x10).toBe(0x10);
    for (let i = 0; i < 1000; i++) {
      guest.unit.mmio.write32(FSTS, 0x10);
      guest.note();
      expect(guest.unit.mmio.read32(0x80)).toBe(head);
    }
    expect(guest.most.entries).toBeLessThanOrEqual(2 * 2);
    expect(guest.scheduler.deferredCount).toBe(0);
  });
});

describe("a storm of faults", () => {
  it("sends one message until the guest has cleared what it reported, however many requests fail", () => {
    const guest = new GuestDriver();
    guest.start();
    guest.unit.mmio.write32(0x38, 0);
    const space = guest.device(HOSTILE);
    for (let i = 0; i < 10_000; i++) ask(space, i);
    expect(guest.messages).toHaveLength(1);
    guest.takeFaults();
    ask(space, 1);
    expect(guest.messages).toHaveLength(2);
  });

  it("can be slowed down by the host: with an interval messages wait in IP, and none is lost", async () => {
    const guest = new GuestDriver({ eventIntervalMilliseconds: 100 });
    guest.start();
    guest.unit.mmio.write32(0x38, 0);
    const space = guest.device(HOSTILE);
    for (let i = 0; i < 1000; i++) {
      ask(space, i);
      guest.takeFaults();
    }
    expect(guest.messages).toHaveLength(1);
    ask(space, 7);
    expect(guest.messages).toHaveLength(1);
    expect(guest.unit.mmio.read32(0x38)).toBe(0x4000_0000);
    guest.scheduler.advance(99);
    expect(guest.messages).toHaveLength(1);
    guest.scheduler.advance(1);
    expect(guest.messages).toHaveLength(2);
    expect(guest.unit.mmio.read32(0x38)).toBe(0);
    expect(guest.faults()).toHaveLength(1);
    expect(guest.scheduler.timerCount).toBeLessThanOrEqual(1);
    guest.scheduler.advance(1000);
    expect(guest.messages).toHaveLength(2);
    expect(guest.scheduler.timerCount).toBe(0);
    await guest.scheduler.idle();
  });
});

describe("a flood of page requests", () => {
  it("is answered in the guest's place once the queue is full, with one message, bounded work and bounded memory", async () => {
    const guest = new GuestDriver({
      scalableMode: true,
      cachingMode: true,
      firstStage: "4-level",
      deviceTlb: true,
      pageRequests: true,
    });
    guest.scalableContext(HOSTILE, { fields: { DTE: 1, PRE: 1 } });
    guest.pasid(HOSTILE, 0, { type: "second-stage", did: DID });
    guest.map(DID, { iovaPfn: 1, gpaPfn: 0x100 });
    guest.start("scalable");
    const mirror = new RecordingNotifier();
    const space: AddressSpace = guest.unit.addressSpace(parseSourceId(HOSTILE));
    space.attach(mirror);
    await guest.scheduler.idle();
    guest.unit.mmio.write64(0xd0, BigInt(guest.newFrame()) * 4096n);
    guest.unit.mmio.write32(0xe0, 0);
    guest.messages.length = 0;
    guest.memory.resetCounters();
    const ats = guest.unit.ats(space);
    const answers: string[] = [];
    for (let i = 0; i < 5000; i++)
      void ats.requestPage({ iovaPfn: i, group: i % 512 }).then((answer) => answers.push(answer));
    await guest.scheduler.idle();
    // 2^7 entries, one of which stays free.
    expect(answers.filter((answer) => answer === "success")).toHaveLength(5000 - 127);
    expect(guest.unit.mmio.read32(0xdc) & 2).toBe(2);
    expect(guest.messages).toHaveLength(1);
    expect(guest.scheduler.deferredCount).toBe(0);
    mirror.check();
  });
});

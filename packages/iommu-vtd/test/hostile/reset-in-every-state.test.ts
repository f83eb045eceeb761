import { type AddressSpace, byteAddress, type Lease } from "@iommu-kit/iommu-core";
import { RecordingFlushNotifier, RecordingNotifier, type Run } from "@iommu-kit/iommu-core/testing";
import type { PageResponse } from "@iommu-kit/iommu-vtd";
import { restore, save } from "@iommu-kit/iommu-vtd/snapshot";
import { descriptor, type GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { NIC, scalableGuest } from "../ats/ats-guest.js";
import { ask } from "../support/watched-guest.js";

const DID = 1;
const PAGES = 300;
const GSTS = 0x1c;
const FSTS = 0x34;
const IQH = 0x80;
const IQT = 0x88;
const PQA = 0xd0;
const TES = 0x8000_0000;
const STATUS = 77;

/** A guest with everything switched on, slices of 64 mappings, and the consumers of one device. */
class Rig {
  readonly guest: GuestDriver;
  readonly space: AddressSpace;
  readonly mirror = new RecordingNotifier({ name: "mirror", answers: "manual" });
  readonly cache = new RecordingFlushNotifier({ name: "cache", answers: "manual" });
  readonly newcomer = new RecordingNotifier({ name: "newcomer" });
  readonly failed: unknown[] = [];
  response: PageResponse | undefined;
  lease: Lease | undefined;
  pages = 20;

  constructor() {
    this.guest = scalableGuest({ cachingMode: true, limits: { mappingsPerSlice: 64 } });
    this.space = this.guest.device(NIC);
    this.space.events.on("failed", (event) => this.failed.push(event));
    this.guest.unit.mmio.write64(PQA, BigInt(this.guest.newFrame()) * 4096n);
    this.mapPages(0, this.pages);
    this.space.attach(this.mirror);
    this.space.attach(this.cache);
  }

  mapPages(from: number, to: number): void {
    for (let i = from; i < to; i++) this.guest.map(DID, { iovaPfn: i * 2, gpaPfn: 0x1000 + i * 4 });
    this.pages = to;
  }

  /** What mirrors hold when they are in step. */
  get mapped(): Run[] {
    return Array.from({ length: this.pages }, (_, i) => ({
      iovaPfn: i * 2,
      pageCount: 1,
      gpaPfn: 0x1000 + i * 4,
      access: 3 as const,
    }));
  }

  /** Everybody answers until nothing is under way. */
  async settle(): Promise<void> {
    for (let round = 0; round < 20; round++) {
      await this.guest.scheduler.idle();
      for (const { answers } of [this.mirror, this.cache, this.newcomer]) answers.settle();
    }
    this.lease?.release();
    await this.guest.scheduler.idle();
  }

  registers(): bigint[] {
    const { mmio } = this.guest.unit;
    return Array.from({ length: mmio.byteLength / 8 }, (_, i) => mmio.read64(i * 8));
  }

  /** Nothing is left of anything: no task, no time-out, nothing that waits. */
  checkNothingIsLeft(): void {
    const { scheduler } = this.guest;
    expect([scheduler.deferredCount, scheduler.timerCount]).toEqual([0, 0]);
    expect(this.failed).toEqual([]);
    expect(this.lease?.valid ?? false).toBe(false);
    for (const notifier of [this.mirror, this.newcomer]) notifier.check();
  }
}

/** Brings the guest into a state, in the middle of something. */
const STATES: Readonly<Record<string, (rig: Rig) => void | Promise<void>>> = {
  "at rest": () => undefined,
  "with an invalidation whose wait is not done": ({ guest, cache }) => {
    guest.queue.submit(descriptor.domain(DID), guest.queue.waitFor(STATUS));
    expect(cache.answers.size).toBeGreaterThan(0);
    expect(guest.memory.peek(guest.queue.statusGpa)).not.toBe(STATUS);
  },
  "with mappings that are being announced": (rig) => {
    rig.mapPages(rig.pages, PAGES);
    rig.guest.queue.submit(descriptor.domain(DID));
    expect(rig.mirror.pageCount).toBeLessThan(PAGES);
    expect(rig.guest.scheduler.deferredCount).toBeGreaterThan(0);
  },
  "with a replay to a newcomer under way": async (rig) => {
    rig.mapPages(rig.pages, PAGES);
    rig.guest.queue.submit(descriptor.domain(DID));
    await rig.settle();
    rig.space.attach(rig.newcomer);
    expect(rig.newcomer.pageCount).toBeLessThan(PAGES);
  },
  "with a fault that is recorded, and its interrupt pending behind its mask": ({ guest, space }) => {
    ask(space, 0x7777);
    expect(guest.faultStatus & 2).toBe(2);
    expect(guest.unit.mmio.read32(0x38)).toBe(0xc000_0000);
  },
  "with a page request that waits": async (rig) => {
    void rig.guest.unit
      .ats(rig.space)
      .requestPage({ iovaPfn: 0x5000, write: true, group: 3, last: true })
      .then((response) => (rig.response = response));
    for (let i = 0; i < 5; i++) await Promise.resolve();
    expect(rig.response).toBeUndefined();
    expect(rig.guest.unit.mmio.read32(0xc8)).toBe(32);
  },
  "with a lease that is held": (rig) => {
    rig.lease = rig.space.dma.segments(byteAddress(2), 64, 1);
    expect(rig.lease?.valid).toBe(true);
  },
  "with a consumer that owes answers": (rig) => {
    rig.mapPages(rig.pages, rig.pages + 5);
    rig.guest.queue.submit(descriptor.domain(DID), rig.guest.queue.waitFor(STATUS));
    expect(rig.mirror.answers.size).toBeGreaterThan(0);
  },
};

async function inState(name: string): Promise<Rig> {
  const rig = new Rig();
  await rig.settle();
  expect(rig.mirror.held()).toEqual(rig.mapped);
  await STATES[name]?.(rig);
  return rig;
}

describe.each(Object.keys(STATES))("a unit %s", (state) => {
  it("that is reset reads as a new one, maps what passes through, and forgets the rest", async () => {
    const rig = await inState(state);
    const fresh = scalableGuest({ cachingMode: true, limits: { mappingsPerSlice: 64 } });
    void fresh.unit.reset();
    await fresh.scheduler.idle();
    void rig.guest.unit.reset();
    await rig.settle();
    const { mmio } = fresh.unit;
    expect(rig.registers()).toEqual(Array.from({ length: mmio.byteLength / 8 }, (_, i) => mmio.read64(i * 8)));
    expect(rig.guest.memory.peek(rig.guest.queue.statusGpa)).not.toBe(STATUS);
    const [ram] = rig.guest.memory.ram;
    const identity = [{ iovaPfn: 0, pageCount: ram?.pageCount ?? 0, gpaPfn: 0, access: 3 as const }];
    expect(rig.mirror.held()).toEqual(identity);
    if (rig.newcomer.calls.length > 0) expect(rig.newcomer.held()).toEqual(identity);
    if (state === "with a page request that waits") expect(rig.response).toBe("failure");
    rig.checkNothingIsLeft();
  });

  it("whose translation is switched off and on again ends where it was", async () => {
    const rig = await inState(state);
    rig.guest.disable();
    rig.guest.enable();
    await rig.settle();
    expect((rig.guest.unit.mmio.read32(GSTS) & TES) >>> 0).toBe(TES);
    expect(rig.guest.unit.mmio.read32(IQH)).toBe(rig.guest.unit.mmio.read32(IQT));
    expect(rig.mirror.held()).toEqual(rig.mapped);
    if (rig.newcomer.calls.length > 0) expect(rig.newcomer.held()).toEqual(rig.mapped);
    rig.checkNothingIsLeft();
  });

  it("that is saved and restored finishes what was begun, and shows the same", async () => {
    const rig = await inState(state);
    const faults = rig.guest.unit.mmio.read32(FSTS);
    void restore(rig.guest.unit, save(rig.guest.unit));
    await rig.settle();
    expect(rig.guest.unit.mmio.read32(FSTS)).toBe(faults);
    expect(rig.guest.unit.mmio.read32(IQH)).toBe(rig.guest.unit.mmio.read32(IQT));
    const waits = ["with an invalidation whose wait is not done", "with a consumer that owes answers"];
    if (waits.includes(state)) expect(rig.guest.memory.peek(rig.guest.queue.statusGpa)).toBe(STATUS);
    expect(rig.mirror.held()).toEqual(rig.mapped);
    if (rig.newcomer.calls.length > 0) expect(rig.newcomer.held()).toEqual(rig.mapped);
    rig.checkNothingIsLeft();
  });

  it("whose devices all go leaves nothing: no mapping, no task, no time-out, no listener", async () => {
    const rig = await inState(state);
    void rig.space.unplug();
    await rig.settle();
    expect(rig.mirror.pageCount).toBe(0);
    expect(rig.newcomer.pageCount).toBe(0);
    expect(rig.space.attachments).toEqual([]);
    expect(rig.guest.unit.events.eventNames()).toEqual([]);
    if (state === "with a page request that waits") expect(rig.response).toBe("failure");
    rig.checkNothingIsLeft();
  });
});

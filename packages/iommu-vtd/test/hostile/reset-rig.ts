/**
 * A unit in the middle of something, and what may happen to it then: eight states, four ends. Each end checks what must be true afterwards.
 */

import {
  type AddressSpace,
  byteAddress,
  type Completion,
  type Lease,
  parseSourceId,
  whenDone,
} from "@iommu-kit/iommu-core";
import { RecordingFlushNotifier, RecordingNotifier, type Run } from "@iommu-kit/iommu-core/testing";
import type { PageResponse } from "@iommu-kit/iommu-vtd";
import { restore, save } from "@iommu-kit/iommu-vtd/snapshot";
import { Command, descriptor, type GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { expect } from "vitest";
import { NIC, scalableGuest } from "../ats/ats-guest.js";
import { ask } from "../support/watched-guest.js";

const DID = 1;
const PAGES = 300;
const GSTS = 0x1c;
const FSTS = 0x34;
const IQH = 0x80;
const IQT = 0x88;
const PQA = 0xd0;
const STATUS = 77;
const FECTL = 0x38;
const GCMD = 0x18;

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
  isDone = (): boolean => true;

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

  /** What is to complete, and has. */
  until(completion: Completion): void {
    let done = false;
    this.isDone = () => done;
    whenDone(completion, () => (done = true));
  }

  /** Everybody answers until nothing is under way; a lease is given back last, and nothing that takes its page away has completed before. */
  async settle(): Promise<void> {
    for (let round = 0; round < 20; round++) {
      await this.guest.scheduler.idle();
      for (const { answers } of [this.mirror, this.cache, this.newcomer]) answers.settle();
    }
    if (this.lease === undefined) return;
    expect(this.isDone(), "completion while a lease is held").toBe(false);
    this.lease.release();
    for (const { answers } of [this.mirror, this.cache]) answers.settle();
    await this.guest.scheduler.idle();
  }

  registers(): bigint[] {
    const { mmio } = this.guest.unit;
    return Array.from({ length: mmio.byteLength / 8 }, (_, i) => mmio.read64(i * 8));
  }

  /** Nothing is left of anything: no task, no time-out, nothing that waits. */
  checkNothingIsLeft(): void {
    const { scheduler } = this.guest;
    expect([scheduler.deferredCount, scheduler.timerCount], "tasks and time-outs").toEqual([0, 0]);
    expect(this.failed, "failures").toEqual([]);
    expect(this.isDone(), "completion").toBe(true);
    for (const notifier of [this.mirror, this.newcomer]) notifier.check();
  }
}

/** Brings the guest into a state, in the middle of something. */
const STATES = {
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
    expect(guest.unit.mmio.read32(FECTL)).toBe(0xc000_0000);
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
} satisfies Readonly<Record<string, (rig: Rig) => void | Promise<void>>>;

export type State = keyof typeof STATES;
export const states = Object.keys(STATES) as State[];

async function inState(name: State): Promise<Rig> {
  const rig = new Rig();
  await rig.settle();
  expect(rig.mirror.held()).toEqual(rig.mapped);
  await STATES[name](rig);
  return rig;
}

/** What the consumers hold: the mirror, and the newcomer where there is one. */
function expectHeld(rig: Rig, runs: readonly Run[]): void {
  expect(rig.mirror.held(), "mirror").toEqual(runs);
  if (rig.space.attachments.length > 2 || rig.newcomer.calls.length > 0)
    expect(rig.newcomer.held(), "newcomer").toEqual(runs);
}

const ENDS = {
  "is reset: it reads as a new one, maps what passes through, and forgets the rest": async (state) => {
    const rig = await inState(state);
    const fresh = scalableGuest({ cachingMode: true, limits: { mappingsPerSlice: 64 } });
    void fresh.unit.reset();
    await fresh.scheduler.idle();
    rig.until(rig.guest.unit.reset());
    await rig.settle();
    const { mmio } = fresh.unit;
    expect(rig.registers(), "registers").toEqual(
      Array.from({ length: mmio.byteLength / 8 }, (_, i) => mmio.read64(i * 8)),
    );
    expect(rig.guest.memory.peek(rig.guest.queue.statusGpa), "status of the wait").not.toBe(STATUS);
    const [ram] = rig.guest.memory.ram;
    expectHeld(rig, [{ iovaPfn: 0, pageCount: ram?.pageCount ?? 0, gpaPfn: 0, access: 3 }]);
    if (state === "with a page request that waits") expect(rig.response, "page response").toBe("failure");
    rig.checkNothingIsLeft();
  },

  "has its translation switched off and on again: it ends where it was": async (state) => {
    const rig = await inState(state);
    const translates = (): boolean => (rig.guest.unit.mmio.read32(GSTS) & Command.TE) !== 0;
    rig.guest.disable();
    rig.isDone = () => !translates();
    if (rig.lease !== undefined) await rig.settle();
    rig.lease = undefined;
    rig.guest.enable();
    rig.isDone = translates;
    await rig.settle();
    expect(rig.guest.unit.mmio.read32(IQH), "queue head").toBe(rig.guest.unit.mmio.read32(IQT));
    expectHeld(rig, rig.mapped);
    rig.checkNothingIsLeft();
  },

  "is saved and restored: it finishes what was begun, and shows the same": async (state) => {
    const rig = await inState(state);
    const faults = rig.guest.unit.mmio.read32(FSTS);
    rig.until(restore(rig.guest.unit, save(rig.guest.unit)));
    await rig.settle();
    expect(rig.guest.unit.mmio.read32(IQH), "queue head").toBe(rig.guest.unit.mmio.read32(IQT));
    expect(rig.guest.unit.mmio.read32(FSTS), "fault status").toBe(faults);
    const waits: readonly State[] = [
      "with an invalidation whose wait is not done",
      "with a consumer that owes answers",
    ];
    if (waits.includes(state))
      expect(rig.guest.memory.peek(rig.guest.queue.statusGpa), "status of the wait").toBe(STATUS);
    expectHeld(rig, rig.mapped);
    rig.checkNothingIsLeft();
  },

  "is destroyed: it leaves no mapping, task, time-out or listener, and hears nothing more": async (state) => {
    const rig = await inState(state);
    const { unit, memory, queue } = rig.guest;
    const sent = rig.guest.messages.length;
    const saved = save(unit);
    rig.until(unit.destroy());
    rig.until(unit.destroy());
    unit.mmio.write32(FECTL, 0);
    unit.mmio.write32(GCMD, Command.TE);
    await rig.settle();
    expectHeld(rig, []);
    expect(unit.addressSpaces, "address spaces").toEqual([]);
    expect(rig.space.attachments, "attachments").toEqual([]);
    expect(ask(rig.space, 2), "a request").toBe("fault -1");
    expect([...unit.events.eventNames(), ...rig.space.events.eventNames()], "listeners").toEqual([]);
    expect(rig.guest.messages.length, "messages").toBe(sent);
    expect(memory.peek(queue.statusGpa), "status of the wait").not.toBe(STATUS);
    expect(unit.mmio.read32(GSTS), "GSTS").toBe(0);
    const gone = expect.objectContaining({ code: "destroyed" }) as Error;
    expect(() => unit.addressSpace(parseSourceId(NIC))).toThrow(gone);
    for (const use of [() => save(unit), () => restore(unit, saved), () => unit.reset()]) expect(use).toThrow(gone);
    if (state === "with a page request that waits") expect(rig.response, "page response").toBe("failure");
    rig.checkNothingIsLeft();
  },
} satisfies Readonly<Record<string, (state: State) => Promise<void>>>;

export type End = keyof typeof ENDS;
export const ends = Object.keys(ENDS) as End[];

/** Brings a unit into a state, ends it, and checks what must be true then. */
export async function endIn(state: State, end: End): Promise<void> {
  await ENDS[end](state);
}

/**
 * Guests that command again and again without waiting: what is under way stays bounded, everybody ends in step, and completion still means what it says (design D7, D9).
 */

import type { Completion, DeviceTlbNotifier } from "@iommu-kit/iommu-core";
import { AnswerQueue, RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { Command, descriptor, GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { DeviceTlbDescriptor } from "../../src/spec/descriptors.js";
import { DescriptorType } from "../../src/spec/invalidation.js";

const NIC = "00:03.0";
const NIC_SOURCE = 0x18;
const GCMD = 0x18;
const CCMD = 0x28;
const PMEN = 0x64;
const IVA = 0xf0;
const IOTLB = 0xf8;
const FLOOD = 2000;
/** Invalidations that may be under way, by default, and the one that waits for them. */
const UNDER_WAY = 64 + 1;

const commands: Record<string, (guest: GuestDriver, i: number) => void> = {
  "CCMD.ICC": ({ unit }) => unit.mmio.write64(CCMD, (1n << 63n) | (1n << 61n)),
  "CCMD.ICC of one device": ({ unit }) =>
    unit.mmio.write64(CCMD, (1n << 63n) | (3n << 61n) | (BigInt(NIC_SOURCE) << 16n)),
  "IOTLB.IVT": ({ unit }) => unit.mmio.write64(IOTLB, (1n << 63n) | (1n << 60n)),
  "IOTLB.IVT of pages": ({ unit }, i) => {
    unit.mmio.write64(IVA, BigInt(i % 512) << 12n);
    unit.mmio.write64(IOTLB, (1n << 63n) | (3n << 60n) | (5n << 32n));
  },
  "GCMD.SRTP": ({ unit }) => unit.mmio.write32(GCMD, (Command.TE | Command.SRTP) >>> 0),
  "GCMD.TE off and on": ({ unit }, i) => unit.mmio.write32(GCMD, i % 2 === 0 ? 0 : Command.TE),
  "PMEN.EPM on and off": ({ unit }, i) => unit.mmio.write32(PMEN, i % 2 === 0 ? 0x8000_0000 : 0),
};

function begin(options: GuestOptions = {}): GuestDriver {
  const guest = new GuestDriver({ cachingMode: true, protectedRegions: ["low"], ...options });
  guest.context(NIC, { did: 5 });
  for (let i = 0; i < 10; i++) guest.map(5, { iovaPfn: i * 512, gpaPfn: 0x1000 + i });
  guest.setRoot();
  guest.enable();
  return guest;
}

/** Lets everybody answer until nothing is under way; says how many answers that took. */
async function settle(guest: GuestDriver, ...answers: readonly AnswerQueue[]): Promise<number> {
  let answered = 0;
  for (let round = 0; round < 10_000; round++) {
    await guest.scheduler.idle();
    const owed = answers.reduce((sum, { size }) => sum + size, 0);
    if (owed === 0) return answered;
    answered += owed;
    for (const queue of answers) queue.settle();
  }
  throw new Error("never comes to rest");
}

describe.each(Object.entries(commands))("a guest that repeats %s", (_name, command) => {
  it("leaves a bounded number of calls unanswered with a slow cache, and ends with every bit as commanded last", async () => {
    const guest = begin();
    const cache = new RecordingFlushNotifier({ answers: "manual" });
    guest.device(NIC).attach(cache);
    await settle(guest, cache.answers);
    for (let i = 0; i < FLOOD; i++) command(guest, i);
    expect(cache.answers.size).toBeLessThanOrEqual(2 * UNDER_WAY);
    expect(guest.scheduler.timerCount).toBeLessThanOrEqual(2 * UNDER_WAY);
    expect(guest.scheduler.deferredCount).toBeLessThanOrEqual(2);
    expect(await settle(guest, cache.answers)).toBeLessThanOrEqual(4 * UNDER_WAY);
    expect(guest.unit.mmio.read64(CCMD) >> 63n).toBe(0n);
    expect(guest.unit.mmio.read64(IOTLB) >> 63n).toBe(0n);
    expect(guest.unit.mmio.read32(PMEN)).toBe(0);
    expect(guest.status & (Command.TE | Command.SRTP)).toBe(Command.TE | Command.SRTP);
  });

  it("makes a bounded number of passes over the tables, however small the slices are", async () => {
    const guest = begin({ limits: { entriesPerSlice: 2048, mappingsPerSlice: 4 } });
    const mirror = new RecordingNotifier();
    guest.device(NIC).attach(mirror);
    await settle(guest);
    const { counters } = guest.memory;
    guest.memory.resetCounters();
    guest.registers.all();
    await settle(guest);
    const onePass = counters.fetchedWords;
    guest.memory.resetCounters();
    for (let i = 0; i < FLOOD; i++) command(guest, i);
    await settle(guest);
    expect(counters.fetchedWords).toBeLessThanOrEqual(4 * UNDER_WAY * onePass);
    expect(mirror.pageCount).toBe(10);
    mirror.check();
  });
});

describe("a command that is repeated before it is done", () => {
  it("clears its bit when all of them are done, not before", async () => {
    const guest = begin();
    const cache = new RecordingFlushNotifier({ answers: "manual" });
    guest.device(NIC).attach(cache);
    await settle(guest, cache.answers);
    guest.registers.contexts();
    guest.registers.contexts();
    cache.answers.settle(1);
    await guest.scheduler.idle();
    expect(guest.registers.contextOutcome()).toBe("pending");
    cache.answers.settle(1);
    await guest.scheduler.idle();
    expect(guest.registers.contextOutcome()).toBe(1);
  });
});

describe("a queue without wait descriptors", () => {
  it("waits for notifiers when too many descriptors are pending, and goes on when they have answered", async () => {
    const guest = begin();
    guest.enableQueue();
    const cache = new RecordingFlushNotifier({ answers: "manual" });
    guest.device(NIC).attach(cache);
    await settle(guest, cache.answers);
    guest.queue.submit(...Array.from({ length: 200 }, (_, i) => descriptor.page(5, i)));
    expect(cache.answers.size).toBeLessThanOrEqual(UNDER_WAY);
    await settle(guest, cache.answers);
    expect(guest.unit.mmio.read32(0x80)).toBe(guest.queue.tailBytes);
    expect(guest.unit.mmio.read32(0x34)).toBe(0);
  });

  it("stops fetching at the 64th descriptor that is pending, and not before", async () => {
    const guest = begin();
    guest.enableQueue();
    const cache = new RecordingFlushNotifier({ answers: "manual" });
    guest.device(NIC).attach(cache);
    await settle(guest, cache.answers);
    guest.queue.submit(...Array.from({ length: 63 }, (_, i) => descriptor.page(5, i)));
    expect(guest.unit.mmio.read32(0x80)).toBe(63 * 16);
    guest.queue.submit(...Array.from({ length: 10 }, (_, i) => descriptor.page(5, i)));
    expect(guest.unit.mmio.read32(0x80)).toBe(64 * 16);
    await settle(guest, cache.answers);
    expect(guest.unit.mmio.read32(0x80)).toBe(73 * 16);
  });

  it("leaves a bounded number of requests with a device that does not answer, also when it is switched off and on", async () => {
    const guest = begin({ deviceTlb: true });
    const answers = new AnswerQueue("manual");
    const device: DeviceTlbNotifier = { kind: "device-tlb", invalidate: (): Completion => answers.give(undefined) };
    guest.device(NIC).attach(device);
    for (let round = 0; round < 200; round++) {
      guest.enableQueue();
      guest.queue.submit(
        ...Array.from({ length: 100 }, (_, i) =>
          DeviceTlbDescriptor.pack({ TYPE: DescriptorType.DEVICE_TLB, SID: NIC_SOURCE, ADDR: i }),
        ),
      );
      guest.command(Command.QIE, false);
    }
    expect(answers.size).toBeLessThanOrEqual(32);
    expect(guest.scheduler.timerCount).toBeLessThanOrEqual(34);
    await settle(guest, answers);
    expect(guest.scheduler.timerCount).toBe(0);
  });
});

describe("a consumer that takes calls and does not answer", () => {
  it("is not given more of them than a bound; the rest follows as it answers", async () => {
    const guest = begin({ limits: { callsInFlight: 100, mappingsPerSlice: 50 } });
    const mirror = new RecordingNotifier({ answers: "manual" });
    guest.device(NIC).attach(mirror);
    await settle(guest, mirror.answers);
    for (let i = 0; i < 400; i++) guest.map(5, { iovaPfn: 0x10_0000 + i * 2, gpaPfn: 0x1000 + i * 3 });
    guest.registers.domain(5);
    await guest.scheduler.idle();
    // A table that has been begun is finished: 256 of its pages are mapped.
    expect(mirror.answers.size).toBeLessThanOrEqual(100 + 256 + 2);
    expect(guest.registers.iotlbOutcome()).toBe("pending");
    await settle(guest, mirror.answers);
    expect(mirror.pageCount).toBe(410);
    expect(guest.registers.iotlbOutcome()).toBe(2);
  });

  it("is cut off at its deadline, and what waited for it goes on", async () => {
    const guest = begin({ limits: { callsInFlight: 10, mappingsPerSlice: 5 } });
    const stuck = new RecordingNotifier({ answers: "manual" });
    guest.device(NIC).attach(stuck);
    await guest.scheduler.idle();
    const other = new RecordingNotifier();
    guest.device(NIC).attach(other);
    await guest.scheduler.idle();
    guest.scheduler.advance(5001);
    await guest.scheduler.idle();
    expect(stuck.revoked?.code).toBe("notifier-timeout");
    expect(other.pageCount).toBe(10);
  });
});

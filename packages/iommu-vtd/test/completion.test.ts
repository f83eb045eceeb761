/**
 * Commands that have to wait: asynchronous notifiers and work in slices delay the wait descriptor, ICC, IVT and GSTS, and nothing else (design D7, D9).
 */

import { byteAddress } from "@iommu-kit/iommu-core";
import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { Command, descriptor, GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask } from "./support/watched-guest.js";

const NIC = "00:03.0";

interface Slow {
  readonly guest: GuestDriver;
  readonly notifier: RecordingFlushNotifier;
  /** Lets the notifier answer everything that it owes. */
  settle(): Promise<void>;
}

async function slow(options: GuestOptions = {}, withQueue = true): Promise<Slow> {
  const guest = new GuestDriver(options);
  guest.context(NIC, { did: 5 });
  guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
  guest.setRoot();
  if (withQueue) guest.enableQueue();
  guest.enable();
  const notifier = new RecordingFlushNotifier({ answers: "manual" });
  guest.device(NIC).attach(notifier);
  const settle = async (): Promise<void> => {
    notifier.answers.settle();
    await guest.scheduler.idle();
  };
  await settle();
  return { guest, notifier, settle };
}

describe("a notifier that answers later", () => {
  it("delays the wait descriptor and what follows it, not the invalidation", async () => {
    const { guest, notifier, settle } = await slow();
    ask(guest.device(NIC), 1);
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x101 });
    expect(guest.invalidate.page(5, 1)).toBe(false);
    // Our own caches have been dropped before the notifier was told.
    expect(ask(guest.device(NIC), 1)).toBe(0x101);
    guest.queue.submit(descriptor.domain(5), guest.queue.waitFor(50));
    expect(notifier.flushed).toHaveLength(2);
    await settle();
    expect(guest.memory.peek(guest.queue.statusGpa)).not.toBe(50);
    await settle();
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(50);
    expect(guest.unit.mmio.read32(0x80)).toBe(guest.queue.tailBytes);
  });

  it("is waited for before a wait finds that its status cannot be stored; the head then points at that wait", async () => {
    const { guest, settle } = await slow();
    const before = guest.unit.mmio.read32(0x80);
    guest.queue.submit(descriptor.domain(5), descriptor.wait({ status: { gpa: 0x7000_0000, value: 1 } }));
    expect(guest.faultStatus).toBe(0);
    await settle();
    expect(guest.faultStatus & 0x10).toBe(0x10);
    expect(guest.unit.mmio.read32(0xb0) & 15).toBe(2);
    expect(guest.unit.mmio.read32(0x80)).toBe(before + 16);
  });

  it("does not delay invalidations that have no wait between them", async () => {
    const { guest, notifier, settle } = await slow();
    notifier.take();
    guest.queue.submit(descriptor.page(5, 1), descriptor.page(5, 2), descriptor.page(5, 3), guest.queue.waitFor(9));
    expect(notifier.take().map((range) => range.firstPfn)).toEqual([1, 2, 3]);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(0);
    await settle();
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(9);
  });

  it("delays IVT and ICC", async () => {
    const { guest, settle } = await slow({}, false);
    expect(guest.registers.domain(5)).toBe("pending");
    await settle();
    expect(guest.registers.iotlbOutcome()).toBe(2);
    expect(guest.registers.contexts()).toBe("pending");
    await settle();
    expect(guest.registers.contextOutcome()).toBe(1);
  });

  it("delays TES and RTPS, while the unit translates as commanded at once", async () => {
    const { guest, settle } = await slow();
    expect(guest.disable()).toBe(false);
    expect(guest.status & Command.TE).not.toBe(0);
    expect(ask(guest.device(NIC), 0x55)).toBe(0x55);
    await settle();
    expect(guest.status & Command.TE).toBe(0);
    expect(guest.setRoot()).toBe(false);
    await settle();
    expect(guest.status & Command.SRTP).not.toBe(0);
    expect(guest.enable()).toBe(false);
    await settle();
    expect(guest.status & Command.TE).not.toBe(0);
  });

  it("shows RTPS only when the last of several commands is done", async () => {
    const { guest, notifier, settle } = await slow();
    expect(guest.setRoot()).toBe(false);
    expect(guest.setRoot()).toBe(false);
    notifier.answers.settle(1);
    await guest.scheduler.idle();
    expect(guest.status & Command.SRTP).toBe(0);
    await settle();
    expect(guest.status & Command.SRTP).not.toBe(0);
  });

  it("means nothing to a queue that has been turned off and on meanwhile", async () => {
    const { guest, settle } = await slow();
    guest.invalidate.page(5, 1);
    guest.command(Command.QIE, false);
    guest.enableQueue();
    const before = guest.memory.peek(guest.queue.statusGpa);
    await settle();
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(before);
    expect(guest.unit.mmio.read32(0x80)).toBe(0);
  });

  it("means nothing to registers that have been reset meanwhile", async () => {
    const { guest, settle } = await slow({}, false);
    guest.registers.all();
    void guest.unit.reset();
    await settle();
    expect(guest.unit.mmio.read64(0xf8)).toBe(0n);
    expect(guest.status).toBe(0);
  });

  it("and never does is cut off; the guest goes on", async () => {
    const { guest, notifier } = await slow();
    guest.invalidate.page(5, 1);
    await guest.scheduler.idle();
    guest.scheduler.advance(5000);
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    expect(notifier.revoked).toMatchObject({ code: "notifier-timeout" });
    expect(guest.faultStatus).toBe(0);
  });

  it("and fails is cut off; the guest goes on", async () => {
    const { guest, notifier } = await slow();
    guest.invalidate.page(5, 1);
    notifier.answers.fail(new Error("gone"));
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    expect(guest.device(NIC).attachments[0]?.state).toBe("failed");
  });
});

describe("a notifier's callback", () => {
  it("may translate, but not write registers, attach or detach", () => {
    const guest = new GuestDriver({ cachingMode: true });
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
    guest.start();
    const codes: unknown[] = [];
    const attempt = (action: () => unknown): void => {
      try {
        action();
        codes.push("done");
      } catch (error) {
        codes.push((error as { code?: string }).code);
      }
    };
    const space = guest.device(NIC);
    const notifier = new RecordingNotifier({
      onCall: (call) => {
        if (call.type !== "map") return;
        attempt(() => ask(space, 1));
        attempt(() => guest.unit.mmio.read32(0x1c));
        attempt(() => guest.unit.mmio.write32(0x18, 0));
        attempt(() => guest.unit.mmio.write64(0x20, 0n));
        attempt(() => space.attach(new RecordingNotifier()));
        attempt(() => guest.unit.reset());
      },
    });
    space.attach(notifier);
    expect(codes).toEqual(["done", "done", "reentrant-call", "reentrant-call", "reentrant-call", "reentrant-call"]);
    notifier.check();
  });

  it("that throws fails its own attachment and no other", () => {
    const guest = new GuestDriver({ cachingMode: true });
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
    guest.start();
    const bad = new RecordingNotifier({
      onCall: (call) => {
        if (call.type === "unmap") throw new Error("cannot");
      },
    });
    const good = new RecordingNotifier();
    guest.device(NIC).attach(bad);
    guest.device(NIC).attach(good);
    good.take();
    guest.unmap(5, 1);
    expect(guest.invalidate.page(5, 1)).toBe(true);
    expect(good.take()).toEqual(["unmap 0x1+1"]);
    expect(guest.device(NIC).attachments.map((attachment) => attachment.state)).toEqual(["failed", "active"]);
  });
});

describe("tables that describe more than they are", () => {
  /** A table whose 512 entries all point to itself: 2^36 pages of 4 levels. */
  function hostile(options: GuestOptions = {}): GuestDriver {
    const guest = new GuestDriver({ cachingMode: true, ...options });
    const pfn = guest.newFrame();
    for (let index = 0; index < 512; index++) guest.memory.pokeEntry(pfn * 4096 + index * 8, (pfn << 12) | 3, 0);
    guest.context(NIC, { did: 5, rootPfn: pfn });
    return guest;
  }

  it("are walked in bounded slices; the view fails closed when its budget is spent, and says so", async () => {
    const guest = hostile({
      limits: { entriesPerSlice: 5000, mappingsPerSlice: 5000, mappingsPerView: 20_000, tablesPerView: 1000 },
    });
    const budgets: string[] = [];
    guest.unit.events.on("budget", (event) => budgets.push(event.budget));
    const notifier = new RecordingNotifier();
    guest.device(NIC).attach(notifier);
    guest.memory.resetCounters();
    guest.start();
    expect(guest.memory.counters.fetchedWords).toBeLessThan(5000 * 4);
    await guest.scheduler.idle();
    expect(budgets).toEqual(["mappings"]);
    expect(notifier.pageCount).toBe(0);
    notifier.check();
    // The guest repairs its tables: the next invalidation finds them small enough.
    guest.map(6, { iovaPfn: 1, gpaPfn: 0x100 });
    guest.context(NIC, { did: 6 });
    guest.invalidate.contexts();
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    expect(notifier.held()).toEqual([{ iovaPfn: 1, pageCount: 1, gpaPfn: 0x100, access: 3 }]);
  });

  it("answer single requests as any others do", () => {
    const guest = hostile();
    guest.start();
    expect(typeof ask(guest.device(NIC), 0x123_4567)).toBe("number");
  });

  it("do not keep other devices of the guest from being served", async () => {
    const guest = hostile({ limits: { entriesPerSlice: 2000, mappingsPerSlice: 2000, mappingsPerView: 20_000 } });
    guest.context("00:04.0", { did: 7 });
    guest.map(7, { iovaPfn: 1, gpaPfn: 0x100 });
    const bad = new RecordingNotifier({ name: "bad" });
    const good = new RecordingNotifier({ name: "good" });
    guest.device(NIC).attach(bad);
    guest.device("00:04.0").attach(good);
    guest.start();
    expect(ask(guest.device("00:04.0"), 1)).toBe(0x100);
    await guest.scheduler.idle();
    expect(good.held()).toEqual([{ iovaPfn: 1, pageCount: 1, gpaPfn: 0x100, access: 3 }]);
  });

  it("an invalidation of the whole queue gives way between slices and completes", async () => {
    const guest = new GuestDriver({ limits: { entriesPerSlice: 50 } });
    guest.enableQueue();
    guest.queue.write(...Array.from({ length: 200 }, () => descriptor.all()), guest.queue.waitFor(3));
    guest.queue.kick();
    expect(guest.unit.mmio.read32(0x80)).toBeLessThan(60 * 16);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(0);
    await guest.scheduler.idle();
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(3);
  });
});

describe("a lease of a device that nothing is attached to", () => {
  it.each([
    ["without first-stage tables", {}, false],
    [
      "with first-stage tables, which a page-selective invalidation reaches whole",
      { firstStage: "4-level", scalableMode: true },
      true,
    ],
  ] as const)("is recalled by an invalidation of its pages, and in a unit %s", (_unit, config, everyLease) => {
    const guest = new GuestDriver(config);
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
    guest.map(5, { iovaPfn: 2, gpaPfn: 0x200 });
    guest.setRoot();
    guest.enableQueue();
    guest.enable();
    const lease = guest.device(NIC).dma.segments(byteAddress(1), 4096, 3);
    let recalled = 0;
    if (lease !== undefined)
      lease.onRecall = () => {
        recalled += 1;
        lease.release();
      };
    guest.invalidate.page(5, 2);
    expect(recalled).toBe(everyLease ? 1 : 0);
    guest.invalidate.page(5, 1);
    expect([recalled, lease?.valid]).toEqual([1, false]);
  });
});

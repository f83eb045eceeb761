/**
 * What a host supplies fails: memory, the message sink, the scheduler, the clock, listeners, lease holders. The rows of docs/failure-modes.md that are not consumers'.
 */

import { byteAddress } from "@iommu-kit/iommu-core";
import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { descriptor, GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask } from "../support/watched-guest.js";

const NIC = "00:03.0";
const FSTS = 0x34;
const FECTL = 0x38;
const LOST = /lost its memory/;

function begin(options: GuestOptions = {}): GuestDriver {
  const guest = new GuestDriver({ cachingMode: true, ...options });
  guest.context(NIC, { did: 5 });
  for (let i = 0; i < 4; i++) guest.map(5, { iovaPfn: 1 + i * 600, gpaPfn: 0x100 + i });
  guest.start();
  return guest;
}

/** Makes the memory port throw for these addresses until it is mended. */
function breakMemory({ memory }: GuestDriver, lost: (gpa: number) => boolean): () => void {
  const fetch = memory.fetch.bind(memory);
  memory.fetch = (gpa, into) => {
    if (lost(gpa)) throw new Error("the host lost its memory");
    return fetch(gpa, into);
  };
  return () => void (memory.fetch = fetch);
}

/** Everything at and behind the domain's tables, which lie above all other structures. */
function isTable(guest: GuestDriver): (gpa: number) => boolean {
  const first = guest.tables(5).rootPfn * 4096;
  return (gpa) => gpa >= first;
}

describe("a memory port that has lost a page of tables", () => {
  it("is a fault for the device, and what the tables mapped is unmapped until they can be read again", async () => {
    const guest = begin();
    const mirror = new RecordingNotifier();
    guest.device(NIC).attach(mirror);
    const { rootPfn } = guest.tables(5);
    guest.memory.poison(rootPfn);
    guest.invalidate.domain(5);
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    expect(mirror.pageCount).toBe(0);
    expect(ask(guest.device(NIC), 1)).toBe("fault 3");
    guest.memory.heal(rootPfn);
    guest.invalidate.domain(5);
    await guest.scheduler.idle();
    expect(mirror.pageCount).toBe(4);
    mirror.check();
  });
});

describe("a memory port that has lost the queue", () => {
  it("stops it with an error, and it goes on when the guest has cleared that", () => {
    const guest = begin();
    guest.memory.poison(guest.queue.basePfn);
    guest.queue.submit(descriptor.all());
    expect(guest.faultStatus & 0x10).toBe(0x10);
    guest.memory.heal(guest.queue.basePfn);
    guest.unit.mmio.write32(FSTS, 0x10);
    expect(guest.unit.mmio.read32(0x80)).toBe(guest.queue.tailBytes);
  });
});

describe("a memory port that throws", () => {
  it("during a scan fails the view closed: nothing is held, the host hears of it, the guest goes on, the next invalidation maps again", async () => {
    const guest = begin();
    const mirror = new RecordingNotifier();
    const blocks = new RecordingNotifier({ granularity: "block" });
    guest.device(NIC).attach(mirror);
    guest.device(NIC).attach(blocks);
    const mend = breakMemory(guest, isTable(guest));
    guest.invalidate.domain(5);
    await expect(guest.scheduler.idle()).rejects.toThrow(LOST);
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    expect([mirror.pageCount, blocks.pageCount]).toEqual([0, 0]);
    mend();
    guest.invalidate.page(5, 1);
    await guest.scheduler.idle();
    expect([mirror.pageCount, blocks.pageCount]).toEqual([4, 4]);
    mirror.check();
    blocks.check();
  });

  it("in a later slice of a scan does the same", async () => {
    const guest = begin({ limits: { mappingsPerSlice: 1 } });
    const mirror = new RecordingNotifier();
    guest.device(NIC).attach(mirror);
    await guest.scheduler.idle();
    guest.unmap(5, 1, 2000);
    for (let i = 0; i < 4; i++) guest.map(5, { iovaPfn: 2 + i * 600, gpaPfn: 0x200 + i });
    guest.invalidate.domain(5);
    const mend = breakMemory(guest, isTable(guest));
    await expect(guest.scheduler.idle()).rejects.toThrow(LOST);
    await guest.scheduler.idle();
    expect(mirror.pageCount).toBe(0);
    expect(guest.queue.completed).toBe(true);
    mend();
    guest.invalidate.domain(5);
    await guest.scheduler.idle();
    expect(mirror.pageCount).toBe(4);
    mirror.check();
  });

  it("during a device's request throws at the device model, and nothing of it is cached", () => {
    const guest = begin();
    const mend = breakMemory(guest, isTable(guest));
    expect(() => ask(guest.device(NIC), 1)).toThrow(LOST);
    mend();
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x777 });
    expect(ask(guest.device(NIC), 1)).toBe(0x777);
  });

  it("while contexts are looked up throws at the access that did it, and the guest is never told that it is done", () => {
    const guest = new GuestDriver({ cachingMode: true });
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
    guest.setRoot();
    guest.enable();
    guest.device(NIC).attach(new RecordingNotifier());
    const mend = breakMemory(guest, () => true);
    expect(() => guest.registers.contexts()).toThrow(LOST);
    expect(guest.registers.contextOutcome()).toBe("pending");
    mend();
    guest.registers.contexts();
    expect(guest.registers.contextOutcome()).toBe(1);
  });
});

describe("a message sink that throws", () => {
  it("is heard of from the event loop; the fault is recorded, the invalidation is done, the device's write is answered", async () => {
    const guest = begin();
    guest.messages.push = () => {
      throw new Error("no interrupt controller");
    };
    guest.unit.mmio.write32(FECTL, 0);
    expect(ask(guest.device(NIC), 0x9999)).toMatch(/^fault/);
    expect(guest.faults()).toHaveLength(1);
    await expect(guest.scheduler.idle()).rejects.toThrow("no interrupt controller");
    const mirror = new RecordingNotifier();
    guest.device(NIC).attach(mirror);
    guest.unmap(5, 1);
    guest.invalidate.domain(5);
    expect(guest.queue.completed).toBe(true);
    expect(mirror.pageCount).toBe(3);
  });
});

describe("a scheduler that never runs what it is given", () => {
  it("leaves the guest waiting rather than telling it that a page is free; requests and flushes go on", () => {
    const guest = begin({ limits: { mappingsPerSlice: 1 } });
    const mirror = new RecordingNotifier();
    const cache = new RecordingFlushNotifier();
    guest.device(NIC).attach(cache);
    guest.device(NIC).attach(mirror);
    cache.take();
    guest.unmap(5, 1, 2000);
    guest.invalidate.domain(5);
    expect(guest.queue.completed).toBe(false);
    expect(cache.take()).toHaveLength(1);
    expect(ask(guest.device(NIC), 1)).toMatch(/^fault/);
  });
});

describe("a clock that stands still", () => {
  it("lets a consumer that never answers hold up the guest for ever, and nobody else's consumer", async () => {
    const guest = begin();
    const silent = new RecordingFlushNotifier();
    const mirror = new RecordingNotifier();
    guest.device(NIC).attach(silent);
    guest.device(NIC).attach(mirror);
    silent.answers.mode = "manual";
    guest.unmap(5, 1);
    guest.invalidate.domain(5);
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(false);
    expect(mirror.pageCount).toBe(3);
    expect(guest.scheduler.timerCount).toBe(1);
  });
});

describe("a listener that throws", () => {
  it("is heard of from the event loop; guest, device and consumers do not notice", async () => {
    const guest = begin();
    for (const name of ["map", "unmap", "fault", "invalidate", "attach", "change"] as const)
      guest.unit.events.on(name, () => {
        throw new Error(`a listener of ${name}`);
      });
    const mirror = new RecordingNotifier();
    guest.device(NIC).attach(mirror);
    guest.unmap(5, 1);
    guest.invalidate.domain(5);
    expect(ask(guest.device(NIC), 1)).toMatch(/^fault/);
    expect(guest.queue.completed).toBe(true);
    expect(mirror.pageCount).toBe(3);
    const heard: string[] = [];
    while (guest.scheduler.deferredCount > 0) {
      await guest.scheduler.idle().catch((error: unknown) => heard.push(String(error)));
    }
    expect(heard.length).toBeGreaterThan(0);
  });
});

describe("a listener of interrupt routes that throws", () => {
  it("is heard of from the event loop, and the guest's wait is done", async () => {
    const guest = begin();
    guest.unit.onRoutesChanged = () => {
      throw new Error("no routes");
    };
    expect(guest.invalidate.interrupts()).toBe(true);
    await expect(guest.scheduler.idle()).rejects.toThrow("no routes");
    await guest.unit.destroy();
    await guest.scheduler.idle();
  });
});

describe("a lease that is never given back", () => {
  it("holds the guest up to its deadline, then is revoked: its holder sees that before the guest does", async () => {
    const guest = begin();
    const lease = guest.device(NIC).dma.segments(byteAddress(1), 4096, 3);
    expect(lease?.valid).toBe(true);
    guest.unmap(5, 1);
    guest.invalidate.domain(5);
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(false);
    guest.scheduler.advance(1001);
    expect(lease?.valid).toBe(false);
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
  });
});

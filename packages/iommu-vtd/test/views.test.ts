/**
 * Devices that share a domain, part and meet again; notifiers that come and go in every state of the unit.
 */

import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { describe, expect, it } from "vitest";
import { WatchedGuest } from "./support/watched-guest.js";

const NIC = "00:03.0";
const DISK = "00:04.0";

/** Both devices in domain 5, which maps frame 0x10; domain 6 maps 0x10 alike and 0x20 too. */
function sharing(): WatchedGuest {
  const guest = new WatchedGuest();
  guest.context(NIC, { did: 5 });
  guest.context(DISK, { did: 5 });
  guest.map(5, { iovaPfn: 0x10, gpaPfn: 0x800 });
  guest.map(6, { iovaPfn: 0x10, gpaPfn: 0x800 });
  guest.map(6, { iovaPfn: 0x20, gpaPfn: 0x801 });
  guest.start();
  return guest;
}

describe("devices of one domain", () => {
  it("are brought in step by one pass over the tables", () => {
    const guest = sharing();
    const [nic, disk] = [guest.watch(NIC), guest.watch(DISK)];
    const single = new WatchedGuest();
    single.context(NIC, { did: 5 });
    single.map(5, { iovaPfn: 0x10, gpaPfn: 0x800 });
    single.start();
    single.watch(NIC);
    const cost = (one: WatchedGuest): number => {
      one.map(5, { iovaPfn: 0x11, gpaPfn: 0x801 });
      one.memory.resetCounters();
      one.invalidate.domain(5);
      return one.memory.counters.fetchedWords;
    };
    // The second device costs its root-entry and context-entry at most, not a second walk.
    expect(cost(guest) - cost(single)).toBeLessThan(20);
    expect(nic.take().at(-1)).toBe("map 0x11+1 -> 0x801 rw");
    expect(disk.take().at(-1)).toBe("map 0x11+1 -> 0x801 rw");
  });

  it("hear nothing of a third notifier that comes later; it gets every mapping", () => {
    const guest = sharing();
    const nic = guest.watch(NIC);
    nic.take();
    const late = guest.watch(DISK, { name: "late" });
    expect(late.take()).toEqual(["map 0x10+1 -> 0x800 rw"]);
    expect(nic.take()).toEqual([]);
    const second = guest.watch(NIC, { name: "second on the same device" });
    expect(second.take()).toEqual(["map 0x10+1 -> 0x800 rw"]);
    expect([nic.take(), late.take()]).toEqual([[], []]);
  });

  it("get the guest's pending changes at a newcomer's replay, each once", () => {
    const guest = sharing();
    const nic = guest.watch(NIC);
    nic.take();
    guest.map(5, { iovaPfn: 0x30, gpaPfn: 0x900 });
    const disk = guest.watch(DISK);
    expect(nic.take()).toEqual(["map 0x30+1 -> 0x900 rw"]);
    guest.invalidate.page(5, 0x30);
    expect(nic.take()).toEqual([]);
    expect(disk.take()).toEqual(["map 0x10+1 -> 0x800 rw", "map 0x30+1 -> 0x900 rw"]);
  });
});

describe("devices that part", () => {
  it("one hears the difference to its new domain, the other nothing", () => {
    const guest = sharing();
    const [nic, disk] = [guest.watch(NIC), guest.watch(DISK)];
    nic.take();
    disk.take();
    guest.context(DISK, { did: 6 });
    guest.invalidate.context(DISK, 5);
    expect(nic.take()).toEqual([]);
    expect(disk.take()).toEqual(["map 0x20+1 -> 0x801 rw"]);
    guest.map(5, { iovaPfn: 0x40, gpaPfn: 0x900 });
    guest.invalidate.domain(5);
    expect(nic.take()).toEqual(["map 0x40+1 -> 0x900 rw"]);
    expect(disk.take()).toEqual([]);
    guest.assertInStep(NIC, nic);
    guest.assertInStep(DISK, disk);
  });

  it("and meet again hear the difference back; later changes reach both", () => {
    const guest = sharing();
    const [nic, disk] = [guest.watch(NIC), guest.watch(DISK)];
    guest.context(DISK, { did: 6 });
    guest.invalidate.context(DISK, 5);
    disk.take();
    guest.context(DISK, { did: 5 });
    guest.invalidate.context(DISK, 6);
    expect(disk.take()).toEqual(["unmap 0x20+1"]);
    nic.take();
    guest.unmap(5, 0x10);
    guest.invalidate.page(5, 0x10);
    expect(nic.take()).toEqual(["unmap 0x10+1"]);
    expect(disk.take()).toEqual(["unmap 0x10+1"]);
  });

  it("all at once into one new domain: nobody is unmapped what stays", () => {
    const guest = sharing();
    const [nic, disk] = [guest.watch(NIC), guest.watch(DISK)];
    nic.take();
    disk.take();
    guest.context(NIC, { did: 6 });
    guest.context(DISK, { did: 6 });
    guest.invalidate.contexts();
    expect(nic.take()).toEqual(["map 0x20+1 -> 0x801 rw"]);
    expect(disk.take()).toEqual(["map 0x20+1 -> 0x801 rw"]);
    guest.assertInStep(NIC, nic);
    guest.assertInStep(DISK, disk);
  });

  it("in three directions: table, pass-through, blocked", () => {
    const guest = sharing();
    const third = "00:05.0";
    guest.context(third, { did: 5 });
    guest.invalidate.contexts();
    const held = [NIC, DISK, third].map((device) => guest.watch(device));
    guest.context(DISK, { did: 9, passThrough: true });
    guest.contexts.clear(third);
    guest.invalidate.contexts();
    for (const [i, device] of [NIC, DISK, third].entries()) guest.assertInStep(device, held[i] ?? guest.watch(device));
    expect(held.map((notifier) => notifier.pageCount)).toEqual([1, 0x40000, 0]);
  });

  it("with one notifier for both: it holds nothing while they differ, and everything when they agree again", () => {
    const guest = sharing();
    const container = new RecordingNotifier({ name: "container" });
    const first = guest.device(NIC).attach(container);
    const second = guest.device(DISK).attach(container);
    expect(container.take()).toEqual(["map 0x10+1 -> 0x800 rw"]);
    guest.context(DISK, { did: 6 });
    guest.invalidate.context(DISK, 5);
    expect([first.state, second.state]).toEqual(["parked", "parked"]);
    expect(container.pageCount).toBe(0);
    guest.context(NIC, { did: 6 });
    guest.invalidate.context(NIC, 5);
    expect([first.state, second.state]).toEqual(["active", "active"]);
    expect(container.held()).toEqual([
      { iovaPfn: 0x10, pageCount: 1, gpaPfn: 0x800, access: 3 },
      { iovaPfn: 0x20, pageCount: 1, gpaPfn: 0x801, access: 3 },
    ]);
    container.check();
  });

  it("a container may not be attached to a device that sees something else", () => {
    const guest = sharing();
    guest.context(DISK, { did: 6 });
    const container = new RecordingNotifier();
    guest.device(NIC).attach(container);
    expect(() => guest.device(DISK).attach(container)).toThrow(
      expect.objectContaining({ code: "different-view", message: expect.stringContaining("00:04.0") as string }),
    );
  });
});

describe("a notifier that comes and goes", () => {
  const states: readonly (readonly [string, (guest: WatchedGuest) => void])[] = [
    ["while translation is off", (guest) => guest.disable()],
    ["while its device is behind a table", () => undefined],
    [
      "while its device is in pass-through",
      (guest) => {
        guest.context(NIC, { did: 9, passThrough: true });
        guest.invalidate.context(NIC);
      },
    ],
    [
      "while its device is blocked",
      (guest) => {
        guest.contexts.clear(NIC);
        guest.invalidate.context(NIC);
      },
    ],
    ["while a queue error stands", (guest) => guest.queue.submit(Int32Array.of(0x1f))],
    ["before the unit was ever set up", (guest) => guest.reset()],
  ];
  for (const [name, enter] of states) {
    it(`${name} holds what its device reaches, and nothing afterwards`, () => {
      const guest = sharing();
      enter(guest);
      const other = guest.watch(DISK);
      other.take();
      const notifier = guest.watch(NIC);
      guest.assertInStep(NIC, notifier);
      const [attachment] = guest.device(NIC).attachments;
      expect(attachment?.state).toBe("active");
      // What it held goes with it, although the pages stay mapped: the device loses its consumer.
      const leaving = new RecordingNotifier({ name: "leaving" });
      const left = guest.device(NIC).attach(leaving);
      expect(left.detach()).toBeUndefined();
      leaving.end();
      leaving.check();
      expect(left.state).toBe("detached");
      expect(other.take()).toEqual([]);
      guest.start();
      guest.assertInStep(NIC, notifier);
    });
  }

  it("in the middle of a slice gets the whole state, and the guest's invalidation completes", async () => {
    const guest = new WatchedGuest({ limits: { entriesPerSlice: 600, mappingsPerSlice: 100 } });
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 0, pageCount: 2000, gpaPfn: 0x1000 });
    guest.start();
    const first = guest.watch(NIC);
    await guest.scheduler.idle();
    guest.map(5, { iovaPfn: 2048, pageCount: 2000, gpaPfn: 0x3000 });
    expect(guest.invalidate.domain(5)).toBe(false);
    expect(first.pageCount).toBeLessThan(4000);
    const late = guest.watch(NIC, { name: "late" });
    const gone = new RecordingNotifier({ name: "gone" });
    const attachment = guest.device(NIC).attach(gone);
    expect(attachment.state).toBe("syncing");
    void attachment.detach();
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    guest.assertInStep(NIC, first);
    guest.assertInStep(NIC, late);
    gone.end();
    gone.check();
  });

  it("while the queue waits for another one", async () => {
    const guest = sharing();
    const slow = new RecordingNotifier({ name: "slow", answers: "manual" });
    guest.device(NIC).attach(slow);
    slow.answers.settle();
    await guest.scheduler.idle();
    guest.unmap(5, 0x10);
    expect(guest.invalidate.page(5, 0x10)).toBe(false);
    const late = guest.watch(DISK, { name: "late" });
    await guest.scheduler.idle();
    expect(late.held()).toEqual([]);
    expect(guest.queue.completed).toBe(false);
    for (let i = 0; i < 4; i++) {
      slow.answers.settle();
      await guest.scheduler.idle();
    }
    expect(guest.queue.completed).toBe(true);
    guest.assertInStep(DISK, late);
  });

  it("may be unplugged with its device, in the middle of everything", async () => {
    const guest = sharing();
    const slow = new RecordingNotifier({ name: "slow", answers: "manual" });
    const space = guest.device(NIC);
    space.attach(slow);
    guest.unmap(5, 0x10);
    guest.invalidate.page(5, 0x10);
    void space.unplug();
    expect(space.dma.read(0x10000, new Uint8Array(4))).toBe(false);
    for (let i = 0; i < 6; i++) {
      slow.answers.settle();
      await guest.scheduler.idle();
    }
    expect(guest.queue.completed).toBe(true);
    expect(slow.pageCount).toBe(0);
    expect(guest.device(NIC)).not.toBe(space);
  });

  it("of the MAP kind is refused without caching mode, with an error that names the device's fix", () => {
    const guest = new WatchedGuest({ cachingMode: false });
    expect(() => guest.device(NIC).attach(new RecordingNotifier())).toThrow(
      expect.objectContaining({
        code: "caching-mode-required",
        hint: expect.stringContaining("cachingMode: true") as string,
      }),
    );
    expect(guest.device(NIC).attachments).toEqual([]);
    expect(() => guest.device(NIC).attach(new RecordingFlushNotifier())).not.toThrow();
  });
});

describe("a notifier for part of the space", () => {
  it("hears events cut at both ends, the target moved by as much; its neighbour keeps its own", () => {
    const guest = sharing();
    guest.map(5, { iovaPfn: 0x40000, gpaPfn: 0x80000, leafPages: 2 ** 18 });
    guest.invalidate.domain(5);
    const low = guest.watch(NIC, { name: "low", range: { firstPfn: 0, pageCount: 0x50000 } });
    const high = guest.watch(NIC, { name: "high", range: { firstPfn: 0x50000, pageCount: 0x10000 } });
    expect(low.held()).toEqual([
      { iovaPfn: 0x10, pageCount: 1, gpaPfn: 0x800, access: 3 },
      { iovaPfn: 0x40000, pageCount: 0x10000, gpaPfn: 0x80000, access: 3 },
    ]);
    expect(high.held()).toEqual([{ iovaPfn: 0x50000, pageCount: 0x10000, gpaPfn: 0x90000, access: 3 }]);
    void guest.device(NIC).attachments[0]?.detach();
    expect(high.pageCount).toBe(0x10000);
    high.check();
  });
});

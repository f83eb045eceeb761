/**
 * Every path that brings a MAP notifier in step (design section 2): each is judged at every call by the slow model, which objects to an unmap of a page that stays mapped.
 */

import { RecordingFlushNotifier } from "@iommu-kit/iommu-core/testing";
import { describe, expect, it } from "vitest";
import { WatchedGuest } from "./support/watched-guest.js";

const NIC = "00:03.0";
const DISK = "00:04.0";

/** A guest whose NIC sees domain 5: frames 0x10 to 0x13, and 2 MiB at 0x400. */
function running(): WatchedGuest {
  const guest = new WatchedGuest();
  guest.context(NIC, { did: 5 });
  guest.map(5, { iovaPfn: 0x10, pageCount: 4, gpaPfn: 0x800 });
  guest.map(5, { iovaPfn: 0x400, gpaPfn: 0x1000, leafPages: 512 });
  guest.start();
  return guest;
}

/** Changes one page, removes one, adds one: frames 0x10 and 0x11 and the large page stay. */
function edit(guest: WatchedGuest): void {
  guest.map(5, { iovaPfn: 0x12, gpaPfn: 0x900 });
  guest.unmap(5, 0x13);
  guest.map(5, { iovaPfn: 0x20, gpaPfn: 0x901, access: 1 });
}

const DIFFERENCES = ["unmap 0x13+1", "unmap 0x12+1", "map 0x12+1 -> 0x900 rw", "map 0x20+1 -> 0x901 r-"];

describe("a MAP notifier hears exactly the differences", () => {
  const paths: readonly (readonly [string, (guest: WatchedGuest) => void])[] = [
    ["a global IOTLB invalidation", (guest) => guest.invalidate.all()],
    ["a domain-selective IOTLB invalidation", (guest) => guest.invalidate.domain(5)],
    ["a page-selective IOTLB invalidation of all of them", (guest) => guest.invalidate.page(5, 0, 10)],
    ["a global context-cache invalidation", (guest) => guest.invalidate.contexts()],
    ["a domain-selective context-cache invalidation", (guest) => guest.invalidate.contextsOfDomain(5)],
    ["a device-selective context-cache invalidation", (guest) => guest.invalidate.context(NIC, 5)],
    [
      "a device-selective context-cache invalidation by function mask",
      (guest) => guest.invalidate.context("00:03.7", 5, 3),
    ],
    ["setting the same root table again", (guest) => guest.setRoot()],
    [
      "a root table that says the same at another place",
      (guest) => {
        const copy = guest.newFrame();
        for (let at = 0; at < 4096; at += 4)
          guest.memory.poke(copy * 4096 + at, guest.memory.peek(guest.contexts.rootPfn * 4096 + at));
        guest.setRootTo(copy);
      },
    ],
  ];
  for (const [name, invalidate] of paths) {
    it(`of ${name}, and nothing when it comes again`, () => {
      const guest = running();
      const notifier = guest.watch(NIC);
      expect(notifier.take()).toEqual(["map 0x10+4 -> 0x800 rw", "map 0x400+512 -> 0x1000 rw"]);
      edit(guest);
      invalidate(guest);
      expect(notifier.take()).toEqual(DIFFERENCES);
      invalidate(guest);
      expect(notifier.take()).toEqual([]);
      guest.assertInStep(NIC, notifier);
    });
  }

  const registerPaths: readonly (readonly [string, number, (guest: WatchedGuest) => unknown])[] = [
    ["IOTLB, global", 1, (guest) => guest.registers.all()],
    ["IOTLB, domain", 2, (guest) => guest.registers.domain(5)],
    ["IOTLB, page", 3, (guest) => guest.registers.page(5, 0, 10)],
    ["CCMD, global", 1, (guest) => guest.registers.contexts()],
    ["CCMD, domain (done as global)", 1, (guest) => guest.registers.contextsOfDomain(5)],
    ["CCMD, device", 3, (guest) => guest.registers.context(NIC, 5)],
  ];
  for (const [name, granularity, invalidate] of registerPaths) {
    it(`of a register command: ${name}`, () => {
      const guest = running();
      guest.command(0x0400_0000, false);
      const notifier = guest.watch(NIC);
      notifier.take();
      edit(guest);
      expect(invalidate(guest)).toBe(granularity);
      expect(notifier.take()).toEqual(DIFFERENCES);
      invalidate(guest);
      expect(notifier.take()).toEqual([]);
      guest.assertInStep(NIC, notifier);
    });
  }

  it("of the pages named, and of no others", () => {
    const guest = running();
    const notifier = guest.watch(NIC);
    notifier.take();
    edit(guest);
    guest.invalidate.page(5, 0x12);
    expect(notifier.take()).toEqual(["unmap 0x12+1", "map 0x12+1 -> 0x900 rw"]);
    guest.invalidate.page(5, 0x13);
    expect(notifier.take()).toEqual(["unmap 0x13+1"]);
    guest.invalidate.page(5, 0x20, 3);
    expect(notifier.take()).toEqual(["map 0x20+1 -> 0x901 r-"]);
    guest.assertInStep(NIC, notifier);
  });

  it("of its own domain only", () => {
    const guest = running();
    const notifier = guest.watch(NIC);
    notifier.take();
    edit(guest);
    guest.invalidate.domain(6);
    guest.invalidate.page(6, 0, 10);
    guest.invalidate.context(DISK);
    expect(notifier.take()).toEqual([]);
  });
});

describe("turning translation on and off", () => {
  it("keeps what both modes map alike, and tells the rest", () => {
    const guest = new WatchedGuest({ ram: [{ firstPfn: 0, pageCount: 0x40000 }] });
    guest.context(NIC, { did: 5 });
    // Frames 0x10 to 0x13 onto themselves: mapped in both modes.
    guest.map(5, { iovaPfn: 0x10, pageCount: 4, gpaPfn: 0x10 });
    const notifier = guest.watch(NIC);
    expect(notifier.take()).toEqual(["map 0x0+262144 -> 0x0 rw"]);
    guest.start();
    guest.assertInStep(NIC, notifier);
    expect(notifier.take().filter((call) => !call.startsWith("unmap"))).toEqual([]);
    guest.disable();
    guest.assertInStep(NIC, notifier);
    expect(notifier.take().filter((call) => !call.startsWith("map"))).toEqual([]);
  });

  it("moves to pass-through and back without an unmap of the pages that stay", () => {
    const guest = running();
    guest.map(5, { iovaPfn: 0x40, pageCount: 2, gpaPfn: 0x40 });
    guest.invalidate.domain(5);
    const notifier = guest.watch(NIC);
    guest.context(NIC, { did: 7, passThrough: true });
    guest.invalidate.context(NIC, 5);
    guest.assertInStep(NIC, notifier);
    expect(notifier.pageCount).toBe(0x40000);
    guest.context(NIC, { did: 5 });
    guest.invalidate.context(NIC, 7);
    guest.assertInStep(NIC, notifier);
    expect(notifier.pageCount).toBe(4 + 512 + 2);
  });

  it("says nothing of a device that is in pass-through already", () => {
    const guest = new WatchedGuest();
    guest.context(NIC, { did: 7, passThrough: true });
    const notifier = guest.watch(NIC);
    notifier.take();
    guest.start();
    guest.disable();
    expect(notifier.take()).toEqual([]);
    guest.assertInStep(NIC, notifier);
  });

  it("returns to the identity mapping on reset", () => {
    const guest = running();
    const notifier = guest.watch(NIC);
    guest.reset();
    expect(guest.status).toBe(0);
    guest.assertInStep(NIC, notifier);
    expect(notifier.held()).toEqual([{ iovaPfn: 0, pageCount: 0x40000, gpaPfn: 0, access: 3 }]);
    guest.start();
    guest.assertInStep(NIC, notifier);
    expect(notifier.pageCount).toBe(516);
  });
});

describe("while translation is off or passed through", () => {
  it("the regions that the host names are mapped onto themselves, the interrupt window never", () => {
    const guest = new WatchedGuest({
      ram: [
        { firstPfn: 0, pageCount: 0x40000 },
        { firstPfn: 0x100000, pageCount: 0x100 },
      ],
    });
    const notifier = guest.watch(NIC);
    expect(notifier.held()).toEqual([
      { iovaPfn: 0, pageCount: 0x40000, gpaPfn: 0, access: 3 },
      { iovaPfn: 0x100000, pageCount: 0x100, gpaPfn: 0x100000, access: 3 },
    ]);
    guest.setRegions([{ firstPfn: 0xfed00, pageCount: 0x300 }]);
    expect(notifier.held()).toEqual([
      { iovaPfn: 0xfed00, pageCount: 0x100, gpaPfn: 0xfed00, access: 3 },
      { iovaPfn: 0xfef00, pageCount: 0x100, gpaPfn: 0xfef00, access: 3 },
    ]);
    notifier.check();
  });

  it("a region that comes or goes is told, those that stay are not", () => {
    const guest = new WatchedGuest({ ram: [{ firstPfn: 0, pageCount: 0x100 }] });
    const notifier = guest.watch(NIC);
    notifier.take();
    guest.setRegions([
      { firstPfn: 0, pageCount: 0x100 },
      { firstPfn: 0xc0000, pageCount: 4 },
    ]);
    expect(notifier.take()).toEqual(["map 0xc0000+4 -> 0xc0000 rw"]);
    guest.setRegions([
      { firstPfn: 0, pageCount: 0x100 },
      { firstPfn: 0xd0000, pageCount: 4 },
    ]);
    expect(notifier.take()).toEqual(["unmap 0xc0000+4", "map 0xd0000+4 -> 0xd0000 rw"]);
  });

  it("a region that becomes protected is taken back from notifiers, from full tables of pages too, and given back", () => {
    const guest = new WatchedGuest({ protectedRegions: ["low"] });
    guest.context(NIC, { did: 5 });
    // Frames 0x1000 to 0x11ff are 2 MiB, from 16 MiB on.
    guest.map(5, { iovaPfn: 0, pageCount: 512, gpaPfn: 0x1000 });
    guest.map(5, { iovaPfn: 0x300, pageCount: 2, gpaPfn: 0x11ff });
    guest.start();
    const notifier = guest.watch(NIC, { truth: () => undefined });
    guest.unit.mmio.write32(0x68, 0x0100_0000);
    guest.unit.mmio.write32(0x6c, 0x0100_0000);
    guest.unit.mmio.write32(0x64, 0x8000_0000);
    expect(notifier.held()).toEqual([{ iovaPfn: 0x301, pageCount: 1, gpaPfn: 0x1200, access: 3 }]);
    guest.unit.mmio.write32(0x64, 0);
    guest.assertInStep(NIC, notifier);
  });

  it("regions are not told to a device behind a table", () => {
    const guest = running();
    const notifier = guest.watch(NIC);
    notifier.take();
    guest.setRegions([{ firstPfn: 0, pageCount: 0x1000 }]);
    expect(notifier.take()).toEqual([]);
    guest.disable();
    expect(notifier.held()).toEqual([{ iovaPfn: 0, pageCount: 0x1000, gpaPfn: 0, access: 3 }]);
  });
});

describe("a context entry that is taken away", () => {
  it("unmaps everything of its device, and gives it back when it returns", () => {
    const guest = running();
    const notifier = guest.watch(NIC);
    notifier.take();
    guest.contexts.clear(NIC);
    guest.invalidate.context(NIC, 5);
    expect(notifier.take()).toEqual(["unmap 0x10+4", "unmap 0x400+512"]);
    guest.context(NIC, { did: 5 });
    guest.invalidate.context(NIC);
    expect(notifier.take()).toEqual(["map 0x10+4 -> 0x800 rw", "map 0x400+512 -> 0x1000 rw"]);
    guest.assertInStep(NIC, notifier);
  });

  const broken: readonly (readonly [string, (guest: WatchedGuest) => void])[] = [
    ["reserved bits", (guest) => guest.context(NIC, { did: 5, fields: { TT: 3 } })],
    ["a width that the unit lacks", (guest) => guest.context(NIC, { did: 5, fields: { AW: 3 } })],
    [
      "an unreadable context table",
      (guest) => guest.memory.poison(Math.floor(guest.contexts.contextEntryGpa(NIC) / 4096)),
    ],
    ["a root entry that is not present", (guest) => guest.memory.poke(guest.contexts.rootEntryGpa(NIC), 0)],
    ["a root entry with reserved bits", (guest) => guest.memory.poke(guest.contexts.rootEntryGpa(NIC) + 8, 1)],
  ];
  for (const [name, breakIt] of broken) {
    it(`or made invalid by ${name} unmaps everything`, () => {
      const guest = running();
      const notifier = guest.watch(NIC);
      breakIt(guest);
      guest.invalidate.contexts();
      expect(notifier.held()).toEqual([]);
      guest.assertInStep(NIC, notifier);
    });
  }
});

describe("an UNMAP-only notifier", () => {
  function flushed(guest: WatchedGuest): RecordingFlushNotifier {
    const notifier = new RecordingFlushNotifier();
    guest.device(NIC).attach(notifier);
    notifier.take();
    return notifier;
  }
  const ALL = { firstPfn: 0, pageCount: 2 ** 52 };

  it("gets one range for each invalidation, and no walk of tables", () => {
    const guest = running();
    const notifier = flushed(guest);
    guest.memory.resetCounters();
    guest.invalidate.page(5, 0x11);
    expect(notifier.take()).toEqual([{ firstPfn: 0x11, pageCount: 1 }]);
    guest.invalidate.page(5, 0x400, 9);
    expect(notifier.take()).toEqual([{ firstPfn: 0x400, pageCount: 512 }]);
    for (const invalidate of [
      () => guest.invalidate.domain(5),
      () => guest.invalidate.all(),
      () => guest.invalidate.contexts(),
      () => guest.invalidate.context(NIC, 5),
      () => guest.setRoot(),
      () => guest.disable(),
    ]) {
      invalidate();
      expect(notifier.take()).toEqual([ALL]);
    }
    notifier.check();
    // Descriptors, root-entry and context-entry, never a table of 512 entries.
    expect(guest.memory.counters.fetchedWords).toBeLessThan(200);
  });

  it("hears nothing of other domains", () => {
    const guest = running();
    const notifier = flushed(guest);
    guest.invalidate.page(6, 0x11);
    guest.invalidate.domain(6);
    guest.invalidate.context(DISK);
    expect(notifier.take()).toEqual([]);
  });

  it("attached before its device had a context hears of the domain that the device got later without an invalidation", () => {
    const guest = new WatchedGuest({ cachingMode: false });
    guest.start();
    const notifier = flushed(guest);
    // Without caching mode, not-present to present needs no invalidation.
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 0x10, gpaPfn: 0x800 });
    expect(guest.device(NIC).dma.read(0x10000, new Uint8Array(4))).toBe(true);
    guest.unmap(5, 0x10);
    // What it holds may be of any domain that the device saw in between.
    guest.invalidate.page(5, 0x10);
    expect(notifier.take()).toEqual([ALL]);
    guest.invalidate.page(5, 0x10);
    expect(notifier.take()).toEqual([{ firstPfn: 0x10, pageCount: 1 }]);
    guest.invalidate.domain(5);
    expect(notifier.take()).toEqual([ALL]);
  });
});

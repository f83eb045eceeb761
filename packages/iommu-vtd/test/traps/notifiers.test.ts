/**
 * Traps of replay, mapping trees and notifiers that another emulator fell into over the years, each as a test of the right behaviour.
 *
 * | what went wrong there | test here |
 * | --- | --- |
 * | everything was unmapped and mapped again on every invalidation | "an invalidation without a change ..." |
 * | an emptied page directory was skipped | "an emptied page directory ..." |
 * | a context that went away stopped the sync | "a device whose context goes away ..." |
 * | the identity mapping was not rebuilt when translation was turned off, by SRTP or by reset | "turning translation off ..." |
 * | replay page by page over the whole space; with read accesses that were logged as faults | "a replay reads tables ..." |
 * | replay sent unmaps; asked all notifiers for their kind; reached others | "a newcomer ..." |
 * | a whole unmap was enlarged to a power of two, one byte too long, or one huge range | "a notifier that leaves ..." |
 * | failed maps were kept, and unmapped later | see 21 of known-defects.test.ts |
 * | ranges that wrap at the end of the space | "mappings at the end of the space ..." |
 * | notifiers were called for ranges next to theirs, or twice, or the machine stopped | "a notifier hears of its own range only" |
 * | a change of target or rights was taken for no change | "a changed target or right ..." |
 * | domain and global invalidations did not reach caches | "a cache is flushed by ..." |
 * | PASID-based invalidations did not reach caches | "PASID-based invalidations ..." |
 * | device-TLB and IOTLB invalidations were mixed up; they walked tables; ranges of 32 bits; the wrong device | "a device TLB ..." |
 * | notifiers that the unit cannot serve were accepted, or stopped the machine, or left something behind | "a notifier that cannot be served ..." |
 * | removing one notifier disturbed others | "one of several notifiers ..." |
 * | a large page that became smaller ones, and back, made the host refuse | "1 GiB that becomes ..." |
 *
 * Traps that cannot occur here have no test: locking between threads (a unit has one), pointers into trees and arrays, layouts of memory regions, start-up of vhost rings, and the order in
 * which a host resets its devices. Targets of pages that are unmapped while writes are tracked belong to notifier-vfio's tests.
 */

import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { parseSourceId, type DeviceTlbNotifier, type FrameRange } from "@iommu-kit/iommu-core";
import { type GuestOptions, GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { WatchedGuest } from "../support/watched-guest.js";

const NIC = "00:03.0";
const DISK = "00:04.0";
const ALL: FrameRange = { firstPfn: 0, pageCount: 2 ** 52 };

function running(options: GuestOptions = {}): WatchedGuest {
  const guest = new WatchedGuest(options);
  guest.context(NIC, { did: 5 });
  guest.map(5, { iovaPfn: 0x10, pageCount: 3, gpaPfn: 0x800 });
  guest.start();
  return guest;
}

describe("sync", () => {
  it("an invalidation without a change is no event, whatever its kind", () => {
    const guest = running();
    const notifier = guest.watch(NIC);
    notifier.take();
    guest.invalidate.all();
    guest.invalidate.domain(5);
    guest.invalidate.page(5, 0x10, 5);
    guest.invalidate.contexts();
    guest.invalidate.context(NIC, 5);
    guest.setRoot();
    expect(notifier.take()).toEqual([]);
  });

  it("a page that appears is one map, and nothing the second time; one that goes is one unmap, and nothing the second time", () => {
    const guest = running();
    const notifier = guest.watch(NIC);
    notifier.take();
    guest.map(5, { iovaPfn: 0x20, gpaPfn: 0x900 });
    guest.invalidate.page(5, 0x20);
    guest.invalidate.page(5, 0x20);
    expect(notifier.take()).toEqual(["map 0x20+1 -> 0x900 rw"]);
    guest.unmap(5, 0x20);
    guest.invalidate.page(5, 0x20);
    guest.invalidate.page(5, 0x20);
    expect(notifier.take()).toEqual(["unmap 0x20+1"]);
  });

  it("a changed target or right is told for that page only, as one step where the notifier can", () => {
    const guest = running();
    const notifier = guest.watch(NIC);
    const atomic = guest.watch(NIC, { name: "atomic", replace: true });
    notifier.take();
    atomic.take();
    guest.map(5, { iovaPfn: 0x11, gpaPfn: 0x999 });
    guest.map(5, { iovaPfn: 0x12, gpaPfn: 0x802, access: 1 });
    guest.invalidate.domain(5);
    expect(notifier.take()).toEqual([
      "unmap 0x11+1",
      "map 0x11+1 -> 0x999 rw",
      "unmap 0x12+1",
      "map 0x12+1 -> 0x802 r-",
    ]);
    expect(atomic.take()).toEqual(["replace 0x11+1 -> 0x999 rw", "replace 0x12+1 -> 0x802 r-"]);
    guest.assertInStep(NIC, notifier);
  });

  it("an emptied page directory slot loses every mapping it had, also when the invalidation names all of it", () => {
    const guest = running();
    guest.map(5, { iovaPfn: 0x200, pageCount: 40, gpaPfn: 0x1000 });
    guest.invalidate.domain(5);
    const notifier = guest.watch(NIC);
    notifier.take();
    guest.memory.pokeEntry(guest.tables(5).entryGpa(0x200, 2), 0, 0);
    guest.invalidate.page(5, 0x200, 9);
    expect(notifier.take()).toEqual(["unmap 0x200+40"]);
    guest.map(5, { iovaPfn: 0x200, pageCount: 40, gpaPfn: 0x1000 });
    guest.invalidate.page(5, 0x200, 9);
    guest.assertInStep(NIC, notifier);
  });

  it("1 GiB that becomes 512 of 2 MiB, one of which becomes pages, and back, leaves a consumer of whole blocks in step", () => {
    const guest = running();
    guest.map(5, { iovaPfn: 2 ** 18, gpaPfn: 2 ** 20, leafPages: 2 ** 18 });
    guest.invalidate.domain(5);
    const pages = guest.watch(NIC);
    const blocks = guest.watch(NIC, { name: "blocks", granularity: "block" });
    const small = guest.watch(NIC, { name: "blocks of 2 MiB", granularity: "block", largestBlock: 512 });
    pages.take();
    const steps = [
      () => guest.tables(5).split(2 ** 18),
      () => guest.tables(5).split(2 ** 18 + 512),
      () => guest.unmap(5, 2 ** 18 + 600),
      () => guest.map(5, { iovaPfn: 2 ** 18 + 512, gpaPfn: 2 ** 20 + 512, leafPages: 512 }),
      () => guest.map(5, { iovaPfn: 2 ** 18, gpaPfn: 2 ** 20, leafPages: 2 ** 18 }),
    ];
    for (const step of steps) {
      step();
      guest.invalidate.page(5, 2 ** 18, 18);
      for (const notifier of [pages, blocks, small]) guest.assertInStep(NIC, notifier);
    }
    expect(pages.take()).toEqual(["unmap 0x40258+1", "map 0x40258+1 -> 0x100258 rw"]);
  });

  it("a device whose context goes away loses everything, and the sync goes on", () => {
    const guest = running();
    guest.context(DISK, { did: 5 });
    guest.invalidate.contexts();
    const [nic, disk] = [guest.watch(NIC), guest.watch(DISK)];
    guest.contexts.clear(NIC);
    guest.map(5, { iovaPfn: 0x20, gpaPfn: 0x900 });
    guest.invalidate.contexts();
    guest.invalidate.all();
    expect(nic.held()).toEqual([]);
    guest.assertInStep(DISK, disk);
    expect(disk.pageCount).toBe(4);
  });

  it("turning translation off, and reset, give firmware its identity mapping back", () => {
    const guest = running();
    const notifier = guest.watch(NIC);
    guest.disable();
    expect(notifier.pageCount).toBe(0x40000);
    guest.enable();
    expect(notifier.pageCount).toBe(3);
    guest.reset();
    expect(notifier.pageCount).toBe(0x40000);
    expect(guest.device(NIC).dma.write(0x5000, Uint8Array.of(1))).toBe(true);
    guest.assertInStep(NIC, notifier);
  });
});

describe("replay", () => {
  it("a replay reads tables once and not the space page by page, and records no faults", () => {
    const guest = running();
    guest.memory.resetCounters();
    const notifier = guest.watch(NIC);
    // 4 tables of 512 entries, root-entry and context-entry.
    expect(guest.memory.counters.fetchedWords).toBeLessThan(5 * 1024);
    expect(guest.faults()).toEqual([]);
    guest.assertInStep(NIC, notifier);
    const blocked = guest.watch(DISK);
    expect(blocked.held()).toEqual([]);
    expect(guest.faults()).toEqual([]);
  });

  it("a newcomer gets maps and nothing else; those that are there get nothing; a cache beside it gets its flush only", () => {
    const guest = running();
    const first = guest.watch(NIC);
    const cache = new RecordingFlushNotifier();
    guest.device(NIC).attach(cache);
    first.take();
    cache.take();
    const newcomer = guest.watch(NIC, { name: "newcomer" });
    expect(newcomer.take()).toEqual(["map 0x10+3 -> 0x800 rw"]);
    expect(first.take()).toEqual([]);
    expect(cache.take()).toEqual([]);
  });

  it("a notifier that leaves is unmapped exactly what it holds; a neighbour at the next page keeps its own", () => {
    const guest = running();
    guest.map(5, { iovaPfn: 0x10, pageCount: 0x20, gpaPfn: 0x800 });
    guest.map(5, { iovaPfn: 2 ** 36 - 2, pageCount: 2, gpaPfn: 0x900 });
    guest.invalidate.domain(5);
    const low = new RecordingNotifier({ name: "low" });
    const attachment = guest.device(NIC).attach(low, { range: { firstPfn: 0, pageCount: 0x18 } });
    const high = guest.watch(NIC, { name: "high", range: { firstPfn: 0x18, pageCount: 2 ** 36 - 0x18 } });
    low.take();
    high.take();
    void attachment.detach();
    expect(low.take()).toEqual(["unmap 0x10+8"]);
    expect(high.take()).toEqual([]);
    expect(high.pageCount).toBe(0x18 + 2);
    guest.reset();
    guest.start();
    high.check();
  });

  it("mappings at the end of the space are told and taken back like others", () => {
    const guest = new GuestDriver({ cachingMode: true, scalableMode: true, firstStage: "5-level" });
    const tables = guest.newFirstStageTables(5);
    tables.map(2 ** 52 - 3, 3, 0x800);
    tables.map(0, 1, 0x900);
    guest.scalableContext(NIC);
    guest.pasid(NIC, 0, { did: 5, type: "first-stage", firstRootPfn: tables.rootPfn, fields: { FSPM: 1 } });
    guest.start("scalable");
    const notifier = new RecordingNotifier();
    guest.device(NIC).attach(notifier);
    expect(notifier.take()).toEqual(["map 0x0+1 -> 0x900 rw", "map 0xffffffffffffd+3 -> 0x800 rw"]);
    tables.unmap(2 ** 52 - 1);
    guest.invalidate.pasidPages(5, 0, 2 ** 52 - 1);
    expect(notifier.take()).toEqual(["unmap 0xfffffffffffff+1"]);
    guest.invalidate.pasidAll(5, 0);
    expect(notifier.take()).toEqual([]);
    notifier.check();
  });
});

describe("ranges", () => {
  it("a notifier hears of its own range only: not of the pages next to it, and of each page once", () => {
    const guest = running();
    const range = { firstPfn: 0x11, pageCount: 1 };
    const middle = guest.watch(NIC, { name: "middle", range });
    const flushes = new RecordingFlushNotifier({ range });
    guest.device(NIC).attach(flushes, { range });
    middle.take();
    flushes.take();
    guest.unmap(5, 0x10);
    guest.unmap(5, 0x12);
    guest.invalidate.page(5, 0x10);
    guest.invalidate.page(5, 0x12);
    expect([middle.take(), flushes.take()]).toEqual([[], []]);
    guest.unmap(5, 0x11);
    guest.invalidate.page(5, 0, 18);
    guest.invalidate.all();
    expect(middle.take()).toEqual(["unmap 0x11+1"]);
    expect(flushes.take()).toEqual([range, range]);
    flushes.check();
    middle.check();
  });

  it("a superpage over the interrupt window reaches the two notifiers on its sides, cut, with their targets", () => {
    const guest = running();
    guest.map(5, { iovaPfn: 0xc0000, gpaPfn: 0x80000, leafPages: 2 ** 18 });
    guest.invalidate.domain(5);
    const below = guest.watch(NIC, { name: "below", range: { firstPfn: 0, pageCount: 0xfee00 } });
    const above = guest.watch(NIC, { name: "above", range: { firstPfn: 0xfef00, pageCount: 2 ** 36 - 0xfef00 } });
    expect(below.lookup(0xfedff)).toEqual({ gpaPfn: 0xbedff, access: 3 });
    expect(above.lookup(0xfef00)).toEqual({ gpaPfn: 0xbef00, access: 3 });
    guest.memory.pokeEntry(guest.tables(5).entryGpa(0xc0000, 3), 0, 0);
    guest.invalidate.page(5, 0xc0000, 18);
    expect([below.pageCount, above.pageCount]).toEqual([3, 0]);
    below.check();
    above.check();
  });
});

describe("caches and device TLBs", () => {
  it("a cache is flushed by every kind of invalidation of its domain, once each", () => {
    const guest = running();
    const cache = new RecordingFlushNotifier();
    guest.device(NIC).attach(cache);
    cache.take();
    guest.invalidate.page(5, 0x10);
    guest.invalidate.domain(5);
    guest.invalidate.all();
    guest.invalidate.contexts();
    expect(cache.take()).toEqual([{ firstPfn: 0x10, pageCount: 1 }, ALL, ALL, ALL]);
  });

  it("PASID-based invalidations flush the cache of their PASID, page by page and whole", () => {
    const guest = new GuestDriver({ scalableMode: true, firstStage: "4-level", pasidWidth: 20 });
    const tables = guest.newFirstStageTables();
    guest.scalableContext(NIC, { pasids: true });
    guest.pasid(NIC, 7, { did: 5, type: "first-stage", firstRootPfn: tables.rootPfn });
    guest.pasid(NIC, 8, { did: 5, type: "first-stage", firstRootPfn: tables.rootPfn });
    guest.start("scalable");
    const caches = [7, 8].map((pasid) => {
      const cache = new RecordingFlushNotifier();
      guest.device(NIC, { pasid }).attach(cache);
      cache.take();
      return cache;
    });
    guest.invalidate.pasidPages(5, 7, 0x10, 1);
    guest.invalidate.pasidAll(5, 7);
    expect(caches.map((cache) => cache.take())).toEqual([[{ firstPfn: 0x10, pageCount: 2 }, ALL], []]);
  });

  /** A device's TLB that writes down what it drops. */
  function deviceTlb(): DeviceTlbNotifier & { take(): FrameRange[] } {
    const dropped: FrameRange[] = [];
    return {
      kind: "device-tlb",
      invalidate: (firstPfn, pageCount) => void dropped.push({ firstPfn, pageCount }),
      take: () => dropped.splice(0),
    };
  }
  const invalidation = (device: string, addrPfn: number, s: 0 | 1): Int32Array =>
    Int32Array.of(3, parseSourceId(device), ((addrPfn % 2 ** 20) << 12) | s, Math.floor(addrPfn / 2 ** 20) | 0);

  it("a device TLB hears device-TLB invalidations of its device and nothing else; a cache hears the others", () => {
    const guest = running({ deviceTlb: true });
    guest.context(NIC, { did: 5, fields: { TT: 1 } });
    guest.invalidate.contexts();
    const [tlb, other, cache] = [deviceTlb(), deviceTlb(), new RecordingFlushNotifier()];
    guest.device(NIC).attach(tlb);
    guest.device("01:03.0").attach(other);
    guest.device(NIC).attach(cache);
    cache.take();
    guest.invalidate.page(5, 0x10);
    guest.invalidate.all();
    expect([tlb.take(), cache.take().length]).toEqual([[], 2]);
    // The guest lets this one have no device TLB: it is told what a cache would be.
    expect(other.take()).toEqual([ALL]);
    guest.memory.resetCounters();
    guest.queue.submit(invalidation(NIC, 0x10, 0));
    expect([tlb.take(), other.take(), cache.take()]).toEqual([[{ firstPfn: 0x10, pageCount: 1 }], [], []]);
    // The descriptor, and no table.
    expect(guest.memory.counters.fetchedWords).toBe(4);
  });

  it("a device TLB may be told of more than 4 GiB, and of everything", () => {
    const guest = running({ deviceTlb: true });
    const tlb = deviceTlb();
    guest.device(NIC).attach(tlb);
    guest.queue.submit(invalidation(NIC, 2 ** 20 - 1, 1), invalidation(NIC, 2 ** 51 - 1, 1));
    expect(tlb.take()).toEqual([{ firstPfn: 0, pageCount: 2 ** 21 }, ALL]);
  });

  it("a device TLB of a device that nobody models is invalidated without an error", () => {
    const guest = running({ deviceTlb: true });
    expect(guest.queue.run(invalidation("7f:1f.7", 0, 0))).toBe(true);
    expect(guest.faultStatus).toBe(0);
  });
});

describe("registration", () => {
  it("a notifier that cannot be served is refused with an error that names the device and the option, and leaves nothing behind", () => {
    const guest = new GuestDriver();
    const space = guest.device(NIC);
    const tlb: DeviceTlbNotifier = { kind: "device-tlb", invalidate: () => undefined };
    expect(() => space.attach(new RecordingNotifier())).toThrow(
      expect.objectContaining({ code: "caching-mode-required", message: expect.stringContaining("00:03.0") as string }),
    );
    expect(() => space.attach(tlb)).toThrow(
      expect.objectContaining({ code: "not-supported", hint: expect.stringContaining("deviceTlb: true") as string }),
    );
    expect(space.attachments).toEqual([]);
    guest.start();
    expect(guest.status >>> 31).toBe(1);
  });

  it("one of several notifiers may go without disturbing the others", () => {
    const guest = running();
    const all = ["a", "b", "c"].map((name) => guest.watch(NIC, { name }));
    void guest.device(NIC).attachments[1]?.detach();
    for (const notifier of all) notifier.take();
    guest.unmap(5, 0x10);
    guest.invalidate.page(5, 0x10);
    expect(all.map((notifier) => notifier.take())).toEqual([["unmap 0x10+1"], [], ["unmap 0x10+1"]]);
  });
});

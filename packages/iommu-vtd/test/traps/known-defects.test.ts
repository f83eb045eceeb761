/**
 * The 23 defects that are known of another emulator, each turned into a test of the right behaviour. The number is the first word of the name:
 *
 * 1 a cached page without the right is refused and recorded · 2 a write sets the dirty flag though a read cached the page · 3 a PASID entry that is not present is refused for that
 * · 4 first-stage width is that of its tables · 5 each structure is read once · 6 PASIDs in fault records · 7 clipped events move their target · 8 page invalidations are
 * aligned · 9 any address mask of a PASID-based invalidation · 10 malformed or unreadable tables map nothing · 11 malformed or unreadable contexts map nothing · 12 narrower tables
 * · 13 a superpage becomes a table · 14 context-cache invalidations keep live pages · 15 a newcomer's replay disturbs nobody · 16 a second range is unmapped whole and alone
 * · 17 interrupt window inside of superpages, codes by table mode · 18 compatibility interrupts · 19 the queue resumes · 20 exact rights · 21 refused maps · 22 code 0B is
 * qualified · 23 a range beyond the tables.
 */

import { parseSourceId, Translation } from "@iommu-kit/iommu-core";
import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { type GuestOptions, GuestDriver, remappableMessage } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask, WatchedGuest } from "../support/watched-guest.js";

const NIC = "00:03.0";
const PAGE = 4096;

function legacy(options: GuestOptions = {}): WatchedGuest {
  const guest = new WatchedGuest(options);
  guest.context(NIC, { did: 5 });
  guest.map(5, { iovaPfn: 0x10, gpaPfn: 0x800 });
  guest.start();
  return guest;
}

const SCALABLE: GuestOptions = {
  cachingMode: true,
  scalableMode: true,
  firstStage: "4-level",
  nested: true,
  secondStageFlags: true,
  pasidWidth: 20,
};

/** Scalable mode; PASID 7 and requests without PASID go through a first stage that maps frame 0x10 to 0x800. */
function scalable(options: GuestOptions = {}) {
  const guest = new GuestDriver({ ...SCALABLE, ...options });
  const tables = guest.newFirstStageTables();
  tables.map(0x10, 1, 0x800);
  guest.scalableContext(NIC, { pasids: true, fields: { PDTS: 7 } });
  for (const pasid of [0, 7]) guest.pasid(NIC, pasid, { did: 5, type: "first-stage", firstRootPfn: tables.rootPfn });
  guest.start("scalable");
  return { guest, tables };
}

describe("defects known of another emulator do not happen", () => {
  it("1: a write to a page that a read has cached without the write right is refused and recorded", () => {
    const guest = legacy();
    guest.map(5, { iovaPfn: 0x11, gpaPfn: 0x801, access: 1 });
    const { dma } = guest.device(NIC);
    expect(dma.read(0x11 * PAGE, new Uint8Array(4))).toBe(true);
    expect(dma.write(0x11 * PAGE, Uint8Array.of(1))).toBe(false);
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x05, page: 0x11, type: 0 }]);
    // A right that was added meanwhile counts: the walk is done again before the request is refused.
    guest.map(5, { iovaPfn: 0x11, gpaPfn: 0x801, access: 3 });
    expect(dma.write(0x11 * PAGE, Uint8Array.of(1))).toBe(true);
  });

  it("2: a write sets the dirty flag of a page that a read has cached, in both stages", () => {
    const { guest, tables } = scalable();
    const leaf = tables.entryGpa(0x10, 1);
    const { dma } = guest.device(NIC);
    dma.read(0x10 * PAGE, new Uint8Array(4));
    expect(guest.memory.peek(leaf) & 0x60).toBe(0x20);
    dma.write(0x10 * PAGE, Uint8Array.of(1));
    expect(guest.memory.peek(leaf) & 0x60).toBe(0x60);
    guest.map(6, { iovaPfn: 0x10, gpaPfn: 0x800 });
    guest.pasid(NIC, 0, { did: 6, type: "second-stage", fields: { SSADE: 1, PWSNP: 1 } });
    guest.invalidate.pasidEntries();
    guest.invalidate.all();
    const second = guest.tables(6).entryGpa(0x10, 1);
    dma.read(0x10 * PAGE, new Uint8Array(4));
    expect(guest.memory.peek(second) & 0x300).toBe(0x100);
    dma.write(0x10 * PAGE, Uint8Array.of(1));
    expect(guest.memory.peek(second) & 0x300).toBe(0x300);
  });

  it("3: a PASID entry that is not present is refused with 59, whatever else it says, and an empty one too", () => {
    const { guest } = scalable();
    guest.pasid(NIC, 7, { did: 5, type: "pass-through", fields: { P: 0 } });
    const space = guest.device(NIC, { pasid: 7 });
    expect(ask(space, 0x10)).toBe("fault 59");
    guest.contexts.clearPasid(NIC, 7);
    expect(ask(space, 0x10)).toBe("fault 59");
  });

  it("4: a first-stage input is canonical by the levels of its own tables, not by the second stage's width", () => {
    const { guest, tables } = scalable();
    tables.map(2 ** 35 - 1, 1, 0x801);
    tables.map(2 ** 52 - 1, 1, 0x802);
    const space = guest.device(NIC);
    expect(ask(space, 2 ** 35 - 1)).toBe(0x801);
    expect(ask(space, 2 ** 52 - 1)).toBe(0x802);
    expect(ask(space, 2 ** 35)).toBe("fault 80");
    expect(ask(space, 2 ** 52 - 2 ** 35 - 1)).toBe("fault 80");
  });

  it("5: one miss reads root, context, directory and PASID entry once each", () => {
    const { guest } = scalable();
    const space = guest.device(NIC, { pasid: 7 });
    guest.memory.resetCounters();
    ask(space, 0x10);
    // 4 words of root, 8 of context, 2 of directory, 16 of the PASID entry, and 2 for each of 4 levels, which are looked at once more when they have got their flags.
    expect(guest.memory.counters).toMatchObject({ fetches: 12, fetchedWords: 46, compareExchanges: 4 });
  });

  it("6: a record names the PASID of a request that had one, all 20 bits of it, and none of a request without", () => {
    const guest = new GuestDriver(SCALABLE);
    guest.start("scalable");
    ask(guest.device(NIC), 0x123);
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x39, pasid: undefined, page: 0x123 }]);
    ask(guest.device(NIC, { pasid: 0xa_bcde }), 0x123);
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x39, pasid: 0xa_bcde, sourceId: parseSourceId(NIC) }]);
  });

  it("7: a map that is cut at the start of a notifier's range names the target of the part that is left", () => {
    const guest = legacy();
    guest.map(5, { iovaPfn: 0x200, gpaPfn: 0x1000, leafPages: 512 });
    guest.invalidate.domain(5);
    const notifier = guest.watch(NIC, { range: { firstPfn: 0x280, pageCount: 0x40 } });
    expect(notifier.take()).toEqual(["map 0x280+64 -> 0x1080 rw"]);
  });

  it("8: the pages of an invalidation start where their number is aligned, for caches and for notifiers", () => {
    const guest = legacy();
    const flushes = new RecordingFlushNotifier();
    guest.device(NIC).attach(flushes);
    flushes.take();
    guest.invalidate.page(5, 0x13, 2);
    expect(flushes.take()).toEqual([{ firstPfn: 0x10, pageCount: 4 }]);
    const notifier = guest.watch(NIC);
    notifier.take();
    guest.unmap(5, 0x10);
    guest.invalidate.page(5, 0x17, 3);
    expect(notifier.take()).toEqual(["unmap 0x10+1"]);
  });

  it("9: a PASID-based invalidation takes any address mask, also above MAMV and above 31", () => {
    for (const order of [0, 18, 19, 31, 32, 51, 63]) {
      const { guest, tables } = scalable({ pageSelective: 9 });
      const space = guest.device(NIC, { pasid: 7 });
      expect(ask(space, 0x10)).toBe(0x800);
      tables.map(0x10, 1, 0x900);
      expect(ask(space, 0x10)).toBe(0x800);
      expect(guest.invalidate.pasidPages(5, 7, 0x10, order)).toBe(true);
      expect(ask(space, 0x10), `mask ${order}`).toBe(0x900);
    }
  });

  it("10: what a malformed entry or an unreadable table mapped is unmapped", () => {
    const spoilers: readonly ((guest: WatchedGuest) => void)[] = [
      (guest) => guest.memory.poke(guest.tables(5).entryGpa(0x10, 1) + 4, 0x4000_0000),
      (guest) => guest.memory.poke(guest.tables(5).entryGpa(0x10, 2) + 4, 0x4000_0000),
      (guest) => guest.memory.poison(Math.floor(guest.tables(5).entryGpa(0x10, 1) / PAGE)),
      (guest) => guest.memory.pokeEntry(guest.tables(5).entryGpa(0x10, 3), 0x7000_0003, 0),
    ];
    for (const spoil of spoilers) {
      const guest = legacy();
      // A page behind it, in a table of its own at every level, stays mapped.
      guest.map(5, { iovaPfn: 2 ** 27 + 0x10, gpaPfn: 0x801 });
      guest.invalidate.domain(5);
      const notifier = guest.watch(NIC);
      notifier.take();
      spoil(guest);
      guest.invalidate.domain(5);
      expect(notifier.take()).toEqual(["unmap 0x10+1"]);
      expect(notifier.lookup(2 ** 27 + 0x10)).toEqual({ gpaPfn: 0x801, access: 3 });
      guest.assertInStep(NIC, notifier);
    }
  });

  it("11: what a malformed or unreadable root or context mapped is unmapped", () => {
    const spoilers: readonly ((guest: WatchedGuest) => void)[] = [
      (guest) => guest.memory.poke(guest.contexts.rootEntryGpa(NIC), 0),
      (guest) => guest.memory.poke(guest.contexts.rootEntryGpa(NIC) + 12, 1),
      (guest) => guest.memory.poison(guest.contexts.rootPfn),
      (guest) => guest.memory.poke(guest.contexts.contextEntryGpa(NIC) + 12, 1),
      (guest) => guest.context(NIC, { did: 5, fields: { AW: 7 } }),
    ];
    for (const spoil of spoilers) {
      const guest = legacy();
      const notifier = guest.watch(NIC);
      spoil(guest);
      guest.invalidate.contexts();
      guest.invalidate.all();
      expect(notifier.held()).toEqual([]);
    }
  });

  it("12: what a context of narrower tables no longer reaches is unmapped", () => {
    const guest = new WatchedGuest({ addressWidths: [39, 48] });
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 0x10, gpaPfn: 0x800 });
    guest.map(5, { iovaPfn: 2 ** 30, gpaPfn: 0x801 });
    guest.start();
    const notifier = guest.watch(NIC);
    const narrow = guest.newTables(3);
    narrow.map(0x10, 1, 0x800);
    guest.context(NIC, { did: 5, levels: 3, rootPfn: narrow.rootPfn });
    guest.invalidate.context(NIC, 5);
    guest.invalidate.domain(5);
    expect(notifier.take()).toEqual([
      "map 0x10+1 -> 0x800 rw",
      `map 0x${(2 ** 30).toString(16)}+1 -> 0x801 rw`,
      `unmap 0x${(2 ** 30).toString(16)}+1`,
    ]);
    guest.assertInStep(NIC, notifier);
  });

  it("13: a superpage that becomes a table loses the pages that are gone, keeps the others, and comes back", () => {
    const guest = legacy();
    guest.map(5, { iovaPfn: 0x400, gpaPfn: 0x1000, leafPages: 512 });
    guest.invalidate.domain(5);
    const notifier = guest.watch(NIC);
    const block = guest.watch(NIC, { name: "block", granularity: "block" });
    notifier.take();
    guest.tables(5).split(0x400);
    guest.invalidate.page(5, 0x400);
    expect(notifier.take()).toEqual([]);
    guest.unmap(5, 0x405);
    guest.invalidate.page(5, 0x405);
    expect(notifier.take()).toEqual(["unmap 0x405+1"]);
    guest.assertInStep(NIC, notifier);
    guest.assertInStep(NIC, block);
    guest.map(5, { iovaPfn: 0x400, gpaPfn: 0x1000, leafPages: 512 });
    guest.invalidate.page(5, 0x400, 9);
    expect(notifier.take()).toEqual(["map 0x405+1 -> 0x1005 rw"]);
    guest.assertInStep(NIC, block);
  });

  it("14: context-cache invalidations, global and by domain, unmap nothing that stays", () => {
    const guest = legacy();
    const notifier = guest.watch(NIC);
    notifier.take();
    guest.invalidate.contexts();
    guest.invalidate.contextsOfDomain(5);
    guest.invalidate.context(NIC, 5);
    expect(notifier.calls.filter((call) => call.type === "unmap")).toEqual([]);
    expect(notifier.take()).toEqual([]);
  });

  it("15: a newcomer's replay leaves what others have been told as it was", () => {
    const guest = legacy();
    const first = guest.watch(NIC);
    guest.map(5, { iovaPfn: 0x20, gpaPfn: 0x900 });
    guest.unmap(5, 0x10);
    const newcomer = guest.watch(NIC, { name: "newcomer" });
    void guest.device(NIC).attachments[1]?.detach();
    expect(newcomer.held()).toEqual([]);
    guest.invalidate.domain(5);
    guest.assertInStep(NIC, first);
    expect(first.held()).toEqual([{ iovaPfn: 0x20, pageCount: 1, gpaPfn: 0x900, access: 3 }]);
  });

  it("16: a notifier of a second, higher range is unmapped everything it holds, and its neighbour nothing", () => {
    const guest = legacy();
    guest.map(5, { iovaPfn: 0xfef00, pageCount: 2, gpaPfn: 0x900 });
    guest.map(5, { iovaPfn: 2 ** 36 - 1, gpaPfn: 0x902 });
    guest.invalidate.domain(5);
    const low = guest.watch(NIC, { name: "low", range: { firstPfn: 0, pageCount: 0xfee00 } });
    const high = guest.watch(NIC, { name: "high", range: { firstPfn: 0xfef00, pageCount: 2 ** 36 - 0xfef00 } });
    expect(high.pageCount).toBe(3);
    low.take();
    guest.unmap(5, 0xfef00, 2);
    guest.unmap(5, 2 ** 36 - 1);
    guest.invalidate.domain(5);
    expect(high.pageCount).toBe(0);
    expect(low.take()).toEqual([]);
  });

  it("17: the interrupt window blocks its own pages of a superpage only, with the code of the table mode in use", () => {
    const inLegacy = new GuestDriver(SCALABLE);
    inLegacy.context(NIC, { did: 5 });
    inLegacy.map(5, { iovaPfn: 0xfec00 - (0xfec00 % 512), gpaPfn: 0xfee00, leafPages: 512 });
    inLegacy.start();
    const first = 0xfec00 - (0xfec00 % 512);
    expect(ask(inLegacy.device(NIC), first)).toBe("fault e");
    expect(ask(inLegacy.device(NIC), first + 0x100)).toBe(0xfef00);
    const { guest, tables } = scalable();
    tables.map(0x400, 512, 0xfee00, { leafPages: 512 });
    expect(ask(guest.device(NIC), 0x400)).toBe("fault 87");
    expect(ask(guest.device(NIC), 0x500)).toBe(0xfef00);
  });

  it("18: a compatibility-format interrupt is blocked unless CFI is set, and always in extended mode", () => {
    const message = { address: 0xfee0_1000, addressHigh: 0, data: 0x30 };
    for (const [extended, allow, passes] of [
      [false, false, false],
      [false, true, true],
      [true, false, false],
      [true, true, false],
    ] as const) {
      const guest = new GuestDriver({ extendedInterruptMode: true });
      guest.enableInterruptRemapping({ extended });
      if (allow) guest.command(0x0080_0000);
      expect(guest.unit.interrupt(0x18, message)).toBe(passes);
      expect(guest.takeFaults().map((fault) => fault.reason)).toEqual(passes ? [] : [0x25]);
    }
    const guest = new GuestDriver();
    guest.enableInterruptRemapping();
    guest.interrupts.remapped(1, { V: 0x44 });
    expect(guest.unit.interrupt(0x18, remappableMessage(1))).toBe(true);
  });

  it("19: clearing IQE resumes the queue without another tail write", () => {
    const guest = legacy();
    guest.queue.submit(Int32Array.of(0x1f), guest.queue.waitFor(8));
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(0);
    guest.memory.poke(guest.queue.basePfn * PAGE, 0x12);
    guest.unit.mmio.write32(0x34, 0x10);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(8);
  });

  it("20: a consumer that translates is given the rights of the tables, no more", () => {
    const guest = legacy();
    const out = new Translation();
    for (const [access, wanted] of [
      [1, 1],
      [2, 2],
      [3, 1],
    ] as const) {
      guest.map(5, { iovaPfn: 0x11, gpaPfn: 0x801, access });
      guest.invalidate.page(5, 0x11);
      expect(guest.device(NIC).translate(0x11, wanted, out)).toBe(true);
      expect(out.access).toBe(access);
    }
  });

  it("21: what a consumer refused is not taken for mapped: offered again later, never unmapped", () => {
    const guest = legacy();
    guest.map(5, { iovaPfn: 0x20, gpaPfn: 0x900 });
    guest.map(5, { iovaPfn: 0x30, gpaPfn: 0x910 });
    guest.invalidate.domain(5);
    const notifier = new RecordingNotifier({ capacity: 2 });
    const attachment = guest.device(NIC).attach(notifier);
    expect([notifier.pageCount, attachment.refusedPages]).toEqual([2, 1]);
    notifier.take();
    guest.unmap(5, 0x30);
    guest.invalidate.page(5, 0x30);
    expect(notifier.take()).toEqual([]);
    guest.map(5, { iovaPfn: 0x30, gpaPfn: 0x910 });
    guest.invalidate.page(5, 0x30);
    notifier.take();
    guest.unmap(5, 0x10);
    guest.invalidate.page(5, 0x10);
    expect(notifier.take()).toEqual(["unmap 0x10+1", "map 0x30+1 -> 0x910 rw"]);
    expect(attachment.refusedPages).toBe(0);
    notifier.check();
  });

  it("22: reserved bits of a context entry are a qualified fault: FPD keeps it out of the records", () => {
    const guest = legacy();
    guest.context(NIC, { did: 5, faultsDisabled: true });
    guest.memory.poke(guest.contexts.contextEntryGpa(NIC) + 12, 1);
    guest.invalidate.contexts();
    expect(ask(guest.device(NIC), 0x999)).toBe("fault b");
    expect(guest.faults()).toEqual([]);
  });

  it("23: a notifier's range may begin beyond what the tables can map: it holds nothing", () => {
    const guest = legacy();
    const notifier = guest.watch(NIC, { range: { firstPfn: 2 ** 40, pageCount: 0x1000 } });
    guest.invalidate.domain(5);
    guest.invalidate.page(5, 0x10);
    guest.disable();
    expect(notifier.held()).toEqual([]);
    notifier.check();
  });
});

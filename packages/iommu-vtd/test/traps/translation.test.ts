/**
 * Traps of tables, walks, caches and device TLBs that another emulator fell into over the years, each as a test of the right behaviour.
 *
 * | what went wrong there | test here |
 * | --- | --- |
 * | accessed set already: dirty was never written | "the dirty flag ..." |
 * | an ATS request set dirty on a read-only page; failed for lack of the write right; was recorded as a fault; had no size | "a translation request ..." |
 * | page requests raced on the queue's tail | "page requests ..." |
 * | RID_PASID was used without its capability | "requests without PASID use PASID 0 ..." |
 * | cached translations of one PASID answered another | "two PASIDs ..." |
 * | the cache's hash lost bits; keys lost the bus number | "pages and devices that differ in high bits only ..." |
 * | page invalidations kept first-stage entries; PASID invalidations kept second-stage ones | "a page-selective invalidation ...", "a PASID-selective ..." |
 * | requests with PASID to the interrupt window were taken for interrupts | "the interrupt window is ordinary ..." |
 * | outputs in the interrupt window, inputs that are not canonical, flags that were not set | "a first stage ..." |
 * | PASID entry types that the unit lacks were accepted | "a PASID entry of a type ..." |
 * | legacy fault codes in scalable mode | "scalable mode has fault codes of its own" |
 * | bit 62 of second-stage entries, the snoop bit of leaves | "bit 62 ...", "the snoop bit ..." |
 * | reserved masks of large pages at other levels | "bit 7 ..." |
 * | present bits of directory and PASID entries not looked at, FPD only in present ones | "the present bits ..." |
 * | pass-through taken from the wrong entry, or read while translation is off; its address masked wrongly | "pass-through ..." |
 * | device TLB type accepted without device TLBs | "a context type for device TLBs ..." |
 * | a stale PASID entry after a change of context, domain type, root, enable | "a changed PASID entry ..." |
 * | a deleted PASID entry came back | "a cleared PASID entry ..." |
 * | a new root kept old translations | "a new root table ..." |
 * | failures logged as address 0 | "a refused request is an event ..." |
 */

import { parseSourceId, Translation } from "@iommu-kit/iommu-core";
import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { type GuestOptions, GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask } from "../support/watched-guest.js";

const NIC = "00:03.0";
const PAGE = 4096;

const SCALABLE: GuestOptions = {
  cachingMode: true,
  scalableMode: true,
  firstStage: "4-level",
  firstStage1G: true,
  nested: true,
  secondStageFlags: true,
  pasidWidth: 20,
  deviceTlb: true,
  pageRequests: true,
};

function scalable(options: GuestOptions = {}) {
  const guest = new GuestDriver({ ...SCALABLE, ...options });
  const tables = guest.newFirstStageTables();
  tables.map(0x10, 1, 0x800);
  guest.scalableContext(NIC, { pasids: true, fields: { DTE: 1, PRE: 1 } });
  guest.pasid(NIC, 0, { did: 5, type: "first-stage", firstRootPfn: tables.rootPfn });
  guest.pasid(NIC, 7, { did: 5, type: "first-stage", firstRootPfn: tables.rootPfn });
  guest.start("scalable");
  return { guest, tables, space: guest.device(NIC) };
}

function legacy(options: GuestOptions = {}): GuestDriver {
  const guest = new GuestDriver({ cachingMode: true, ...options });
  guest.context(NIC, { did: 5 });
  guest.map(5, { iovaPfn: 0x10, gpaPfn: 0x800 });
  guest.start();
  return guest;
}

describe("flags", () => {
  it("the dirty flag is set by a write although the accessed flag is set already", () => {
    const { guest, tables, space } = scalable();
    const leaf = tables.entryGpa(0x10, 1);
    guest.memory.poke(leaf, guest.memory.peek(leaf) | 0x20);
    space.dma.write(0x10 * PAGE, Uint8Array.of(1));
    expect(guest.memory.peek(leaf) & 0x60).toBe(0x60);
  });

  it("a first stage marks every level accessed, and the leaf dirty only for a write", () => {
    const { guest, tables, space } = scalable();
    space.dma.read(0x10 * PAGE, new Uint8Array(1));
    for (const level of [4, 3, 2, 1]) expect(guest.memory.peek(tables.entryGpa(0x10, level)) & 0x60).toBe(0x20);
  });

  it("a translation request for writing sets no dirty flag on a page that may not be written, and is granted the read right", () => {
    const { guest, tables, space } = scalable();
    tables.map(0x11, 1, 0x801, { writable: false });
    expect(guest.unit.ats(space).translate(0x11)).toMatchObject([{ status: "success", access: 1, gpaPfn: 0x801 }]);
    expect(guest.memory.peek(tables.entryGpa(0x11, 1)) & 0x40).toBe(0);
    expect(guest.faults()).toEqual([]);
  });

  it("a translation request for a page that is not there is answered without rights, for one page, and not recorded", () => {
    const { guest, space } = scalable();
    const ats = guest.unit.ats(space);
    expect(ats.translate(0x999)).toMatchObject([{ status: "success", access: 0, pageCount: 1 }]);
    expect(ats.translate(2 ** 40)).toMatchObject([{ status: "success", access: 0 }]);
    expect(guest.faults()).toEqual([]);
    // The same page asked for untranslated is a fault.
    expect(ask(space, 0x999)).toBe("fault 71");
    expect(guest.takeFaults()).toHaveLength(1);
  });

  it("page requests in a row take consecutive slots of the queue", () => {
    const { guest, space } = scalable();
    const base = guest.newFrame();
    guest.unit.mmio.write64(0xd0, BigInt(base) << 12n);
    for (let group = 0; group < 5; group++) void guest.unit.ats(space).requestPage({ iovaPfn: 0x500 + group, group });
    expect(guest.unit.mmio.read32(0xc8)).toBe(5 * 32);
    const pages = [0, 1, 2, 3, 4].map((slot) => (guest.memory.peek(base * PAGE + slot * 32 + 8) >>> 12) & 0xfff);
    expect(pages).toEqual([0x500, 0x501, 0x502, 0x503, 0x504]);
  });
});

describe("caches", () => {
  it("two PASIDs of one device with the same input page have translations of their own", () => {
    const { guest } = scalable();
    const other = guest.newFirstStageTables();
    other.map(0x10, 1, 0x900);
    guest.pasid(NIC, 8, { did: 5, type: "first-stage", firstRootPfn: other.rootPfn });
    guest.invalidate.pasidEntries();
    for (let round = 0; round < 2; round++) {
      expect(ask(guest.device(NIC, { pasid: 7 }), 0x10)).toBe(0x800);
      expect(ask(guest.device(NIC, { pasid: 8 }), 0x10)).toBe(0x900);
      expect(ask(guest.device(NIC), 0x10)).toBe(0x800);
    }
  });

  it("pages and devices that differ in high bits only have translations of their own", () => {
    const guest = new GuestDriver({ addressWidths: [57] });
    const devices = ["00:03.0", "01:03.0", "ff:03.0", "00:03.1"];
    for (const [n, device] of devices.entries()) {
      guest.context(device, { did: n + 1, levels: 5 });
      for (const [m, high] of [0, 2 ** 20, 2 ** 31, 2 ** 32, 2 ** 44].entries()) {
        guest.map(n + 1, { iovaPfn: high + 5, gpaPfn: 0x1000 + n * 16 + m });
      }
    }
    guest.start();
    for (let round = 0; round < 2; round++) {
      for (const [n, device] of devices.entries()) {
        for (const [m, high] of [0, 2 ** 20, 2 ** 31, 2 ** 32, 2 ** 44].entries())
          expect(ask(guest.device(device), high + 5)).toBe(0x1000 + n * 16 + m);
      }
    }
  });

  it("a page-selective invalidation of a domain drops every first-stage translation of it, and second-stage ones by page", () => {
    const { guest, tables, space } = scalable();
    guest.map(5, { iovaPfn: 0x20, pageCount: 2, gpaPfn: 0x900 });
    guest.pasid(NIC, 9, { did: 5, type: "second-stage" });
    const second = guest.device(NIC, { pasid: 9 });
    for (const pfn of [0x20, 0x21]) ask(second, pfn);
    ask(space, 0x10);
    tables.map(0x10, 1, 0xa00);
    guest.map(5, { iovaPfn: 0x20, pageCount: 2, gpaPfn: 0xa10 });
    guest.invalidate.page(5, 0x20);
    expect(ask(space, 0x10)).toBe(0xa00);
    expect(ask(second, 0x20)).toBe(0xa10);
    expect(ask(second, 0x21)).toBe(0x901);
  });

  it("a PASID-selective invalidation drops second-stage translations of the PASID too; one by page does not", () => {
    const { guest } = scalable();
    guest.map(5, { iovaPfn: 0x20, gpaPfn: 0x900 });
    guest.pasid(NIC, 9, { did: 5, type: "second-stage" });
    const second = guest.device(NIC, { pasid: 9 });
    ask(second, 0x20);
    guest.map(5, { iovaPfn: 0x20, gpaPfn: 0xa10 });
    guest.invalidate.pasidPages(5, 9, 0x20);
    expect(ask(second, 0x20)).toBe(0x900);
    guest.invalidate.pasidAll(5, 9);
    expect(ask(second, 0x20)).toBe(0xa10);
  });

  it("a new root table is used at once, whether or not the unit announces that it flushes", () => {
    for (const rootPointerFlush of [false, true]) {
      const guest = legacy({ rootPointerFlush });
      expect((guest.unit.mmio.read64(8) >> 63n) & 1n).toBe(rootPointerFlush ? 1n : 0n);
      expect(ask(guest.device(NIC), 0x10)).toBe(0x800);
      const empty = guest.newFrame();
      guest.unit.mmio.write64(0x20, BigInt(empty) << 12n);
      guest.command(0x4000_0000);
      expect(ask(guest.device(NIC), 0x10)).toBe("fault 1");
    }
  });
});

describe("scalable mode", () => {
  it("requests without PASID use PASID 0 where contexts cannot name one, and naming one is a reserved bit", () => {
    const { guest, space } = scalable({ requestPasid: false });
    expect(ask(space, 0x10)).toBe(0x800);
    guest.scalableContext(NIC, { requestPasid: 3 });
    guest.invalidate.contexts();
    guest.invalidate.all();
    expect(ask(space, 0x10)).toBe("fault 42");
  });

  it("a first stage that leads into the interrupt window is refused with 87, an input that is not canonical with 80", () => {
    const { guest, tables, space } = scalable();
    tables.map(0x11, 1, 0xfee00);
    expect(ask(space, 0x11)).toBe("fault 87");
    expect(ask(space, 2 ** 36)).toBe("fault 80");
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x87, page: 0x11 }]);
  });

  it("the interrupt window is ordinary memory for a request with PASID, but not behind pass-through", () => {
    const { guest, tables } = scalable();
    tables.map(0xfee00, 1, 0x900);
    guest.pasid(NIC, 9, { did: 8, type: "pass-through" });
    const ordinary = guest.device(NIC, { pasid: 7 });
    expect(ordinary.dma.write(0xfee0_0000, Uint8Array.of(1, 2, 3, 4))).toBe(true);
    expect(guest.memory.peek(0x900 * PAGE)).toBe(0x0403_0201);
    expect(guest.device(NIC, { pasid: 9 }).dma.write(0xfee0_0000, Uint8Array.of(1, 2, 3, 4))).toBe(false);
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x87, pasid: 9, page: 0xfee00 }]);
    expect(guest.messages).toEqual([]);
    const notifier = new RecordingNotifier();
    ordinary.attach(notifier);
    expect(notifier.lookup(0xfee00)).toEqual({ gpaPfn: 0x900, access: 3 });
  });

  it("a PASID entry of a type that the unit lacks is refused with 5B", () => {
    for (const [options, type] of [
      [{ firstStage: false, nested: false, firstStage1G: false }, 1],
      [{ nested: false }, 3],
      [{ passThrough: false }, 4],
      [{ secondStage: false, nested: false, secondStageFlags: false }, 2],
      [{}, 0],
      [{}, 5],
      [{}, 7],
    ] as const) {
      const guest = new GuestDriver({ ...SCALABLE, ...options });
      guest.scalableContext(NIC);
      guest.contexts.writePasid(NIC, 0, { did: 5, type: "pass-through", fields: { PGTT: type } });
      guest.start("scalable");
      expect(ask(guest.device(NIC), 0x10), `type ${type}`).toBe("fault 5b");
    }
  });

  it("scalable mode has fault codes of its own", () => {
    const { guest, space } = scalable();
    guest.map(6, { iovaPfn: 0x20, gpaPfn: 0x900, access: 1 });
    guest.pasid(NIC, 9, { did: 6, type: "second-stage" });
    const second = guest.device(NIC, { pasid: 9 });
    expect(ask(second, 0x20, 2)).toBe("fault 85");
    expect(ask(second, 0x30)).toBe("fault 79");
    expect(ask(second, 2 ** 36)).toBe("fault 84");
    guest.memory.poke(guest.tables(6).entryGpa(0x20, 1) + 4, 0x4000_0000);
    expect(ask(second, 0x20)).toBe("fault 7a");
    guest.contexts.clearScalable(NIC);
    guest.invalidate.contexts();
    guest.invalidate.all();
    expect(ask(space, 0x10)).toBe("fault 41");
    guest.memory.poke(guest.contexts.scalableRootEntryGpa(NIC), 0);
    expect(ask(space, 0x10)).toBe("fault 39");
  });

  it("the present bits of directory and PASID entries are looked at first, and FPD of entries that are not present counts", () => {
    const { guest } = scalable();
    const space = guest.device(NIC, { pasid: 7 });
    const directory = guest.contexts.directoryEntryGpa(NIC, 7);
    const entry = guest.contexts.pasidEntryGpa(NIC, 7);
    const low = guest.memory.peek(directory);
    guest.memory.poke(entry, 2);
    expect(ask(space, 0x10)).toBe("fault 59");
    guest.memory.poke(directory, (low & ~1) | 2);
    expect(ask(space, 0x10)).toBe("fault 51");
    expect(guest.faults()).toEqual([]);
    guest.memory.poke(directory, low & ~1);
    expect(ask(space, 0x10)).toBe("fault 51");
    expect(guest.takeFaults()).toHaveLength(1);
  });

  it("pass-through is a matter of the PASID entry: two PASIDs of one device differ", () => {
    const { guest } = scalable();
    guest.pasid(NIC, 9, { did: 8, type: "pass-through" });
    expect(ask(guest.device(NIC, { pasid: 9 }), 0x10)).toBe(0x10);
    expect(ask(guest.device(NIC, { pasid: 7 }), 0x10)).toBe(0x800);
  });

  it("a changed PASID entry is followed after a PASID-cache invalidation, a context invalidation, SRTP and TE", () => {
    for (const tell of [
      (guest: GuestDriver) => guest.invalidate.pasidEntry(5, 0),
      (guest: GuestDriver) => guest.invalidate.pasidEntriesOfDomain(5),
      (guest: GuestDriver) => guest.invalidate.contexts(),
      (guest: GuestDriver) => guest.invalidate.context(NIC),
      (guest: GuestDriver) => guest.setRoot("scalable"),
      (guest: GuestDriver) => [guest.disable(), guest.enable()],
    ]) {
      const { guest, tables, space } = scalable();
      const notifier = new RecordingNotifier();
      space.attach(notifier);
      const other = guest.newFirstStageTables();
      other.map(0x10, 1, 0x800);
      other.map(0x11, 1, 0x801);
      guest.pasid(NIC, 0, { did: 5, type: "first-stage", firstRootPfn: other.rootPfn });
      expect(tables.rootPfn).not.toBe(other.rootPfn);
      tell(guest);
      expect(notifier.held()).toEqual([{ iovaPfn: 0x10, pageCount: 2, gpaPfn: 0x800, access: 3 }]);
      notifier.check();
    }
  });

  it("a device that goes from a table to pass-through and back needs a PASID-cache invalidation only", () => {
    const { guest, tables, space } = scalable();
    const notifier = new RecordingNotifier();
    space.attach(notifier);
    guest.pasid(NIC, 0, { did: 8, type: "pass-through" });
    guest.invalidate.pasidEntry(5, 0);
    expect(notifier.pageCount).toBe(0x40000);
    guest.pasid(NIC, 0, { did: 5, type: "first-stage", firstRootPfn: tables.rootPfn });
    guest.invalidate.pasidEntry(8, 0);
    expect(notifier.held()).toEqual([{ iovaPfn: 0x10, pageCount: 1, gpaPfn: 0x800, access: 3 }]);
    notifier.check();
  });

  it("a cleared PASID entry is gone after its invalidation, and stays gone", () => {
    const { guest, space } = scalable();
    const notifier = new RecordingNotifier();
    space.attach(notifier);
    guest.contexts.clearPasid(NIC, 0);
    guest.invalidate.pasidEntry(5, 0);
    guest.invalidate.pasidAll(5, 0);
    expect(notifier.held()).toEqual([]);
    expect(ask(space, 0x10)).toBe("fault 59");
    guest.invalidate.pasidEntries();
    expect(notifier.held()).toEqual([]);
  });

  it("old drivers that flush PASID entries before contexts end in step", () => {
    const { guest, space } = scalable();
    const notifier = new RecordingNotifier();
    space.attach(notifier);
    guest.contexts.clearPasid(NIC, 0);
    guest.contexts.clearScalable(NIC);
    guest.invalidate.pasidEntries();
    guest.invalidate.contexts();
    guest.invalidate.all();
    expect(notifier.held()).toEqual([]);
  });
});

describe("second-stage entries", () => {
  const withBit = (bit: number, level: number, options: GuestOptions = {}): string | number => {
    const guest = legacy(options);
    const gpa = guest.tables(5).entryGpa(0x10, level) + (bit >= 32 ? 4 : 0);
    guest.memory.poke(gpa, guest.memory.peek(gpa) | (1 << (bit % 32)));
    return ask(guest.device(NIC), 0x10);
  };

  it("bit 62 is reserved at every level, with device TLBs and without; 52 to 61 and 63 mean nothing", () => {
    for (const level of [4, 3, 2, 1]) {
      for (const deviceTlb of [false, true]) expect(withBit(62, level, { deviceTlb })).toBe("fault c");
      for (const bit of [52, 58, 60, 61, 63]) expect(withBit(bit, level)).toBe(0x800);
    }
  });

  it("the snoop bit of a leaf is free with snoop control and reserved without; above the leaf it is reserved", () => {
    expect(withBit(11, 1, { snoopControl: true })).toBe(0x800);
    expect(withBit(11, 1, { snoopControl: false })).toBe("fault c");
    for (const level of [2, 3, 4]) expect(withBit(11, level, { snoopControl: true })).toBe("fault c");
  });

  it("bit 7 makes a page at levels 2 and 3 only: it is reserved above and means nothing in a leaf", () => {
    expect(withBit(7, 1)).toBe(0x800);
    expect(withBit(7, 4)).toBe("fault c");
    const guest = legacy();
    guest.map(5, { iovaPfn: 512, gpaPfn: 512 + 1024, leafPages: 512 });
    guest.map(5, { iovaPfn: 2 ** 18, gpaPfn: 2 ** 19, leafPages: 2 ** 18 });
    expect(ask(guest.device(NIC), 515)).toBe(512 + 1024 + 3);
    expect(ask(guest.device(NIC), 2 ** 18 + 77)).toBe(2 ** 19 + 77);
  });

  it("a context type for device TLBs is refused by a unit without them", () => {
    const guest = legacy();
    guest.context(NIC, { did: 5, fields: { TT: 1 } });
    guest.invalidate.contexts();
    guest.invalidate.all();
    expect(ask(guest.device(NIC), 0x10)).toBe("fault 3");
  });
});

describe("requests", () => {
  it("pass-through keeps the offset and every address bit", () => {
    const guest = new GuestDriver();
    guest.context(NIC, { did: 5, passThrough: true });
    guest.start();
    guest.device(NIC).dma.write(0x123_4567 & ~3, Uint8Array.of(1, 2, 3, 4));
    expect(guest.memory.peek(0x123_4564)).toBe(0x0403_0201);
    expect(ask(guest.device(NIC), 2 ** 36 - 1)).toBe(2 ** 36 - 1);
  });

  it("pass-through is not looked for while translation is off: no table is read, nothing is recorded", () => {
    const guest = new GuestDriver({ cachingMode: true });
    guest.setRoot();
    guest.memory.resetCounters();
    guest.device(NIC).attach(new RecordingNotifier());
    expect(ask(guest.device(NIC), 0x77)).toBe(0x77);
    expect(guest.memory.counters.fetches).toBe(0);
    expect(guest.faults()).toEqual([]);
  });

  it("translation off answers in large blocks, not page by page", () => {
    const out = new Translation();
    const guest = new GuestDriver();
    guest.device(NIC).translate(0x77, 3, out);
    expect(out.pageCount).toBe(2 ** 18);
  });

  it("a refused request is an event that names the address, the reason and the check that failed", () => {
    const guest = legacy();
    const events: unknown[] = [];
    guest.unit.events.on("fault", ({ space, address, access, reason, cause }) =>
      events.push([space.sourceId, address, access, reason, cause]),
    );
    guest.device(NIC).dma.read(0x99_0123, new Uint8Array(1));
    guest.context(NIC, { did: 5, fields: { AW: 3 } });
    guest.invalidate.contexts();
    guest.device(NIC).dma.write(0x99_0123, Uint8Array.of(1));
    expect(events).toEqual([
      [parseSourceId(NIC), 0x99_0123, 1, 6, "LGN.3"],
      [parseSourceId(NIC), 0x99_0123, 2, 3, "LCT.4.1"],
    ]);
  });
});

import { Access, type AddressSpace, DirtyTracker, IommuError } from "@iommu-kit/iommu-core";
import { describe, expect, it } from "vitest";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { FaultReason, faultName } from "@iommu-kit/iommu-vtd";
import { legacyGuest, NIC, scalableGuest } from "./ats-guest.js";

const TRANSLATION_REQUEST = 1;
const TRANSLATED = 2;
const FRCD = 0x220;

/** AT of the first fault record: bits 29:28 of the dword at +12. */
function addressType(guest: GuestDriver): number {
  return (guest.unit.mmio.read32(FRCD + 12) >>> 28) & 3;
}

describe("a translation request in legacy mode", () => {
  it("is answered with target, rights and size of the leaf", () => {
    const { guest, ats } = legacyGuest();
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    guest.map(1, { iovaPfn: 0x400, gpaPfn: 0x2000, leafPages: 512, access: Access.read });
    expect(ats.translate(0x10)).toMatchObject([
      { status: "success", iovaPfn: 0x10, pageCount: 1, gpaPfn: 0x1000, access: 3, untranslatedOnly: false, reason: 0 },
    ]);
    expect(ats.translate(0x4ff)).toMatchObject([
      { status: "success", iovaPfn: 0x400, pageCount: 512, gpaPfn: 0x2000, access: 1 },
    ]);
    expect(guest.faults()).toEqual([]);
  });

  it("leaves out rights that are missing, without a fault", () => {
    const { guest, ats } = legacyGuest();
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000, access: Access.read });
    guest.map(1, { iovaPfn: 0x11, gpaPfn: 0x1001, access: Access.write });
    expect(ats.translate(0x10)).toMatchObject([{ status: "success", access: 1 }]);
    expect(ats.translate(0x11)).toMatchObject([{ status: "success", access: 2 }]);
    expect(ats.translate(0x12)).toMatchObject([{ status: "success", access: 0, reason: FaultReason.LGN_2 }]);
    expect(guest.faults()).toEqual([]);
    expect(guest.messages).toEqual([]);
  });

  it("is not answered from what an invalidation has dropped", () => {
    const { guest, ats } = legacyGuest();
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    ats.translate(0x10);
    guest.unmap(1, 0x10);
    guest.invalidate.page(1, 0x10);
    expect(ats.translate(0x10)).toMatchObject([{ status: "success", access: 0 }]);
  });

  it("answers several blocks as long as they are of one size and succeed", () => {
    const { guest, ats } = legacyGuest();
    guest.map(1, { iovaPfn: 0x10, pageCount: 3, gpaPfn: 0x1000 });
    guest.map(1, { iovaPfn: 0x200, pageCount: 512, gpaPfn: 0x2000, leafPages: 512 });
    expect(ats.translate(0x10, { pageCount: 3 }).map(({ gpaPfn }) => gpaPfn)).toEqual([0x1000, 0x1001, 0x1002]);
    expect(ats.translate(0x1ff, { pageCount: 2 })).toHaveLength(1);
    guest.memory.pokeEntry(guest.tables(1).entryGpa(0x12, 1), 3, 0x10000);
    expect(ats.translate(0x10, { pageCount: 3 })).toHaveLength(2);
    expect(guest.faults()).toEqual([]);
    expect(ats.translate(0x12)).toMatchObject([{ status: "abort" }]);
    expect(guest.faults().map(({ reason }) => reason)).toEqual([FaultReason.LSS_2]);
  });

  it("that reads only is granted no write permission, where the unit knows such requests", () => {
    const { guest, ats } = legacyGuest({ noWriteRequests: true });
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    expect(ats.translate(0x10, { noWrite: true })).toMatchObject([{ access: 1 }]);
    const old = legacyGuest();
    old.guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    expect(old.ats.translate(0x10, { noWrite: true })).toMatchObject([{ access: 3 }]);
  });

  it.each([
    ["LCT_5", "unsupported", (guest: GuestDriver) => guest.context(NIC, { did: 1 })],
    ["LCT_5", "unsupported", (guest: GuestDriver) => guest.context(NIC, { did: 1, passThrough: true })],
    ["LCT_2", "unsupported", (guest: GuestDriver) => guest.contexts.clear(NIC)],
    ["LRT_2", "unsupported", (guest: GuestDriver) => guest.memory.poke(guest.contexts.rootEntryGpa(NIC), 0)],
    ["LCT_4_2", "abort", (guest: GuestDriver) => guest.context(NIC, { did: 1, fields: { TT: 3 } })],
    ["LCT_3", "abort", (guest: GuestDriver) => guest.context(NIC, { did: 1, fields: { TT: 1, SSPTPTR: 2 ** 40 } })],
    ["LCT_4_3", "abort", (guest: GuestDriver) => guest.context(NIC, { did: 1, rootPfn: 2 ** 35, fields: { TT: 1 } })],
  ] as const)("that meets %s is answered %s, and recorded", (name, status, spoil) => {
    const { guest, ats } = legacyGuest();
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    spoil(guest);
    guest.invalidate.contexts();
    guest.invalidate.all();
    expect(ats.translate(0x10)).toMatchObject([{ status, access: 0 }]);
    expect(guest.faults()).toMatchObject([{ reason: FaultReason[name] & 0xff, page: 0x10, type: 2 }]);
    expect(addressType(guest)).toBe(TRANSLATION_REQUEST);
  });

  it("is answered with an abort, and recorded, where a second-stage table is malformed or unreadable", () => {
    const { guest, ats } = legacyGuest();
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    guest.memory.pokeEntry(guest.tables(1).entryGpa(0x11, 1), 3, 0x10000);
    expect(ats.translate(0x11)).toMatchObject([{ status: "abort", reason: FaultReason.LSS_2 }]);
    guest.memory.poison(Math.floor(guest.tables(1).entryGpa(0x10, 1) / 4096));
    expect(ats.translate(0x10)).toMatchObject([{ status: "abort", reason: FaultReason.LSS_1 }]);
    // The second fault of the same requester is compressed away.
    expect(guest.faults().map(({ reason }) => reason)).toEqual([FaultReason.LSS_2]);
  });

  it("beyond the input width succeeds without rights and without a fault", () => {
    const { guest, ats } = legacyGuest();
    expect(ats.translate(2 ** 36)).toMatchObject([{ status: "success", access: 0, reason: FaultReason.LGN_1_1 }]);
    expect(guest.faults()).toEqual([]);
  });

  it("goes unrecorded where the context entry disables faults", () => {
    const { guest, ats } = legacyGuest();
    guest.context(NIC, { did: 1, faultsDisabled: true });
    guest.invalidate.contexts();
    expect(ats.translate(0x10)).toMatchObject([{ status: "unsupported" }]);
    expect(guest.faults()).toEqual([]);
  });

  it("to the interrupt window is told to use untranslated writes, and to use nothing if it only reads", () => {
    const { ats } = legacyGuest({ noWriteRequests: true });
    expect(ats.translate(0xfee00)).toMatchObject([{ status: "success", access: 2, untranslatedOnly: true }]);
    expect(ats.translate(0xfee00, { noWrite: true })).toMatchObject([
      { status: "success", access: 0, untranslatedOnly: false },
    ]);
  });

  it("is answered around the interrupt window where a superpage contains it, and aborted in it", () => {
    const { guest, ats } = legacyGuest();
    guest.map(1, { iovaPfn: 0x200, gpaPfn: 0xfee00, leafPages: 512 });
    const inside = 0x2ff;
    expect(ats.translate(0x300)).toMatchObject([{ status: "success", pageCount: 1, gpaPfn: 0xfef00 }]);
    expect(ats.translate(inside)).toMatchObject([{ status: "abort", reason: FaultReason.LGN_4 }]);
    expect(guest.faults()).toMatchObject([{ reason: 0x0e, page: inside }]);
  });

  it("is unsupported, and not recorded, while translation is off or the device is unplugged", () => {
    const { guest, ats } = legacyGuest();
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    guest.disable();
    expect(ats.translate(0x10)).toMatchObject([{ status: "unsupported" }]);
    expect(ats.translate(0xfee00)).toMatchObject([{ status: "unsupported" }]);
    guest.enable();
    expect(ats.translate(0x10)).toMatchObject([{ status: "success", access: 3 }]);
    void guest.device(NIC).unplug();
    expect(ats.translate(0x10)).toMatchObject([{ status: "unsupported" }]);
    expect(ats.read(0x1000 * 4096, new Uint8Array(4))).toBe(false);
    expect(guest.faults()).toEqual([]);
  });

  it("needs a unit with device TLBs, and an address space of that unit", () => {
    const plain = new GuestDriver();
    expect(() => plain.unit.ats(plain.device(NIC))).toThrow(IommuError);
    const { guest } = legacyGuest();
    expect(() => guest.unit.ats(plain.device(NIC))).toThrow("of this unit");
  });
});

describe("a translation request in scalable mode", () => {
  function firstStage(options = {}): { readonly guest: GuestDriver; readonly space: AddressSpace } {
    const guest = scalableGuest(options);
    const tables = guest.newFirstStageTables();
    tables.map(0x10, 4, 0x1000);
    tables.map(0x14, 1, 0x2000, { writable: false });
    tables.map(0x15, 1, 0x2001, { user: false });
    guest.pasid(NIC, 5, { did: 2, type: "first-stage", firstRootPfn: tables.rootPfn, fields: { SRE: 1 } });
    return { guest, space: guest.device(NIC, { pasid: 5 }) };
  }

  it("goes through the PASID's first stage; a missing or malformed entry is no fault", () => {
    const { guest, space } = firstStage();
    const ats = guest.unit.ats(space);
    expect(ats.translate(0x10)).toMatchObject([{ status: "success", gpaPfn: 0x1000, access: 3, privileged: false }]);
    expect(ats.translate(0x14)).toMatchObject([{ status: "success", access: 1 }]);
    expect(ats.translate(0x15)).toMatchObject([{ status: "success", access: 0, reason: FaultReason.SGN_2 }]);
    expect(ats.translate(0x20)).toMatchObject([{ status: "success", access: 0, reason: FaultReason.SFS_2 }]);
    expect(ats.translate(2 ** 40)).toMatchObject([{ status: "success", access: 0, reason: FaultReason.SGN_1 }]);
    expect(guest.faults()).toEqual([]);
  });

  it("of a privileged device says PRIV, and reaches supervisor pages", () => {
    const { guest } = firstStage();
    const ats = guest.unit.ats(guest.device(NIC, { pasid: 5, privileged: true }));
    expect(ats.translate(0x15)).toMatchObject([{ status: "success", gpaPfn: 0x2001, access: 3, privileged: true }]);
    const { guest: other } = firstStage();
    const tables = other.newFirstStageTables();
    other.pasid(NIC, 6, { did: 3, type: "first-stage", firstRootPfn: tables.rootPfn });
    const refused = other.unit.ats(other.device(NIC, { pasid: 6, privileged: true }));
    expect(refused.translate(0x15)).toMatchObject([{ status: "success", access: 0, privileged: true }]);
    expect(other.faults()).toEqual([]);
  });

  it.each([
    ["SCT_5", "unsupported", { DTE: 0, PRE: 0 }],
    ["SCT_6", "unsupported", { DTE: 1, PASIDE: 0 }],
    ["SCT_9", "unsupported", { DTE: 1, RID_PASID: 5 }],
    ["SCT_4_1", "abort", { DTE: 0, PRE: 1 }],
  ] as const)("that meets %s is answered %s, and recorded with its PASID", (name, status, fields) => {
    const { guest, space } = firstStage();
    guest.scalableContext(NIC, { pasids: true, fields });
    guest.invalidate.contexts();
    expect(guest.unit.ats(space).translate(0x10)).toMatchObject([{ status, access: 0, reason: FaultReason[name] }]);
    expect(guest.faults()).toMatchObject([{ reason: FaultReason[name] & 0xff, pasid: 5 }]);
    expect(addressType(guest)).toBe(TRANSLATION_REQUEST);
  });

  it("with a PASID that has no entry succeeds without rights, and is not recorded", () => {
    const { guest } = firstStage();
    expect(guest.unit.ats(guest.device(NIC, { pasid: 9 })).translate(0x10)).toMatchObject([
      { status: "success", access: 0, reason: FaultReason.SPT_2 },
    ]);
    expect(guest.unit.ats(guest.device(NIC, { pasid: 900 })).translate(0x10)).toMatchObject([
      { status: "success", access: 0, reason: FaultReason.SPD_2 },
    ]);
    expect(guest.faults()).toEqual([]);
  });

  it("with PASID to the interrupt window is ordinary; a result in it is an abort", () => {
    const { guest, space } = firstStage();
    const tables = guest.newFirstStageTables();
    tables.map(0xfee00, 1, 0x3000);
    tables.map(0x30, 1, 0xfee01);
    guest.pasid(NIC, 5, { did: 2, type: "first-stage", firstRootPfn: tables.rootPfn });
    const ats = guest.unit.ats(space);
    expect(ats.translate(0xfee00)).toMatchObject([{ status: "success", gpaPfn: 0x3000, untranslatedOnly: false }]);
    expect(ats.translate(0x30)).toMatchObject([{ status: "abort", reason: FaultReason.SGN_8_2 }]);
    expect(faultName(FaultReason.SGN_8_2)).toBe("SGN.8.2");
  });

  it("in nested translation: first-stage trouble is no fault, second-stage structure trouble is an abort", () => {
    const guest = scalableGuest();
    const tables = guest.newFirstStageTables();
    tables.map(0x10, 2, 0x1000);
    // The second stage maps tables and targets onto themselves, except for the second target.
    for (const pfn of [0x1000]) guest.map(4, { iovaPfn: pfn, gpaPfn: pfn });
    for (let pfn = 0x20000; pfn < 0x20200; pfn++) guest.map(4, { iovaPfn: pfn, gpaPfn: pfn });
    guest.pasid(NIC, 5, { did: 4, type: "nested", firstRootPfn: tables.rootPfn });
    const ats = guest.unit.ats(guest.device(NIC, { pasid: 5 }));
    expect(ats.translate(0x10)).toMatchObject([{ status: "success", gpaPfn: 0x1000, access: 3 }]);
    expect(ats.translate(0x11)).toMatchObject([{ status: "success", access: 0, reason: FaultReason.SSS_2 }]);
    guest.memory.pokeEntry(guest.tables(4).entryGpa(0x1001, 1), 3, 0x10000);
    expect(ats.translate(0x11)).toMatchObject([{ status: "abort", reason: FaultReason.SSS_3 }]);
  });

  it.each([
    ["first-stage", 0, 0, false],
    ["first-stage", 1, 0, true],
    ["second-stage", 0, 0, false],
    ["second-stage", 0, 1, true],
    ["second-stage", 1, 0, true],
    ["nested", 0, 0, false],
    ["nested", 0, 1, true],
    ["nested", 1, 0, true],
    ["pass-through", 0, 0, false],
    ["pass-through", 1, 0, true],
  ] as const)("says N for a %s page with PGSNP %i and SNP %i: %s", (type, PGSNP, SNP, snooped) => {
    const guest = scalableGuest({ snoopControl: true });
    const tables = guest.newFirstStageTables();
    tables.map(0x10, 1, 0x1000);
    for (let pfn = 0x20000; pfn < 0x20200; pfn++) guest.map(4, { iovaPfn: pfn, gpaPfn: pfn });
    for (const pfn of [0x10, 0x1000]) {
      guest.map(4, { iovaPfn: pfn, gpaPfn: 0x1000 });
      const leaf = guest.tables(4).entryGpa(pfn, 1);
      guest.memory.poke(leaf, guest.memory.peek(leaf) | (SNP << 11));
    }
    const firstRootPfn = type === "first-stage" || type === "nested" ? tables.rootPfn : 0;
    guest.pasid(NIC, 5, { did: 4, type, firstRootPfn, fields: { PGSNP } });
    const ats = guest.unit.ats(guest.device(NIC, { pasid: 5 }));
    expect(ats.translate(0x10)).toMatchObject([{ status: "success", access: 3, snooped }]);
    // Nothing is granted, so nothing is said of it.
    guest.pasid(NIC, 5, { did: 4, type: "second-stage", fields: { PGSNP } });
    guest.invalidate.pasidEntries();
    expect(ats.translate(0x11)).toMatchObject([{ status: "success", access: 0, snooped: false }]);
  });

  it("that meets SCT.5 is recorded, whatever the PASID entry says of faults: it is not read", () => {
    const { guest, space } = firstStage();
    guest.pasid(NIC, 5, { did: 2, type: "pass-through", fields: { FPD: 1 } });
    guest.scalableContext(NIC, { pasids: true, fields: { DTE: 0 } });
    guest.invalidate.contexts();
    expect(guest.unit.ats(space).translate(0x10)).toMatchObject([{ status: "unsupported" }]);
    expect(guest.faults()).toMatchObject([{ reason: FaultReason.SCT_5 }]);
  });

  it("passed through is answered in the largest block around the page that avoids the interrupt window", () => {
    const guest = scalableGuest();
    guest.pasid(NIC, 5, { did: 2, type: "pass-through" });
    const ats = guest.unit.ats(guest.device(NIC, { pasid: 5 }));
    for (const [iovaPfn, pageCount] of [
      [0x1234, 2 ** 18],
      [0xc0000, 512],
      [0xfebff, 512],
      [0xfef00, 1],
      [0xff000, 512],
      [0x100000, 2 ** 18],
    ] as const) {
      const first = iovaPfn - (iovaPfn % pageCount);
      expect(ats.translate(iovaPfn)).toMatchObject([{ iovaPfn: first, pageCount, gpaPfn: first, access: 3 }]);
    }
    expect(ats.translate(0xfee00)).toMatchObject([{ status: "success", access: 0, untranslatedOnly: false }]);
    expect(guest.faults()).toEqual([]);
  });

  it("for more pages than a completion holds is answered for as many as it holds", () => {
    const { guest, space } = firstStage();
    const tables = guest.newFirstStageTables();
    tables.map(0, 100, 0x1000);
    guest.pasid(NIC, 5, { did: 2, type: "first-stage", firstRootPfn: tables.rootPfn });
    const ats = guest.unit.ats(space);
    expect(ats.translate(0, { pageCount: 2 ** 40 })).toHaveLength(64);
    expect(ats.translate(200, { pageCount: 2 ** 40 }).length).toBeLessThanOrEqual(64);
  });

  it("sets dirty flags only for the rights it grants", () => {
    const { guest, space } = firstStage();
    const tables = guest.newFirstStageTables();
    tables.map(0x10, 1, 0x1000);
    tables.map(0x11, 1, 0x1001, { writable: false });
    guest.pasid(NIC, 5, { did: 2, type: "first-stage", firstRootPfn: tables.rootPfn });
    const ats = guest.unit.ats(space);
    ats.translate(0x10);
    ats.translate(0x11);
    const flags = (pfn: number): number => guest.memory.peek(tables.entryGpa(pfn, 1)) & 0x60;
    expect([flags(0x10), flags(0x11)]).toEqual([0x60, 0x20]);
  });

  it.each(["first-stage", "second-stage", "nested"] as const)(
    "leaves no trace of a %s block that it does not answer: no flags, no fault, nothing cached",
    (type) => {
      const guest = scalableGuest({ secondStageFlags: true });
      const first = guest.newFirstStageTables();
      const second = guest.tables(4);
      first.map(0x1ff, 1, 0x1000);
      first.map(0x200, 512, 0x2000, { leafPages: 512 });
      second.map(0x1000, 1, 0x1000);
      second.map(0x1ff, 1, 0x1000);
      second.map(0x200, 512, 0x4000, 3, 512);
      second.map(0x2000, 512, 0x4000, 3, 512);
      // Where the first-stage tables are.
      second.map(0x20000, 512, 0x20000);
      guest.pasid(NIC, 5, {
        did: 4,
        type,
        ...(type !== "second-stage" && { firstRootPfn: first.rootPfn }),
        fields: { PWSNP: 1, ...(type !== "first-stage" && { SSADE: 1 }) },
      });
      const space = guest.device(NIC, { pasid: 5 });
      const ats = guest.unit.ats(space);
      const superpage = (): number =>
        type === "second-stage"
          ? guest.memory.peek(second.entryGpa(0x200, 2))
          : guest.memory.peek(first.entryGpa(0x200, 2));
      const target = (): number => guest.memory.peek(second.entryGpa(0x2000, 2));
      const before = [superpage(), target()];
      expect(ats.translate(0x1ff, { pageCount: 2 })).toMatchObject([{ pageCount: 1, access: 3 }]);
      expect([superpage(), target()]).toEqual(before);
      // Asked for, it is answered, and then it is dirty.
      expect(ats.translate(0x200)).toMatchObject([{ pageCount: 512, access: 3 }]);
      expect(superpage()).not.toBe(before[0]);
      // A block that is malformed ends the answer before it, and is no fault of the request.
      const leaf = second.entryGpa(type === "nested" ? 0x2000 : 0x200, 2);
      guest.memory.pokeEntry(leaf, guest.memory.peek(leaf), 0x80000);
      guest.invalidate.all();
      expect(ats.translate(0x1ff, { pageCount: 2 })).toHaveLength(1);
      expect(guest.faults()).toEqual([]);
    },
  );

  it("is unsupported for everybody in abort-DMA mode, and recorded", () => {
    const guest = scalableGuest({ abortDma: true });
    const ats = guest.unit.ats(guest.device(NIC));
    guest.setRoot("abort");
    expect(ats.translate(0x10)).toMatchObject([{ status: "unsupported", reason: FaultReason.RTA_4 }]);
    expect(ats.read(0x1000, new Uint8Array(4))).toBe(false);
    expect(guest.faults()).toMatchObject([{ reason: 0x33 }]);
  });
});

describe("a translated request", () => {
  it("reaches memory as it says, without a walk, where the context allows it", () => {
    const { guest, ats } = legacyGuest();
    guest.memory.resetCounters();
    expect(ats.write(0x1000 * 4096 + 10, Uint8Array.of(1, 2, 3))).toBe(true);
    const fetches = guest.memory.counters.fetches;
    const into = new Uint8Array(3);
    expect(ats.read(0x1000 * 4096 + 10, into)).toBe(true);
    expect([...into]).toEqual([1, 2, 3]);
    expect(guest.memory.counters.fetches).toBe(fetches);
    expect(ats.read(2 ** 40, into)).toBe(false);
    expect(guest.faults()).toEqual([]);
  });

  it.each([
    ["LCT_5", 0x1000, (guest: GuestDriver) => guest.context(NIC, { did: 1 })],
    ["LCT_2", 0x1000, (guest: GuestDriver) => guest.contexts.clear(NIC)],
    ["LGN_1_2", 2 ** 36, () => undefined],
    ["LGN_4", 0xfee00, () => undefined],
  ] as const)("that meets %s is refused and recorded as a translated write", (name, gpaPfn, spoil) => {
    const { guest, ats } = legacyGuest();
    spoil(guest);
    guest.invalidate.contexts();
    expect(ats.write(gpaPfn * 4096, Uint8Array.of(1))).toBe(false);
    expect(guest.faults()).toMatchObject([{ reason: FaultReason[name] & 0xff, page: gpaPfn % 2 ** 36, type: 0 }]);
    expect(addressType(guest)).toBe(TRANSLATED);
  });

  it("is refused without a record while translation is off", () => {
    const { guest, ats } = legacyGuest();
    guest.disable();
    expect(ats.read(0x1000, new Uint8Array(1))).toBe(false);
    expect(guest.faults()).toEqual([]);
  });

  it("in scalable mode needs DTE and no PASID, and reads no PASID structures", () => {
    const guest = scalableGuest();
    const ats = guest.unit.ats(guest.device(NIC));
    guest.contexts.clearPasid(NIC, 0);
    expect(ats.write(0x1000 * 4096, Uint8Array.of(9))).toBe(true);
    expect(guest.unit.ats(guest.device(NIC, { pasid: 5 })).write(0x1000 * 4096, Uint8Array.of(9))).toBe(false);
    expect(guest.faults()).toMatchObject([{ reason: FaultReason.SCT_10 & 0xff, pasid: 5 }]);
  });

  it.each([
    ["RTA_1_2", 0x1000, (guest: GuestDriver) => guest.setRoot("reserved")],
    ["SCT_2", 0x1000, (guest: GuestDriver) => guest.memory.clear(guest.contexts.scalableContextEntryGpa(NIC) / 4096)],
    ["SCT_5", 0x1000, (guest: GuestDriver) => guest.scalableContext(NIC, { pasids: true })],
    ["SGN_4_1", 2 ** 36, () => undefined],
    ["SGN_8_3", 0xfee00, () => undefined],
  ] as const)("in scalable mode that meets %s is refused and recorded as a translated write", (name, gpaPfn, spoil) => {
    const guest = scalableGuest();
    spoil(guest);
    guest.invalidate.contexts();
    expect(guest.unit.ats(guest.device(NIC)).write(gpaPfn * 4096, Uint8Array.of(1))).toBe(false);
    expect(guest.faults()).toMatchObject([{ reason: FaultReason[name] & 0xff, page: gpaPfn, type: 0 }]);
    expect(addressType(guest)).toBe(TRANSLATED);
  });

  it("that is refused where the context-entry disables faults leaves no record", () => {
    const { guest, ats } = legacyGuest();
    guest.context(NIC, { did: 1, faultsDisabled: true });
    guest.invalidate.contexts();
    expect(ats.write(0x1000 * 4096, Uint8Array.of(1))).toBe(false);
    expect(guest.faults()).toEqual([]);
  });

  it("writes pages in front of the one that is refused", () => {
    const { guest, ats } = legacyGuest();
    expect(ats.write(0xfedff * 4096 + 4095, Uint8Array.of(7, 8))).toBe(false);
    expect(guest.faults()).toEqual([]);
    const { guest: other, ats: again } = legacyGuest({ ram: [{ firstPfn: 0, pageCount: 0x100000 }] });
    expect(again.write(0xfedff * 4096 + 4095, Uint8Array.of(7, 8))).toBe(false);
    expect(other.memory.peek(0xfedff * 4096 + 4092) >>> 24).toBe(7);
    expect(other.faults()).toMatchObject([{ reason: 0x0e, page: 0xfee00 }]);
  });

  it("counts as written for who tracks dirty pages, by frame", () => {
    const { guest, ats } = legacyGuest();
    const tracker = new DirtyTracker(guest.device(NIC));
    tracker.start();
    ats.write(0x1000 * 4096 + 4090, new Uint8Array(10));
    const seen: string[] = [];
    tracker.collect({
      iova: (first, count) => seen.push(`iova ${first}+${count}`),
      gpa: (first, count) => seen.push(`gpa ${first}+${count}`),
    });
    expect(seen).toEqual(["gpa 4096+2"]);
  });
});

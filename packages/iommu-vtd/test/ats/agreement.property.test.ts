import fc from "fast-check";
import { type Access, type AddressSpace, Translation } from "@iommu-kit/iommu-core";
import { describe, expect, it } from "vitest";
import type { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import type { DeviceAts } from "@iommu-kit/iommu-vtd";
import { legacyGuest, NIC, scalableGuest } from "./ats-guest.js";

const PAGES = 24;

const page = fc.record({
  iova: fc.nat(PAGES - 1),
  gpa: fc.integer({ min: 0x1000, max: 0x1040 }),
  access: fc.constantFrom<Access>(1, 2, 3),
});
/** A bit of a leaf entry to spoil: some are reserved, some ignored. */
const spoil = fc.record({ iova: fc.nat(PAGES - 1), bit: fc.constantFrom(11, 48, 51, 52, 62) });

/** What untranslated requests find: target and rights, each right asked for on its own. */
function reached(space: AddressSpace, pfn: number): { readonly access: number; readonly gpaPfn: number } {
  const out = new Translation();
  let access = 0;
  let gpaPfn = 0;
  for (const wanted of [1, 2] as const) {
    if (!space.translate(pfn, wanted, out)) continue;
    access |= wanted;
    ({ gpaPfn } = out);
  }
  return { access, gpaPfn };
}

/** A translation request grants exactly the rights that untranslated requests have, at the same place. */
function checkAgreement(ats: DeviceAts, space: AddressSpace): void {
  for (let pfn = 0; pfn < PAGES; pfn++) {
    const [answer] = ats.translate(pfn);
    const { access, gpaPfn } = reached(space, pfn);
    expect(answer?.access, `page ${pfn}`).toBe(access);
    if (access !== 0 && answer !== undefined) expect(answer.gpaPfn + pfn - answer.iovaPfn, `page ${pfn}`).toBe(gpaPfn);
  }
}

function flip(guest: GuestDriver, gpa: number, bit: number): void {
  const at = gpa + (bit >= 32 ? 4 : 0);
  guest.memory.poke(at, guest.memory.peek(at) ^ (1 << (bit & 31)));
}

describe("translation requests and untranslated requests", () => {
  it("find the same targets and rights in legacy mode, whatever the tables say", () => {
    fc.assert(
      fc.property(fc.array(page, { maxLength: 20 }), fc.array(spoil, { maxLength: 5 }), (pages, spoiled) => {
        const { guest, ats } = legacyGuest();
        for (const { iova, gpa, access } of pages) guest.map(1, { iovaPfn: iova, gpaPfn: gpa, access });
        for (const { iova, bit } of spoiled) flip(guest, guest.tables(1).entryGpa(iova, 1), bit);
        checkAgreement(ats, guest.device(NIC));
      }),
      { numRuns: 100 },
    );
  });

  it("find the same in first-stage and nested translation", () => {
    const flags = fc.record({ iova: fc.nat(PAGES - 1), writable: fc.boolean(), user: fc.boolean() });
    fc.assert(
      fc.property(
        fc.array(flags, { maxLength: 20 }),
        fc.array(page, { maxLength: 20 }),
        fc.array(spoil, { maxLength: 4 }),
        fc.boolean(),
        (first, second, spoiled, nested) => {
          const guest = scalableGuest();
          const tables = guest.newFirstStageTables();
          for (const { iova, writable, user } of first) tables.map(iova, 1, 0x1000 + iova, { writable, user });
          for (const { iova, bit } of spoiled) flip(guest, tables.entryGpa(iova, 1), bit);
          // The first stage's tables and its targets, through the second stage.
          for (let pfn = 0x20000; pfn < 0x20100; pfn++) guest.map(2, { iovaPfn: pfn, gpaPfn: pfn });
          for (const { iova, gpa, access } of second) guest.map(2, { iovaPfn: 0x1000 + iova, gpaPfn: gpa, access });
          guest.pasid(NIC, 5, { did: 2, type: nested ? "nested" : "first-stage", firstRootPfn: tables.rootPfn });
          const space = guest.device(NIC, { pasid: 5 });
          checkAgreement(guest.unit.ats(space), space);
        },
      ),
      { numRuns: 100 },
    );
  });
});

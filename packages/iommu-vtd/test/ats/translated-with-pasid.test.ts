/**
 * Translated requests with PASID: a unit with PTRS, a context with EPTR (§4.2.5, §7.1.3).
 */

import { FaultReason } from "@iommu-kit/iommu-vtd";
import type { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { NIC, scalableGuest } from "./ats-guest.js";

const TRANSLATED = 2;

/** A guest whose contexts may enable translated requests with PASID. */
function guestWith(fields: Record<string, number> = {}): GuestDriver {
  const guest = scalableGuest({ translatedWithPasid: true, pasidWidth: 16 });
  guest.scalableContext(NIC, { pasids: true, fields: { DTE: 1, EPTR: 1, RID_PASID: 1, ...fields } });
  guest.invalidate.contexts();
  return guest;
}

function write(guest: GuestDriver, pasid: number, gpaPfn = 0x1000): boolean {
  return guest.unit.ats(guest.device(NIC, { pasid })).write(gpaPfn * 4096, Uint8Array.of(9));
}

describe("a translated request with PASID", () => {
  it("reaches memory as it says, without a look at PASID structures", () => {
    const guest = guestWith();
    guest.memory.poison(guest.contexts.directoryPfn(NIC));
    expect(write(guest, 5)).toBe(true);
    expect(guest.memory.peek(0x1000 * 4096) & 0xff).toBe(9);
    expect(guest.faults()).toEqual([]);
  });

  it.each([
    ["SCT_10", { EPTR: 0 }, 5, 0x1000],
    ["SCT_4_3", { PASIDE: 0 }, 5, 0x1000],
    ["SCT_5", { DTE: 0 }, 5, 0x1000],
    ["SGN_10", {}, 2 ** 16, 0x1000],
    ["SCT_7", {}, 2 ** 13, 0x1000],
    ["SCT_9", {}, 1, 0x1000],
    ["SGN_4_1", {}, 5, 2 ** 36],
    ["SGN_8_3", {}, 5, 0xfee00],
  ] as const)("that meets %s is refused, and recorded with its PASID", (name, fields, pasid, gpaPfn) => {
    const guest = guestWith(fields);
    expect(write(guest, pasid, gpaPfn)).toBe(false);
    expect(guest.faults()).toMatchObject([{ reason: FaultReason[name] & 0xff, pasid, type: 0 }]);
    expect((guest.unit.mmio.read32(0x220 + 12) >>> 28) & 3).toBe(TRANSLATED);
  });

  it("that meets SCT.10 goes unrecorded where the context entry disables faults", () => {
    const guest = guestWith({ EPTR: 0, FPD: 1 });
    expect(write(guest, 5)).toBe(false);
    expect(guest.faults()).toEqual([]);
  });

  it("is refused in legacy mode: RTA.2", () => {
    const guest = guestWith();
    guest.setRoot("legacy");
    expect(write(guest, 5)).toBe(false);
    expect(guest.faults()).toMatchObject([{ reason: FaultReason.RTA_2, pasid: 5 }]);
  });

  it("needs a unit with the capability: elsewhere EPTR is a reserved bit", () => {
    const guest = scalableGuest();
    guest.scalableContext(NIC, { pasids: true, fields: { DTE: 1, EPTR: 1 } });
    guest.invalidate.contexts();
    expect(write(guest, 5)).toBe(false);
    expect(guest.faults()).toMatchObject([{ reason: FaultReason.SCT_3 }]);
    expect(() => scalableGuest({ translatedWithPasid: true, pasidWidth: false })).toThrow("pasidWidth");
  });
});

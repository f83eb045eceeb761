/**
 * Structures and tables of scalable mode that are not where entries say: each is refused with a reason of its own.
 */

import { Translation } from "@iommu-kit/iommu-core";
import { describe, expect, it } from "vitest";
import { FaultReason } from "@iommu-kit/iommu-vtd";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { ask } from "../support/watched-guest.js";

const NIC = "00:03.0";

function scalable(): GuestDriver {
  const guest = new GuestDriver({ scalableMode: true, firstStage: "4-level", nested: true, pasidWidth: 20 });
  guest.scalableContext(NIC, {});
  guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
  guest.pasid(NIC, 0, { did: 1, type: "second-stage" });
  return guest;
}

describe("a request in scalable mode", () => {
  it.each([
    ["the root table", "SRT_1", (guest: GuestDriver) => guest.memory.poison(guest.contexts.scalableRootPfn)],
    [
      "the context table",
      "SCT_1",
      (guest: GuestDriver) => guest.memory.poison(Math.floor(guest.contexts.scalableContextEntryGpa(NIC) / 4096)),
    ],
    [
      "the first table of the second stage",
      "SSS_4",
      (guest: GuestDriver) => guest.memory.poison(guest.tables(1).rootPfn),
    ],
    [
      "a further table of the second stage",
      "SSS_1",
      (guest: GuestDriver) => guest.memory.poison(Math.floor(guest.tables(1).entryGpa(0x10, 1) / 4096)),
    ],
  ] as const)("that cannot read %s is refused with %s", (_, name, spoil) => {
    const guest = scalable();
    spoil(guest);
    guest.setRoot("scalable");
    guest.enable();
    expect(ask(guest.device(NIC), 0x10)).toBe(`fault ${(FaultReason[name] & 0xff).toString(16)}`);
    expect(guest.faults()).toMatchObject([{ reason: FaultReason[name] & 0xff, page: 0x10 }]);
  });

  it("is refused with SPT.4.4 where nested first-stage tables lie beyond what the second stage can reach", () => {
    const guest = scalable();
    guest.pasid(NIC, 0, { did: 1, type: "nested", firstRootPfn: 2 ** 30, levels: 3 });
    guest.setRoot("scalable");
    guest.enable();
    const out = new Translation();
    expect(guest.device(NIC).translate(0x10, 1, out)).toBe(false);
    expect(out.cause).toBe("SPT.4.4");
  });
});

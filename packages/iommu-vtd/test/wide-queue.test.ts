/**
 * The queue of 256-bit descriptors from the driver's view: granularities that do not exist, abort mode, error 6 at both ends (§6.5.2).
 */

import { descriptor, GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";

const IQH = 0x80;
const IQERCD = 0xb0;
const IQE = 0x10;

function started(mode: "scalable" | "abort" = "scalable"): GuestDriver {
  const guest = new GuestDriver({ scalableMode: true, firstStage: "4-level", pasidWidth: 20, abortDma: true });
  guest.setRoot(mode);
  guest.enableQueue({ wide: true });
  guest.enable();
  return guest;
}

const error = (guest: GuestDriver): number => guest.unit.mmio.read32(IQERCD) & 0xf;

/** A wide descriptor of this type and granularity. */
const wide = (type: number, granularity: number): Int32Array =>
  Int32Array.of(type | (granularity << 4), 0, 0, 0, 0, 0, 0, 0);

describe("a wide queue", () => {
  for (const [name, type, granularity] of [
    ["an IOTLB invalidation by PASID", 6, 0],
    ["an IOTLB invalidation by PASID", 6, 1],
    ["a PASID-cache invalidation", 7, 2],
  ] as const) {
    it(`refuses ${name} of granularity ${granularity}: error 3, the head stays on it`, () => {
      const guest = started();
      guest.queue.submit(guest.queue.waitFor(1), wide(type, granularity), guest.queue.waitFor(2));
      expect(guest.faultStatus & IQE).toBe(IQE);
      expect(error(guest)).toBe(3);
      expect(guest.unit.mmio.read32(IQH)).toBe(32);
      expect(guest.memory.peek(guest.queue.statusGpa)).toBe(1);
    });
  }

  it("works while the table mode aborts every request", () => {
    const guest = started("abort");
    expect(guest.queue.run(descriptor.all(), descriptor.pasidAll(5, 7), descriptor.pasidEntries())).toBe(true);
    expect(guest.faultStatus).toBe(0);
  });

  it("is not carried out while it is off, whatever its tail says", () => {
    const guest = started();
    guest.command(0x0400_0000, false);
    guest.queue.tailBytes = 0;
    expect(guest.queue.run(descriptor.all())).toBe(false);
    expect([guest.unit.mmio.read32(IQH), guest.faultStatus]).toEqual([0, 0]);
  });
});

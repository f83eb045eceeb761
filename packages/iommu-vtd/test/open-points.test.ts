/**
 * What the specification leaves open or to the implementation, and how this unit decides: as the recorded systems do, where they can be followed.
 */

import { descriptor, GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask } from "./support/watched-guest.js";

const NIC = "00:03.0";
const CCMD = 0x28;
const FSTS = 0x34;
const IQERCD = 0xb0;
const IQE = 0x10;

describe("a pass-through context entry", () => {
  it("may name any table depth that the unit has, not only the deepest", () => {
    for (const levels of [3, 4] as const) {
      const guest = new GuestDriver();
      guest.context(NIC, { did: 5, passThrough: true, levels });
      guest.start();
      expect(ask(guest.device(NIC), 0x100)).toBe(0x100);
    }
  });

  it("with a table depth that the unit lacks is refused with reason 3", () => {
    const guest = new GuestDriver({ addressWidths: [39] });
    guest.context(NIC, { did: 5, passThrough: true, levels: 4 });
    guest.start();
    expect(ask(guest.device(NIC), 0x100)).toBe("fault 3");
  });
});

describe("the context command register", () => {
  it("reads 0 for source-id and function mask, and the domain-id as written", () => {
    const { mmio } = new GuestDriver().unit;
    mmio.write64(CCMD, 0xe000_0003_0020_4b04n);
    expect(mmio.read64(CCMD)).toBe(0x7800_0000_0000_4b04n);
  });

  it("carries out a domain-selective invalidation globally, and says so", () => {
    const { mmio } = new GuestDriver().unit;
    mmio.write64(CCMD, 0xc000_0000_0000_0005n);
    expect(mmio.read64(CCMD)).toBe(0x4800_0000_0000_0005n);
  });
});

describe("a domain-selective context invalidation in the queue", () => {
  it("makes an entry of another domain count as well", () => {
    const guest = new GuestDriver({ iotlbEntries: 0 });
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
    guest.map(6, { iovaPfn: 1, gpaPfn: 0x200 });
    guest.start();
    expect(ask(guest.device(NIC), 1)).toBe(0x100);
    guest.context(NIC, { did: 6 });
    expect(ask(guest.device(NIC), 1)).toBe(0x100);
    guest.queue.submit(Int32Array.of(0x21 + 7 * 2 ** 16, 0, 0, 0));
    expect(ask(guest.device(NIC), 1)).toBe(0x200);
  });
});

describe("a wait descriptor that asks for nothing", () => {
  it("is reported as a reserved-field error", () => {
    const guest = new GuestDriver();
    guest.start();
    guest.queue.submit(descriptor.wait({}));
    expect(guest.unit.mmio.read32(FSTS) & IQE).toBe(IQE);
    expect(guest.unit.mmio.read32(IQERCD) & 15).toBe(4);
  });
});

describe("an interrupt-entry invalidation", () => {
  it("of as many indexes as its mask can name costs no more than the entries that are cached", () => {
    const guest = new GuestDriver();
    guest.start();
    // IM = 31, G = 1: 2^31 indexes. A loop over them, 200 times, would not end within the test's time.
    for (let i = 0; i < 200; i++) guest.queue.submit(Int32Array.of((31 << 27) | 0x14, 0, 0, 0));
    expect(guest.unit.mmio.read32(FSTS)).toBe(0);
  });
});

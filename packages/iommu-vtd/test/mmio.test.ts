/**
 * The register block under a guest that does anything: every offset, every width, every value (§11.2).
 */

import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";

const VALUES = [0n, 1n, 2n ** 63n, 2n ** 64n - 1n, 0x8000_0000n, 0x5555_5555_5555_5555n];

function everything(): GuestDriver {
  const guest = new GuestDriver({
    cachingMode: true,
    deviceTlb: true,
    scalableMode: true,
    firstStage: "5-level",
    nested: true,
    pasidWidth: 20,
    pageRequests: true,
    extendedInterruptMode: true,
    postedInterrupts: true,
    abortDma: true,
    protectedRegions: ["low", "high"],
    faultRecords: 4,
  });
  guest.context("00:03.0", { did: 5 });
  guest.device("00:03.0");
  guest.start();
  return guest;
}

describe("accesses at any offset", () => {
  it("of 8 bytes, aligned to 8, to 4, or not at all, never throw, running or not", () => {
    for (const guest of [new GuestDriver(), everything()]) {
      const { mmio } = guest.unit;
      for (let offset = 0; offset <= mmio.byteLength + 16; offset += offset < 0x400 ? 1 : 4) {
        for (const value of VALUES) mmio.write64(offset, value);
        expect(mmio.read64(offset)).toBeTypeOf("bigint");
      }
      expect(() => mmio.write64(-8, 1n)).not.toThrow();
    }
  });

  it("of 4 bytes never throw either", () => {
    const { mmio } = everything().unit;
    for (let offset = -8; offset <= mmio.byteLength + 16; offset += 1) {
      for (const value of VALUES) mmio.write32(offset, Number(value & 0xffff_ffffn));
      expect(mmio.read32(offset)).toBeGreaterThanOrEqual(0);
    }
  });

  it("in any order never throw, and the unit still works after a reset", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.tuple(
            fc.oneof(
              fc.integer({ min: 0, max: 0x240 }),
              fc.constantFrom(0x18, 0x20, 0x28, 0x34, 0x38, 0x80, 0x88, 0x90, 0x9c, 0xa0, 0xb8, 0xf0, 0xf8, 0x22c),
            ),
            fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
            fc.boolean(),
          ),
          { maxLength: 60 },
        ),
        (accesses) => {
          const guest = everything();
          for (const [offset, value, wide] of accesses) {
            if (wide) guest.unit.mmio.write64(offset, value);
            else guest.unit.mmio.write32(offset, Number(value & 0xffff_ffffn));
            guest.scheduler.turn();
          }
          void guest.unit.reset();
          guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
          guest.context("00:03.0", { did: 5 });
          guest.start();
          expect(guest.device("00:03.0").dma.write(4096, Uint8Array.of(9))).toBe(true);
          expect(guest.memory.peek(0x100_000)).toBe(9);
        },
      ),
      { numRuns: 60 },
    );
  });

  it("misaligned ones and those beyond the block read 0 and write nothing", () => {
    const { mmio } = new GuestDriver().unit;
    mmio.write32(0x3d, 0xffff_ffff);
    mmio.write64(0x3e, 2n ** 64n - 1n);
    expect(mmio.read32(0x3c)).toBe(0);
    expect(mmio.read32(0x3d)).toBe(0);
    expect(mmio.read32(mmio.byteLength)).toBe(0);
    expect(mmio.read64(mmio.byteLength - 4)).toBe(0n);
  });

  it("of 8 bytes to two 32-bit registers write both: FEADDR with FEUADDR", () => {
    const { mmio } = new GuestDriver().unit;
    mmio.write64(0x40, 0x1234_5600_fee0_3004n);
    expect(mmio.read32(0x40)).toBe(0xfee0_3004);
    expect(mmio.read32(0x44)).toBe(0x1234_5600);
  });

  it("of 8 bytes over GCMD and GSTS command, and leave GSTS to the unit", () => {
    const guest = new GuestDriver();
    guest.unit.mmio.write64(0x20, BigInt(guest.contexts.rootPfn) << 12n);
    guest.unit.mmio.write64(0x18, 0xffff_ffff_4000_0000n);
    expect(guest.status).toBe(0x4000_0000);
  });
});

describe("registers", () => {
  it("return the same bytes after a reset as at the beginning", () => {
    const guest = everything();
    const fresh = new GuestDriver({
      cachingMode: true,
      deviceTlb: true,
      scalableMode: true,
      firstStage: "5-level",
      nested: true,
      pasidWidth: 20,
      pageRequests: true,
      extendedInterruptMode: true,
      postedInterrupts: true,
      abortDma: true,
      protectedRegions: ["low", "high"],
      faultRecords: 4,
    });
    guest.unit.mmio.write32(0x3c, 0xabcd);
    guest.unit.mmio.write64(0xb8, 0xffff_f00fn);
    void guest.unit.reset();
    const dump = (one: GuestDriver): number[] =>
      Array.from({ length: one.unit.mmio.byteLength / 4 }, (_, word) => one.unit.mmio.read32(word * 4));
    expect(dump(guest)).toEqual(dump(fresh));
  });

  it("RTADDR reads as it was written, table mode included, and takes effect at SRTP only", () => {
    const guest = new GuestDriver();
    guest.context("00:03.0", { did: 5 });
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
    guest.start();
    guest.unit.mmio.write64(0x20, 0x7_0000_0400n);
    expect(guest.unit.mmio.read64(0x20)).toBe(0x7_0000_0400n);
    expect(guest.device("00:03.0").dma.read(4096, new Uint8Array(4))).toBe(true);
    guest.command(0x4000_0000);
    expect(guest.device("00:03.0").dma.read(4096, new Uint8Array(4))).toBe(false);
  });

  it("GCMD reads 0; GSTS follows levels both ways and keeps RTPS and IRTPS", () => {
    const guest = new GuestDriver();
    guest.start();
    guest.enableInterruptRemapping();
    guest.command(0x0080_0000);
    expect(guest.unit.mmio.read32(0x18)).toBe(0);
    expect(guest.status).toBe(0xc780_0000);
    for (const level of [0x8000_0000, 0x0400_0000, 0x0200_0000, 0x0080_0000])
      expect(guest.command(level, false)).toBe(true);
    expect(guest.status).toBe(0x4100_0000);
  });

  it("commands that the unit lacks do nothing", () => {
    const guest = new GuestDriver({ interruptRemapping: false });
    guest.unit.mmio.write32(0x18, 0x0000_0000 | 0x0380_0000);
    expect(guest.status).toBe(0);
  });
});

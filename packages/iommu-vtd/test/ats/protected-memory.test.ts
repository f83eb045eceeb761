import { LocalReason } from "@iommu-kit/iommu-core";
import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { PROTECTED_MEMORY } from "@iommu-kit/iommu-vtd";
import { describe, expect, it } from "vitest";
import { GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { legacyGuest, NIC } from "./ats-guest.js";

const PMEN = 0x64;
const PLMBASE = 0x68;
const PLMLIMIT = 0x6c;
const PHMBASE = 0x70;
const PHMLIMIT = 0x78;
const EPM = 0x8000_0000;
const MIB2 = 512;

function guestWith(options: GuestOptions = {}): GuestDriver {
  const guest = new GuestDriver({ protectedRegions: ["low", "high"], ...options });
  guest.context(NIC, { did: 1 });
  return guest;
}

/** Protects 4 to 8 MiB. The high region's limit is below its base: equal values, as after reset, would protect a block. */
function protect(guest: GuestDriver): void {
  guest.unit.mmio.write64(PHMBASE, 0x20_0000n);
  guest.unit.mmio.write32(PLMBASE, 0x40_0000);
  guest.unit.mmio.write32(PLMLIMIT, 0x60_0000);
  guest.unit.mmio.write32(PMEN, EPM);
}

function reads(guest: GuestDriver, pfn: number): boolean {
  return guest.device(NIC).dma.read(pfn * 4096, new Uint8Array(4));
}

describe("protected memory", () => {
  it("blocks untranslated requests while translation is off, from the base on to the end of the limit's block", () => {
    const guest = guestWith();
    protect(guest);
    expect(guest.unit.mmio.read32(PMEN)).toBe((EPM | 1) >>> 0);
    expect([1023, 1024, 2047, 2048].map((pfn) => reads(guest, pfn))).toEqual([true, false, false, true]);
    expect(guest.device(NIC).dma.failure).toMatchObject({ iovaPfn: 2047, cause: "protected memory" });
    guest.unit.mmio.write32(PMEN, 0);
    expect(guest.unit.mmio.read32(PMEN)).toBe(0);
    expect(reads(guest, 1024)).toBe(true);
  });

  it("is refused for a reason that no other part of the machine gives another meaning", () => {
    const guest = guestWith();
    protect(guest);
    reads(guest, 1024);
    expect(guest.device(NIC).dma.failure?.reason).toBe(PROTECTED_MEMORY);
    const meanings = Object.entries(LocalReason).filter(([, reason]) => reason === PROTECTED_MEMORY);
    expect(meanings).toEqual([["PROTECTED_MEMORY", PROTECTED_MEMORY]]);
  });

  it("is nothing until PMEN is written, and nothing with a limit below its base; equal values are 2 MiB", () => {
    const guest = guestWith();
    const { mmio } = guest.unit;
    mmio.write32(PLMBASE, 0x40_0000);
    mmio.write32(PLMLIMIT, 0x40_0000);
    expect(reads(guest, 2 * MIB2)).toBe(true);
    mmio.write32(PMEN, EPM);
    expect([2 * MIB2 - 1, 2 * MIB2, 3 * MIB2 - 1, 3 * MIB2].map((pfn) => reads(guest, pfn))).toEqual([
      true,
      false,
      false,
      true,
    ]);
    mmio.write32(PMEN, 0);
    mmio.write32(PLMLIMIT, 0x20_0000);
    mmio.write64(PHMBASE, 1n);
    mmio.write32(PMEN, EPM);
    expect(reads(guest, 2 * MIB2)).toBe(true);
    mmio.write32(PLMBASE, -1);
    expect(mmio.read32(PLMBASE)).toBe(0xffe0_0000);
  });

  it("judges translated requests by their target, in no fault record", () => {
    const guest = guestWith();
    guest.map(1, { iovaPfn: 0x400, gpaPfn: 0x5000 });
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x400 });
    guest.map(1, { iovaPfn: 0x600, gpaPfn: 0x200, leafPages: 512 });
    guest.map(1, { iovaPfn: 0x800, gpaPfn: 0x400, leafPages: 512 });
    guest.start();
    protect(guest);
    expect([0x400, 0x10, 0x600, 0x800].map((pfn) => reads(guest, pfn))).toEqual([true, false, true, false]);
    expect(guest.faults()).toEqual([]);
    expect(guest.faultStatus).toBe(0);
  });

  it("blocks what had been cached before, pass-through, and requests that a device translated itself", () => {
    const { guest, ats } = legacyGuest({ protectedRegions: ["low"] });
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x400 });
    guest.context("00:04.0", { did: 2, passThrough: true });
    const through = guest.device("00:04.0");
    expect(reads(guest, 0x10)).toBe(true);
    expect(ats.read(0x400 * 4096, new Uint8Array(1))).toBe(true);
    expect(through.dma.read(0x400 * 4096, new Uint8Array(1))).toBe(true);
    protect(guest);
    expect(reads(guest, 0x10)).toBe(false);
    expect(ats.read(0x400 * 4096, new Uint8Array(1))).toBe(false);
    expect(ats.translate(0x10)).toMatchObject([{ status: "abort", access: 0 }]);
    expect(through.dma.read(0x400 * 4096, new Uint8Array(1))).toBe(false);
    expect(guest.faults()).toEqual([]);
  });

  it("covers a high region, which may lie below 4 GiB", () => {
    const guest = guestWith();
    const { mmio } = guest.unit;
    mmio.write32(PLMBASE, 0x20_0000);
    mmio.write64(PHMBASE, 0x80_0000n);
    mmio.write64(PHMLIMIT, 0xa0_0000n);
    mmio.write32(PMEN, EPM);
    expect([0x7ff, 0x800, 0xbff, 0xc00].map((pfn) => reads(guest, pfn))).toEqual([true, false, false, true]);
  });

  it("is never held by a MAP notifier, and comes back with differences only", () => {
    const guest = guestWith({ cachingMode: true, ram: [{ firstPfn: 0, pageCount: 0x40000 }] });
    const notifier = new RecordingNotifier();
    guest.device(NIC).attach(notifier);
    notifier.take();
    protect(guest);
    expect(notifier.take()).toEqual(["unmap 0x400+1024"]);
    guest.unit.mmio.write32(PMEN, 0);
    expect(notifier.take().every((call) => call.startsWith("map"))).toBe(true);
    expect(notifier.held()).toEqual([{ iovaPfn: 0, pageCount: 0x40000, gpaPfn: 0, access: 3 }]);
    notifier.check();
  });

  it("follows the last of two writes of PMEN while notifiers are still busy with the first", async () => {
    const guest = guestWith({ cachingMode: true });
    const notifier = new RecordingNotifier({ answers: "manual" });
    guest.device(NIC).attach(notifier);
    notifier.answers.settle();
    await guest.scheduler.idle();
    protect(guest);
    expect(guest.unit.mmio.read32(PMEN)).toBe(EPM);
    guest.unit.mmio.write32(PMEN, 0);
    for (let i = 0; i < 4; i++) {
      notifier.answers.settle();
      await guest.scheduler.idle();
    }
    expect(guest.unit.mmio.read32(PMEN)).toBe(0);
    expect(reads(guest, 0x400)).toBe(true);
    expect(notifier.lookup(0x400)).toEqual({ gpaPfn: 0x400, access: 3 });
  });

  it("does not exist on a unit without it: the registers read 0 and do nothing", () => {
    const guest = new GuestDriver();
    protect(guest);
    expect([PMEN, PLMBASE, PLMLIMIT, PHMBASE].map((at) => guest.unit.mmio.read32(at))).toEqual([0, 0, 0, 0]);
    expect(reads(guest, 0x400)).toBe(true);
  });

  it("ends with a reset", () => {
    const guest = guestWith();
    protect(guest);
    void guest.unit.reset();
    expect(guest.unit.mmio.read32(PMEN)).toBe(0);
    expect(reads(guest, 0x400)).toBe(true);
  });
});

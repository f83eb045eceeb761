/**
 * Legacy-mode DMA from the device's view: what reaches memory, what is refused and why. The random cases are in slow-model.property.test.ts.
 */

import { GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask } from "./support/watched-guest.js";

const NIC = "00:03.0";
const PAGE = 4096;
const word = (value: number): Uint8Array => Uint8Array.of(value, 0, 0, 0);

function guestWith(options: GuestOptions = {}, levels = 4): GuestDriver {
  const guest = new GuestDriver(options);
  guest.context(NIC, { did: 5, levels });
  guest.start();
  return guest;
}

describe("tables of every depth", () => {
  for (const [levels, width] of [
    [3, 39],
    [4, 48],
    [5, 57],
  ] as const) {
    it(`a device behind ${levels} levels reaches its pages at both ends of ${width} bits, and nothing above`, () => {
      const guest = guestWith({ addressWidths: [39, 48, 57] }, levels);
      const last = 2 ** (width - 12) - 1;
      guest.map(5, { iovaPfn: 0, gpaPfn: 0x100 });
      guest.map(5, { iovaPfn: last, gpaPfn: 0x101 });
      const { dma } = guest.device(NIC);
      expect(dma.write(0x10, word(1))).toBe(true);
      expect(dma.write(BigInt(last) * 4096n + 0x20n, word(2))).toBe(true);
      expect(guest.memory.peek(0x100 * PAGE + 0x10)).toBe(1);
      expect(guest.memory.peek(0x101 * PAGE + 0x20)).toBe(2);
      expect(dma.write(BigInt(last + 1) * 4096n, word(3))).toBe(false);
      expect(guest.takeFaults()).toMatchObject([{ reason: 0x04, page: width === 57 ? 0 : last + 1 }]);
    });

    it(`a MAP notifier behind ${levels} levels holds pages at both ends`, async () => {
      const { WatchedGuest } = await import("./support/watched-guest.js");
      const guest = new WatchedGuest({ addressWidths: [39, 48, 57] });
      guest.context(NIC, { did: 5, levels });
      guest.map(5, { iovaPfn: 2 ** (width - 12) - 1, gpaPfn: 0x101 });
      guest.start();
      const notifier = guest.watch(NIC);
      expect(notifier.take()).toEqual([`map 0x${(2 ** (width - 12) - 1).toString(16)}+1 -> 0x101 rw`]);
      guest.map(5, { iovaPfn: 0, gpaPfn: 0x100 });
      guest.invalidate.domain(5);
      expect(notifier.take()).toEqual(["map 0x0+1 -> 0x100 rw"]);
      guest.assertInStep(NIC, notifier);
    });
  }

  it("a context entry that asks for 5 levels from a unit with 4 is refused with reason 3", () => {
    const guest = guestWith({ addressWidths: [39, 48] });
    guest.context(NIC, { did: 5, rootPfn: 0x1000, levels: 5 });
    expect(ask(guest.device(NIC), 1)).toBe("fault 3");
  });

  it("the narrower of MGAW and table width bounds the input", () => {
    const guest = guestWith({ maximumGuestAddressWidth: 40 });
    guest.map(5, { iovaPfn: 2 ** 28 - 1, gpaPfn: 0x100 });
    guest.map(5, { iovaPfn: 2 ** 28, gpaPfn: 0x101 });
    expect(ask(guest.device(NIC), 2 ** 28 - 1)).toBe(0x100);
    expect(ask(guest.device(NIC), 2 ** 28)).toBe("fault 4");
  });
});

describe("targets outside RAM", () => {
  it("a device that is sent to a hole transfers nothing, and no fault is recorded: the translation was good", () => {
    const guest = guestWith();
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x7_0000 });
    const { dma } = guest.device(NIC);
    expect(dma.read(PAGE, new Uint8Array(4))).toBe(false);
    expect(dma.failure).toEqual({ iovaPfn: 1, reason: 0, cause: "no memory at the target" });
    expect(guest.takeFaults()).toEqual([]);
  });

  it("a transfer ends at the first page without memory; the pages before it have been written", () => {
    const guest = guestWith();
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
    guest.map(5, { iovaPfn: 2, gpaPfn: 0x7_0000 });
    expect(guest.device(NIC).dma.write(PAGE, new Uint8Array(8192).fill(7))).toBe(false);
    expect(guest.memory.peek(0x100 * PAGE)).toBe(0x0707_0707);
  });

  it("a MAP notifier is told of targets outside RAM: whether it can hold them is its to say", async () => {
    const { WatchedGuest } = await import("./support/watched-guest.js");
    const guest = new WatchedGuest();
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x7_0000 });
    guest.start();
    const notifier = guest.watch(NIC, { supports: (gpaPfn) => gpaPfn < 0x4_0000 });
    expect(notifier.take()).toEqual(["map 0x1+1 -> 0x70000 rw"]);
    expect(guest.device(NIC).attachments[0]?.refusedPages).toBe(1);
    expect(notifier.pageCount).toBe(0);
  });

  it("tables in a hole are access errors: 8 root, 9 context, 3 first table, 7 lower table", () => {
    const hole = 0x7_0000;
    const guest = guestWith();
    const space = guest.device(NIC);
    const tables = guest.tables(5);
    guest.memory.pokeEntry(tables.entryGpa(0, 2), (hole << 12) | 3, 0);
    expect(ask(space, 0)).toBe("fault 7");
    guest.context(NIC, { did: 5, rootPfn: hole });
    guest.invalidate.contexts();
    expect(ask(space, 0)).toBe("fault 3");
    guest.memory.pokeEntry(guest.contexts.rootEntryGpa(NIC), (hole << 12) | 1, 0);
    guest.invalidate.contexts();
    expect(ask(space, 0)).toBe("fault 9");
    guest.unit.mmio.write64(0x20, BigInt(hole) << 12n);
    guest.command(0x4000_0000);
    expect(ask(space, 0)).toBe("fault 8");
  });
});

describe("the interrupt window", () => {
  it("as an input is never memory, whatever the tables say", () => {
    const guest = guestWith();
    guest.map(5, { iovaPfn: 0xfee00, gpaPfn: 0x100 });
    const { dma } = guest.device(NIC);
    expect(dma.read(0xfee0_0000, new Uint8Array(4))).toBe(false);
    expect(dma.write(0xfee0_0000, new Uint8Array(8))).toBe(false);
    expect(guest.memory.peek(0x100 * PAGE)).toBe(0);
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x29 }]);
    expect(dma.write(0xfee0_1000, word(0x41))).toBe(true);
    expect(guest.messages).toEqual([{ address: 0xfee0_1000, addressHigh: 0, data: 0x41 }]);
  });

  it("as an output is refused with reason E, one page at a time", () => {
    const guest = guestWith();
    guest.map(5, { iovaPfn: 0x10, gpaPfn: 0xfedff });
    guest.map(5, { iovaPfn: 0x11, gpaPfn: 0xfee00 });
    guest.map(5, { iovaPfn: 0x12, gpaPfn: 0xfeeff });
    guest.map(5, { iovaPfn: 0x13, gpaPfn: 0xfef00 });
    const space = guest.device(NIC);
    expect([0x10, 0x11, 0x12, 0x13].map((pfn) => ask(space, pfn))).toEqual([0xfedff, "fault e", "fault e", 0xfef00]);
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x0e, page: 0x11, type: 2 }]);
  });

  it("inside of a superpage is refused alone: the rest of the superpage is reached, before and after, also from the IOTLB", () => {
    const guest = guestWith();
    // 1 GiB at 0xc0000000 contains the window.
    guest.map(5, { iovaPfn: 0x40000, gpaPfn: 0xc0000, leafPages: 2 ** 18 });
    const space = guest.device(NIC);
    const iova = (gpaPfn: number): number => gpaPfn - 0xc0000 + 0x40000;
    for (const round of ["walk", "IOTLB"]) {
      expect(
        [0xc0000, 0xfedff, 0xfef00, 0xfffff].map((pfn) => ask(space, iova(pfn))),
        round,
      ).toEqual([0xc0000, 0xfedff, 0xfef00, 0xfffff]);
      expect(ask(space, iova(0xfee00)), round).toBe("fault e");
      expect(ask(space, iova(0xfeeff)), round).toBe("fault e");
    }
  });

  it("is left out of what a MAP notifier hears, as an input and as an output of one superpage", async () => {
    const { WatchedGuest } = await import("./support/watched-guest.js");
    const guest = new WatchedGuest();
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 0xc0000, gpaPfn: 0x80000, leafPages: 2 ** 18 });
    guest.map(5, { iovaPfn: 0x40000, gpaPfn: 0xc0000, leafPages: 2 ** 18 });
    guest.start();
    const notifier = guest.watch(NIC);
    guest.assertInStep(NIC, notifier);
    expect(notifier.pageCount).toBe(2 * (2 ** 18 - 256));
    expect(notifier.lookup(0xfee00)).toBeUndefined();
    expect(notifier.lookup(0x40000 + 0x3ee00)).toBeUndefined();
    expect(notifier.lookup(0x40000 + 0x3ef00)).toEqual({ gpaPfn: 0xfef00, access: 3 });
  });

  it("of a device in pass-through is a message, and an output nowhere", () => {
    const guest = new GuestDriver();
    guest.context(NIC, { did: 5, passThrough: true });
    guest.start();
    const space = guest.device(NIC);
    expect(space.dma.write(0xfee0_2000, word(0x55))).toBe(true);
    expect(guest.messages).toHaveLength(1);
    expect(ask(space, 0xfedff)).toBe(0xfedff);
    expect(ask(space, 0xfee00)).toBe("fault 29");
    expect(ask(space, 0xfef00)).toBe(0xfef00);
  });

  it("is refused to a consumer that asks where its pages are, with translation off, behind tables and in pass-through", () => {
    const guest = new GuestDriver();
    const space = guest.device(NIC);
    const refused = (): void => {
      for (const pfn of [0xfee00, 0xfeeff]) expect(ask(space, pfn)).toBe("fault 29");
      expect(guest.faults()).toEqual([]);
    };
    refused();
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 0xfee00, pageCount: 256, gpaPfn: 0x800 });
    guest.start();
    refused();
    guest.context(NIC, { did: 6, passThrough: true });
    guest.invalidate.contexts();
    refused();
  });

  it("no block that a translation answers for reaches into the window", async () => {
    const { Translation } = await import("@iommu-kit/iommu-core");
    const guest = new GuestDriver();
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 0xc0000, gpaPfn: 0x80000, leafPages: 2 ** 18 });
    const space = guest.device(NIC);
    const out = new Translation();
    const blockOf = (pfn: number): [number, number] => {
      expect(space.translate(pfn, 1, out)).toBe(true);
      return [pfn - (pfn % out.pageCount), out.pageCount];
    };
    const clear = ([first, count]: [number, number]): boolean => first + count <= 0xfee00 || first >= 0xfef00;
    expect(clear(blockOf(0xfef00)), "translation off").toBe(true);
    guest.start();
    expect(clear(blockOf(0xfef00)), "walk").toBe(true);
    expect(clear(blockOf(0xfef00)), "IOTLB").toBe(true);
    expect(clear(blockOf(0xc0000)), "far from it").toBe(true);
  });
});

describe("pass-through", () => {
  it("reaches memory at the same address up to the host address width, and is refused with reason 4 above", () => {
    const guest = new GuestDriver({ hostAddressWidth: 40 });
    guest.context(NIC, { did: 5, passThrough: true });
    guest.start();
    const space = guest.device(NIC);
    expect(ask(space, 0x100)).toBe(0x100);
    expect(ask(space, 2 ** 28 - 1)).toBe(2 ** 28 - 1);
    expect(ask(space, 2 ** 28)).toBe("fault 4");
  });

  it("needs no invalidation when the entry becomes present and the unit has no caching mode", () => {
    const guest = new GuestDriver();
    guest.start();
    const space = guest.device(NIC);
    expect(ask(space, 0x100)).toBe("fault 1");
    guest.context(NIC, { did: 5, passThrough: true });
    expect(ask(space, 0x100)).toBe(0x100);
  });
});

describe("device TLBs in legacy mode", () => {
  it("translation requests and translated requests are refused with reason D unless TT allows them", () => {
    const guest = new GuestDriver({ deviceTlb: true });
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
    guest.start();
    const ats = guest.unit.ats(guest.device(NIC));
    expect(ats.translate(1)).toMatchObject([{ status: "unsupported" }]);
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x0d, page: 1 }]);
    expect(ats.read(0x100000, new Uint8Array(4))).toBe(false);
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x0d, page: 0x100 }]);
    guest.context(NIC, { did: 5, fields: { TT: 1 } });
    guest.invalidate.contexts();
    expect(ats.translate(1)).toMatchObject([{ status: "success", gpaPfn: 0x100, access: 3 }]);
    expect(ats.read(0x100000, new Uint8Array(4))).toBe(true);
    expect(guest.takeFaults()).toEqual([]);
  });

  it("reason D is qualified: FPD keeps it out of the records", () => {
    const guest = new GuestDriver({ deviceTlb: true });
    guest.context(NIC, { did: 5, faultsDisabled: true });
    guest.start();
    expect(guest.unit.ats(guest.device(NIC)).translate(1)).toMatchObject([{ status: "unsupported" }]);
    expect(guest.takeFaults()).toEqual([]);
  });
});

describe("zero-length reads", () => {
  it("need the read right; with ZLR a write-only page will do", () => {
    for (const [zeroLengthRead, expected] of [
      [false, false],
      [true, true],
    ] as const) {
      const guest = guestWith({ zeroLengthRead });
      guest.map(5, { iovaPfn: 1, gpaPfn: 0x100, access: 2 });
      guest.map(5, { iovaPfn: 2, gpaPfn: 0x100, access: 1 });
      const { dma } = guest.device(NIC);
      expect(dma.read(PAGE, new Uint8Array(0))).toBe(expected);
      expect(dma.read(2 * PAGE, new Uint8Array(0))).toBe(true);
      expect(dma.read(3 * PAGE, new Uint8Array(0))).toBe(false);
    }
  });

  it("are refused where the levels of a walk together leave no right", () => {
    const guest = guestWith({ zeroLengthRead: true });
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x100, access: 2 });
    const gpa = guest.tables(5).entryGpa(1, 2);
    guest.memory.poke(gpa, (guest.memory.peek(gpa) & ~3) | 1);
    expect(guest.device(NIC).dma.read(PAGE, new Uint8Array(0))).toBe(false);
  });

  it("of the interrupt window complete", () => {
    const guest = guestWith();
    expect(guest.device(NIC).dma.read(0xfee0_0000, new Uint8Array(0))).toBe(true);
    expect(guest.takeFaults()).toEqual([]);
  });
});

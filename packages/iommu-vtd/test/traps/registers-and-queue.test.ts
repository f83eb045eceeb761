/**
 * Traps of registers, the queue and interrupts that another emulator fell into over the years, each as a test of the right behaviour.
 *
 * | what went wrong there | test here |
 * | --- | --- |
 * | an 8-byte access to a 32-bit register stopped the machine; so did one to FEADDR by Xen | "8-byte accesses ..." |
 * | the pass-through bit moved from ECAP to CAP | "pass-through is announced in ECAP ..." |
 * | no coherent page walk announced with shared virtual memory | "coherent page walks are announced ..." |
 * | draining not announced | "draining of reads and writes ..." |
 * | a fence alone was refused; status and interrupt together stopped the machine | "a wait may be ..." |
 * | descriptor types of 4 bits | "a descriptor's type has 7 bits" |
 * | PASID descriptors accepted in narrow queues or in legacy mode; upper halves of wide ones not checked | "PASID descriptors ...", "the upper half ..." |
 * | a tail in the middle of a wide descriptor was no error; the head counted in 16 bytes | "a wide queue ..." |
 * | IQA lost DW, RTADDR its low bits when read | "IQA and RTADDR read ..." |
 * | address masks above 8 bits were cut | "an address mask of 18 ..." |
 * | the queue was refused when IQT came before QIE | "a queue whose tail was written first ..." |
 * | interrupt remapping could be turned on without being there; it survived reset; interrupts alone | "interrupt remapping ..." |
 * | interrupt faults were not recorded; asking beforehand recorded them | "a refused interrupt ..." |
 * | an index behind the table was read | "an interrupt index ..." |
 * | entries were swapped twice or not at all | "structures are little-endian ..." |
 * | the function mask of a context invalidation was not inverted | "a function mask ..." |
 * | fault fields overwrote each other with a PASID | "a fault record with PASID ..." |
 * | wrong options stopped the machine late | "wrong options ..." |
 * | a restored unit forgot descriptor width and table mode, and did not rebuild views | "a restored unit ..." |
 * | PASID entries survived reset | "a reset ..." |
 */

import { parseSourceId } from "@iommu-kit/iommu-core";
import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { restore, save } from "@iommu-kit/iommu-vtd/snapshot";
import { Command, descriptor, GuestDriver, remappableMessage } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask } from "../support/watched-guest.js";

const NIC = "00:03.0";
const error = (guest: GuestDriver): number =>
  (guest.faultStatus & 0x10) === 0 ? -1 : guest.unit.mmio.read32(0xb0) & 15;

describe("registers", () => {
  it("8-byte accesses to 32-bit registers are harmless at every offset; FEADDR takes one together with FEUADDR", () => {
    const { mmio } = new GuestDriver({ faultRecords: 2 }).unit;
    for (let offset = 0; offset < mmio.byteLength; offset += 1) {
      expect(() => mmio.write64(offset, 2n ** 64n - 1n)).not.toThrow();
      expect(() => mmio.read64(offset)).not.toThrow();
    }
    mmio.write64(0x40, 0xabcd_ef00_fee0_1004n);
    expect(mmio.read64(0x40)).toBe(0xabcd_ef00_fee0_1004n);
  });

  it("pass-through is announced in ECAP bit 6, and CAP bit 6 means something else", () => {
    for (const passThrough of [false, true]) {
      const { mmio } = new GuestDriver({ passThrough }).unit;
      expect((mmio.read64(0x10) >> 6n) & 1n).toBe(passThrough ? 1n : 0n);
      expect((mmio.read64(0x08) >> 6n) & 1n).toBe(0n);
    }
  });

  it("coherent page walks are announced in scalable mode, where shared virtual memory needs them", () => {
    const { mmio } = new GuestDriver({ scalableMode: true, firstStage: "4-level", pasidWidth: 20 }).unit;
    expect((mmio.read64(0x10) >> 48n) & 1n).toBe(1n);
  });

  it("draining of reads and writes is announced", () => {
    expect((new GuestDriver().unit.mmio.read64(0x08) >> 54n) & 3n).toBe(3n);
  });

  it("IQA and RTADDR read back what was written, the width and the table mode included", () => {
    const { mmio } = new GuestDriver({ scalableMode: true }).unit;
    mmio.write64(0x90, 0x1234_5807n);
    expect(mmio.read64(0x90)).toBe(0x1234_5807n);
    mmio.write64(0x20, 0x1234_5400n);
    expect(mmio.read64(0x20)).toBe(0x1234_5400n);
  });

  it("an address mask of 18 names 2^18 pages", () => {
    const guest = new GuestDriver();
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 2 ** 18 - 1, gpaPfn: 0x100 });
    guest.start();
    ask(guest.device(NIC), 2 ** 18 - 1);
    guest.map(5, { iovaPfn: 2 ** 18 - 1, gpaPfn: 0x101 });
    guest.invalidate.page(5, 0, 18);
    expect(ask(guest.device(NIC), 2 ** 18 - 1)).toBe(0x101);
  });

  it("wrong options are refused by the constructor, with an error that names the option and what would be right", () => {
    for (const [options, text] of [
      [
        { extendedInterruptMode: true, interruptRemapping: false },
        "extendedInterruptMode: expected interruptRemapping beside it, got interruptRemapping: false (switch interruptRemapping on",
      ],
      [{ firstStage: "4-level" }, "firstStage: expected scalableMode"],
      [{ addressWidths: [40] }, "addressWidths: expected a list of 39, 48 and 57 only, got [40]"],
      [{ pasidWidth: 21, scalableMode: true }, "pasidWidth: expected"],
      [{ superpages: ["1G"] }, 'superpages: expected "2M" beside "1G"'],
      [{ superpages: ["4M"] }, 'superpages: expected a list of "2M" and "1G" only, got ["4M"]'],
      [{ cachingmode: true }, "options: expected one of version, "],
      [{ cachingMode: "yes" }, "cachingMode: expected true or false, got yes"],
      [{ firstStage: "6-level", scalableMode: true }, 'firstStage: expected false, "4-level" or "5-level"'],
      [{ protectedRegions: ["mid"] }, 'protectedRegions: expected a list of "low" and "high" only'],
      [{ addressWidths: 48 }, "addressWidths: expected a list"],
      [{ version: { major: 16, minor: 0 } }, "version: expected { major, minor }, 0 to 15 each"],
      [{ hostAddressWidth: "48" }, "hostAddressWidth: expected 32 to 52, got 48"],
      [{ maximumGuestAddressWidth: 29 }, "maximumGuestAddressWidth: expected 30 to 57, got 29"],
      [{ domainIdWidth: 5 }, "domainIdWidth: expected 4, 6 ... 16"],
      [{ pageSelective: 64 }, "pageSelective: expected false, or log2"],
      [{ faultRecords: 0 }, "faultRecords: expected 1 to 256"],
      [
        { deviceTlbDeadlineMilliseconds: Number.NaN },
        "deviceTlbDeadlineMilliseconds: expected 1 to 2147483647, got NaN",
      ],
      [{ deviceTlbDeadlineMilliseconds: -1 }, "deviceTlbDeadlineMilliseconds: expected"],
      [{ eventIntervalMilliseconds: -1 }, "eventIntervalMilliseconds: expected 0 to 2147483647, got -1"],
      [{ faultRecordOffset: 0x10 }, "faultRecordOffset: expected a multiple of 16 from 0xf0 to 0x3ff0, got 16"],
      [{ faultRecordOffset: 0xf0 }, "expected a free place in the block, got offset 0xf0"],
    ] as const) {
      expect(() => new GuestDriver(options as never)).toThrow(
        expect.objectContaining({ code: "bad-option", message: expect.stringContaining(text) as string }),
      );
    }
  });

  it("a fault record with PASID keeps every field in its place", () => {
    const guest = new GuestDriver({ scalableMode: true, pasidWidth: 20 });
    guest.start("scalable");
    ask(guest.device("ff:1f.7", { pasid: 0xf_ffff }), 2 ** 36 - 1, 2);
    expect(guest.takeFaults()).toEqual([
      {
        reason: 0x39,
        sourceId: 0xffff,
        page: 2 ** 36 - 1,
        type: 0,
        pasid: 0xf_ffff,
        privileged: false,
        execute: false,
      },
    ]);
    ask(guest.device("00:00.0", { pasid: 1 }), 0, 1);
    expect(guest.takeFaults()).toEqual([
      { reason: 0x39, sourceId: 0, page: 0, type: 2, pasid: 1, privileged: false, execute: false },
    ]);
  });
});

describe("the queue", () => {
  it("a wait may be a fence and nothing else; or write its status and interrupt, in that order", () => {
    const guest = new GuestDriver();
    guest.unit.mmio.write32(0xa8, 0xfee0_0000);
    guest.unit.mmio.write32(0xa0, 0);
    guest.enableQueue();
    const { statusGpa } = guest.queue;
    guest.queue.submit(descriptor.wait({ fence: true }));
    expect([error(guest), guest.messages.length]).toEqual([-1, 0]);
    let atInterrupt = 0;
    guest.messages.push = () => (atInterrupt = guest.memory.peek(statusGpa));
    guest.queue.submit(descriptor.wait({ status: { gpa: statusGpa, value: 6 }, interrupt: true }));
    expect(atInterrupt).toBe(6);
  });

  it("a descriptor's type has 7 bits: 11:9 above 3:0", () => {
    for (let high = 1; high < 8; high++) {
      for (const low of [1, 2, 4, 5]) {
        const guest = new GuestDriver();
        guest.enableQueue();
        guest.queue.submit(Int32Array.of(low | (high << 9) | 0x10, 0, 0, 0));
        expect(error(guest), `type ${high * 16 + low}`).toBe(3);
      }
    }
  });

  it("PASID descriptors are invalid in a narrow queue, and in legacy mode in a wide one too", () => {
    for (const wide of [false, true]) {
      for (const words of [descriptor.pasidAll(5, 0), descriptor.pasidEntries()]) {
        const guest = new GuestDriver({ scalableMode: true });
        guest.enableQueue({ wide });
        guest.queue.submit(words);
        expect(error(guest)).toBe(3);
      }
    }
  });

  it("the upper half of a wide descriptor must be 0, whatever its type", () => {
    for (const words of [
      descriptor.all(),
      descriptor.contexts(),
      descriptor.interrupts(),
      descriptor.pasidEntries(),
      descriptor.wait({ fence: true }),
    ]) {
      for (const word of [4, 7]) {
        const guest = new GuestDriver({ scalableMode: true });
        guest.setRoot("scalable");
        guest.enableQueue({ wide: true });
        const spoiled = new Int32Array(8);
        spoiled.set(words);
        spoiled[word] = 1;
        guest.queue.submit(spoiled);
        expect(error(guest)).toBe(4);
      }
    }
  });

  it("a wide queue counts its head in 32 bytes, and refuses a tail in the middle of a descriptor", () => {
    const guest = new GuestDriver({ scalableMode: true });
    guest.enableQueue({ wide: true });
    guest.queue.submit(descriptor.all(), descriptor.all());
    expect(guest.unit.mmio.read32(0x80)).toBe(64);
    guest.unit.mmio.write32(0x88, 64 + 16);
    expect(error(guest)).toBe(6);
  });

  it("a queue whose tail was written first is carried out when it is turned on", () => {
    const guest = new GuestDriver();
    guest.queue.setUp();
    guest.queue.write(guest.queue.waitFor(1));
    guest.queue.kick();
    guest.command(Command.QIE);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(1);
  });

  it("a function mask names the functions it leaves out of the comparison, and no other device", () => {
    const reached = (functionMask: number): string[] => {
      const guest = new GuestDriver({ iotlbEntries: 0 });
      const devices = ["00:03.0", "00:03.1", "00:03.2", "00:03.3", "00:03.4", "00:03.7", "00:04.0", "01:03.0"];
      guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
      guest.map(6, { iovaPfn: 1, gpaPfn: 0x200 });
      for (const device of devices) guest.context(device, { did: 5 });
      guest.start();
      for (const device of devices) expect(ask(guest.device(device), 1)).toBe(0x100);
      for (const device of devices) guest.context(device, { did: 6 });
      guest.invalidate.context("00:03.0", 5, functionMask);
      return devices.filter((device) => ask(guest.device(device), 1) === 0x200);
    };
    expect(reached(0)).toEqual(["00:03.0"]);
    expect(reached(1)).toEqual(["00:03.0", "00:03.4"]);
    expect(reached(2)).toEqual(["00:03.0", "00:03.2", "00:03.4"]);
    expect(reached(3)).toEqual(["00:03.0", "00:03.1", "00:03.2", "00:03.3", "00:03.4", "00:03.7"]);
  });
});

describe("interrupts", () => {
  it("interrupt remapping that the unit lacks cannot be turned on", () => {
    const guest = new GuestDriver({ interruptRemapping: false });
    guest.command(Command.SIRTP);
    guest.command(Command.IRE);
    expect(guest.status).toBe(0);
    expect(guest.unit.interrupt(0x18, remappableMessage(1))).toBe(true);
  });

  it("interrupt remapping is off after a reset", () => {
    const guest = new GuestDriver();
    guest.enableInterruptRemapping();
    expect(guest.unit.interrupt(0x18, remappableMessage(1))).toBe(false);
    void guest.unit.reset();
    expect(guest.unit.interrupt(0x18, remappableMessage(1))).toBe(true);
    expect(guest.status).toBe(0);
  });

  it("interrupt remapping works on a unit that has no table widths, and so no DMA translation", () => {
    const guest = new GuestDriver({ addressWidths: [] });
    expect((guest.unit.mmio.read64(0x08) >> 8n) & 31n).toBe(0n);
    guest.enableInterruptRemapping();
    guest.interrupts.remapped(1, { V: 0x31, DST: 0x100 });
    expect(guest.unit.interrupt(0x18, remappableMessage(1))).toBe(true);
    expect(guest.messages).toEqual([{ address: 0xfee0_1000, addressHigh: 0, data: 0x4031 }]);
  });

  it("a refused interrupt is recorded; a host that only asks records nothing", () => {
    const guest = new GuestDriver();
    guest.enableInterruptRemapping();
    expect(guest.unit.translateInterrupt(0x18, remappableMessage(9))).toEqual({ reason: 0x22, message: undefined });
    expect(guest.faults()).toEqual([]);
    guest.unit.interrupt(0x18, remappableMessage(9));
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x22, sourceId: 0x18, page: 9 * 2 ** 36 }]);
  });

  it("an interrupt index behind the table is refused without a read", () => {
    const guest = new GuestDriver();
    guest.enableInterruptRemapping({ sizeOrder: 0 });
    guest.interrupts.remapped(2, { V: 0x31 });
    guest.memory.resetCounters();
    expect(guest.unit.interrupt(0x18, remappableMessage(2))).toBe(false);
    expect(guest.memory.counters.fetches).toBe(0);
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x21 }]);
  });

  it("structures are little-endian bytes in memory: an interrupt entry, a page entry, a descriptor, a status", () => {
    const guest = new GuestDriver();
    guest.enableInterruptRemapping();
    const bytes = (gpa: number, ...values: number[]): boolean => guest.memory.write(gpa, Uint8Array.from(values));
    bytes(guest.interrupts.entryGpa(1), 0x01, 0x00, 0x5a, 0x00, 0x00, 0x07, 0x00, 0x00, 0x18, 0x00, 0x04, 0x00);
    expect(guest.unit.interrupt(0x18, remappableMessage(1))).toBe(true);
    expect(guest.messages).toEqual([{ address: 0xfee0_7000, addressHigh: 0, data: 0x405a }]);
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 1, gpaPfn: 0 });
    bytes(guest.tables(5).entryGpa(1, 1), 0x03, 0x60, 0x34, 0x12, 0x00, 0x00, 0x00, 0x00);
    guest.start();
    expect(ask(guest.device(NIC), 1)).toBe(0x12346);
    const gpa = guest.queue.statusGpa;
    const at = guest.queue.basePfn * 4096;
    bytes(
      at,
      0x25,
      0,
      0,
      0,
      0x78,
      0x56,
      0x34,
      0x12,
      gpa & 255,
      (gpa >> 8) & 255,
      (gpa >> 16) & 255,
      gpa >>> 24,
      0,
      0,
      0,
      0,
    );
    guest.unit.mmio.write32(0x88, 16);
    const status = new Uint8Array(4);
    guest.memory.read(gpa, status);
    expect([...status]).toEqual([0x78, 0x56, 0x34, 0x12]);
  });
});

describe("state", () => {
  it("a restored unit has its descriptor width, table mode and views from what the registers say", () => {
    const options = { cachingMode: true, scalableMode: true, firstStage: "4-level" } as const;
    const guest = new GuestDriver(options);
    const tables = guest.newFirstStageTables();
    tables.map(0x10, 1, 0x800);
    guest.scalableContext(NIC);
    guest.pasid(NIC, 0, { did: 5, type: "first-stage", firstRootPfn: tables.rootPfn });
    guest.start("scalable");
    guest.queue.submit(descriptor.all());
    const copy = new VtdIommu({ ...options, memory: guest.memory, scheduler: guest.scheduler, msi: () => undefined });
    const notifier = new RecordingNotifier();
    copy.addressSpace(parseSourceId(NIC)).attach(notifier);
    void restore(copy, JSON.parse(JSON.stringify(save(guest.unit))));
    expect(notifier.held()).toEqual([{ iovaPfn: 0x10, pageCount: 1, gpaPfn: 0x800, access: 3 }]);
    notifier.check();
    expect(copy.mmio.read32(0x80)).toBe(32);
    guest.queue.write(descriptor.pasidEntries(), guest.queue.waitFor(12));
    copy.mmio.write32(0x88, guest.queue.tailBytes);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(12);
  });

  it("a reset drops every cache: contexts, PASID entries, translations", () => {
    const guest = new GuestDriver({ scalableMode: true, firstStage: "4-level" });
    const tables = guest.newFirstStageTables();
    tables.map(0x10, 1, 0x800);
    guest.scalableContext(NIC);
    guest.pasid(NIC, 0, { did: 5, type: "first-stage", firstRootPfn: tables.rootPfn });
    guest.start("scalable");
    expect(ask(guest.device(NIC), 0x10)).toBe(0x800);
    void guest.unit.reset();
    expect(ask(guest.device(NIC), 0x10)).toBe(0x10);
    guest.contexts.clearPasid(NIC, 0);
    guest.start("scalable");
    expect(ask(guest.device(NIC), 0x10)).toBe("fault 59");
  });
});

/**
 * Fault recording from the driver's view: records, overflow, status and the fault event (§7.2, §7.3).
 */

import { parseSourceId } from "@iommu-kit/iommu-core";
import { RecordingFlushNotifier } from "@iommu-kit/iommu-core/testing";
import { FaultReason, faultName } from "@iommu-kit/iommu-vtd";
import { GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask } from "./support/watched-guest.js";

const NIC = "00:03.0";
const DEVICES = ["00:01.0", "00:02.0", "00:03.0", "00:04.0", "00:05.0"] as const;
const FSTS = 0x34;
const FECTL = 0x38;
const FRCD = 0x220;
const PFO = 1;
const PPF = 2;
const IM = 0x8000_0000;
const IP = 0x4000_0000;

function started(options: GuestOptions = {}): GuestDriver {
  const guest = new GuestDriver(options);
  guest.context(NIC, { did: 5 });
  guest.start();
  return guest;
}

/** A request of a device that is refused: there is no context. */
function fault(guest: GuestDriver, device: string): void {
  ask(guest.device(device), 0x123);
}

describe("a record", () => {
  it("names requester, page, reason and kind of request", () => {
    const guest = started();
    guest.map(5, { iovaPfn: 7, gpaPfn: 0x100, access: 1 });
    guest.device(NIC).dma.write(7 * 4096 + 0x678, Uint8Array.of(1));
    expect(guest.takeFaults()).toEqual([
      {
        reason: 0x05,
        sourceId: parseSourceId(NIC),
        page: 7,
        type: 0,
        pasid: undefined,
        privileged: false,
        execute: false,
      },
    ]);
    guest.device(NIC).dma.read(8 * 4096, new Uint8Array(1));
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x06, page: 8, type: 2 }]);
    guest.device(NIC).dma.compareExchange(7 * 4096, 0, 1);
    expect(guest.takeFaults()).toMatchObject([{ reason: 0x05, page: 7, type: 3 }]);
  });

  it("says nothing of the one that was there before", () => {
    const guest = new GuestDriver({ scalableMode: true, pasidWidth: 20, supervisorRequests: true });
    guest.start("scalable");
    ask(guest.device("ff:1f.7", { pasid: 0xf_ffff, privileged: true, execute: true }), 2 ** 36 - 1, 2);
    expect(guest.takeFaults()).toMatchObject([{ pasid: 0xf_ffff, privileged: true, execute: true }]);
    ask(guest.device("00:00.0"), 0, 1);
    expect(guest.takeFaults()).toMatchObject([{ page: 0, pasid: undefined, privileged: false, execute: false }]);
    const words = [0, 4, 8, 12].map((at) => guest.unit.mmio.read32(guest.unit.config.faultRecordOffset + at));
    // Reason 0x39 of a read, without PASID, cleared.
    expect(words.slice(0, 3)).toEqual([0, 0, 0]);
    expect(((words[3] ?? 0) & 0xff).toString(16)).toBe("39");
  });

  it("is read and cleared in halves of 32 bits, as Linux does", () => {
    const guest = started();
    fault(guest, "00:04.0");
    const { mmio } = guest.unit;
    const high = mmio.read32(FRCD + 12);
    expect(high >>> 31).toBe(1);
    expect(high & 0xff).toBe(0x02);
    expect(mmio.read32(FRCD + 8) & 0xffff).toBe(parseSourceId("00:04.0"));
    expect(mmio.read64(FRCD)).toBe(0x12_3000n);
    mmio.write32(FRCD + 12, 0x7fff_ffff);
    expect(guest.faultStatus & PPF).toBe(PPF);
    mmio.write32(FRCD + 12, 0x8000_0000);
    expect(mmio.read32(FRCD + 12) >>> 31).toBe(0);
    expect(guest.faultStatus & PPF).toBe(0);
  });

  it("is cleared by an 8-byte write as well, and by nothing else", () => {
    const guest = started();
    fault(guest, "00:04.0");
    const { mmio } = guest.unit;
    mmio.write64(FRCD, 2n ** 64n - 1n);
    mmio.write32(FRCD + 8, 0xffff_ffff);
    expect(guest.faults()).toHaveLength(1);
    mmio.write64(FRCD + 8, 2n ** 63n);
    expect(guest.faults()).toHaveLength(0);
    expect(mmio.read64(FRCD)).toBe(0x12_3000n);
  });
});

describe("the name of a reason", () => {
  it("is the specification's, or its code where it has none", () => {
    const guest = started();
    const { dma } = guest.device("00:01.0");
    expect(dma.read(0x1000, new Uint8Array(1))).toBe(false);
    const causes: string[] = [];
    guest.device("00:01.0").events.on("fault", ({ cause }) => causes.push(cause));
    dma.read(0x1000, new Uint8Array(1));
    expect(causes).toEqual(["LCT.2"]);
    expect([faultName(FaultReason.SSS_2), faultName(0x99)]).toEqual(["SSS.2", "0x99"]);
  });
});

describe("several records", () => {
  it("are filled in order, wrap, and FRI names the first of a series", () => {
    const guest = started({ faultRecords: 3 });
    fault(guest, DEVICES[0]);
    fault(guest, DEVICES[1]);
    expect((guest.faultStatus >> 8) & 0xff).toBe(0);
    expect(guest.takeFaults().map((record) => record.sourceId)).toEqual([8, 16]);
    fault(guest, DEVICES[2]);
    fault(guest, DEVICES[3]);
    expect((guest.faultStatus >> 8) & 0xff).toBe(2);
    expect(guest.takeFaults().map((record) => record.sourceId)).toEqual([24, 32]);
  });

  it("may be cleared in any order; PPF stays until the last", () => {
    const guest = started({ faultRecords: 3 });
    for (const device of DEVICES.slice(0, 3)) fault(guest, device);
    for (const n of [1, 2, 0]) {
      expect(guest.faultStatus & PPF).toBe(PPF);
      guest.unit.mmio.write32(FRCD + n * 16 + 12, 0x8000_0000);
    }
    expect(guest.faultStatus & PPF).toBe(0);
  });

  it("overflow when the next one is in use: PFO, the fault is lost, and so are all until PFO is cleared", () => {
    const guest = started({ faultRecords: 2 });
    for (const device of DEVICES.slice(0, 3)) fault(guest, device);
    expect(guest.faultStatus & 3).toBe(PFO | PPF);
    for (const n of [0, 1]) guest.unit.mmio.write32(FRCD + n * 16 + 12, 0x8000_0000);
    expect(guest.faultStatus & 3).toBe(PFO);
    fault(guest, DEVICES[3]);
    expect(guest.faults()).toEqual([]);
    guest.unit.mmio.write32(FSTS, PFO);
    fault(guest, DEVICES[4]);
    expect(guest.faults().map((record) => record.sourceId)).toEqual([40]);
  });

  it("compress: a requester with a pending record gets no second one, and causes no overflow", () => {
    const guest = started({ faultRecords: 2 });
    for (let i = 0; i < 5; i++) fault(guest, NIC);
    fault(guest, DEVICES[0]);
    fault(guest, NIC);
    expect(guest.faults().map((record) => record.sourceId)).toEqual([24, 8]);
    expect(guest.faultStatus & PFO).toBe(0);
  });

  it("lie where CAP says, as many as CAP says", () => {
    const guest = started({ faultRecords: 256, faultRecordOffset: 0x2000 });
    const cap = guest.unit.mmio.read64(8);
    expect((cap >> 24n) & 0x3ffn).toBe(0x200n);
    expect((cap >> 40n) & 0xffn).toBe(255n);
    for (let device = 0; device < 32; device++) fault(guest, `0a:${device.toString(16)}.0`);
    expect(guest.takeFaults()).toHaveLength(32);
  });

  it("start at record 0 again when translation and interrupt remapping are both off, not before", () => {
    const guest = started({ faultRecords: 4 });
    guest.enableInterruptRemapping();
    fault(guest, DEVICES[0]);
    guest.takeFaults();
    guest.disable();
    guest.enable();
    fault(guest, DEVICES[1]);
    expect((guest.faultStatus >> 8) & 0xff).toBe(1);
    guest.takeFaults();
    guest.command(0x0200_0000, false);
    guest.disable();
    guest.enable();
    fault(guest, DEVICES[2]);
    expect((guest.faultStatus >> 8) & 0xff).toBe(0);
  });
});

describe("FPD of a context entry", () => {
  it("keeps qualified faults out of the records; the request is refused all the same", () => {
    const guest = started();
    guest.context(NIC, { did: 5, faultsDisabled: true });
    guest.invalidate.contexts();
    expect(ask(guest.device(NIC), 0x999)).toBe("fault 6");
    expect(guest.faults()).toEqual([]);
  });

  it("counts in an entry that is not present", () => {
    const guest = started();
    guest.context(NIC, { did: 5, faultsDisabled: true, present: false });
    guest.invalidate.contexts();
    expect(ask(guest.device(NIC), 1)).toBe("fault 2");
    expect(guest.faults()).toEqual([]);
  });
});

describe("the fault event", () => {
  function eventful(options: GuestOptions = {}): GuestDriver {
    const guest = started({ interruptRemapping: false, ...options });
    guest.unit.mmio.write32(0x3c, 0x4031);
    guest.unit.mmio.write32(0x40, 0xfee0_1000);
    guest.unit.mmio.write32(0x44, 0x0000_0100);
    guest.unit.mmio.write32(FECTL, 0);
    return guest;
  }
  const MESSAGE = { address: 0xfee0_1000, addressHigh: 0x100, data: 0x4031 };

  it("is sent once for a series of faults, with all three address and data registers", () => {
    const guest = eventful({ faultRecords: 4 });
    for (const device of DEVICES) fault(guest, device);
    expect(guest.messages).toEqual([MESSAGE]);
    guest.takeFaults();
    fault(guest, NIC);
    expect(guest.messages).toEqual([MESSAGE, MESSAGE]);
  });

  it("waits while it is masked, and is sent when it is unmasked", () => {
    const guest = eventful();
    guest.unit.mmio.write32(FECTL, IM);
    fault(guest, NIC);
    expect(guest.messages).toEqual([]);
    expect(guest.unit.mmio.read32(FECTL)).toBe((IM | IP) >>> 0);
    guest.unit.mmio.write32(FECTL, 0);
    expect(guest.messages).toEqual([MESSAGE]);
    expect(guest.unit.mmio.read32(FECTL)).toBe(0);
  });

  it("is dropped when everything has been cleared before it was unmasked", () => {
    const guest = eventful();
    guest.unit.mmio.write32(FECTL, IM);
    fault(guest, NIC);
    guest.takeFaults();
    expect(guest.unit.mmio.read32(FECTL)).toBe(IM);
    guest.unit.mmio.write32(FECTL, 0);
    expect(guest.messages).toEqual([]);
  });

  it("stays pending while one of several conditions is left", () => {
    const guest = eventful();
    guest.unit.mmio.write32(FECTL, IM);
    fault(guest, NIC);
    fault(guest, DEVICES[0]);
    expect(guest.faultStatus & 3).toBe(PFO | PPF);
    guest.unit.mmio.write32(FRCD + 12, 0x8000_0000);
    expect(guest.unit.mmio.read32(FECTL)).toBe((IM | IP) >>> 0);
    guest.unit.mmio.write32(FSTS, PFO);
    expect(guest.unit.mmio.read32(FECTL)).toBe(IM);
  });

  it("is not sent for a fault that overflows, or that comes while a queue error stands", () => {
    const guest = eventful();
    guest.queue.submit(new Int32Array(4).fill(-1));
    expect(guest.messages).toEqual([MESSAGE]);
    fault(guest, NIC);
    fault(guest, DEVICES[0]);
    expect(guest.messages).toEqual([MESSAGE]);
  });

  it("is not sent again for a queue error that comes while a fault stands", () => {
    const guest = eventful();
    fault(guest, NIC);
    guest.queue.submit(new Int32Array(4).fill(-1));
    expect(guest.faultStatus & 0x12).toBe(0x12);
    expect(guest.messages).toEqual([MESSAGE]);
  });

  it("is masked at power-on", () => {
    expect(new GuestDriver().unit.mmio.read32(FECTL)).toBe(IM);
  });

  it("of a fault while interrupt remapping is on leaves the unit untouched", () => {
    const guest = eventful({ interruptRemapping: true });
    guest.enableInterruptRemapping();
    fault(guest, NIC);
    expect(guest.messages).toEqual([MESSAGE]);
  });
});

describe("a warm reset", () => {
  it("leaves fault records and status to be read; a cold one does not", () => {
    const guest = started();
    fault(guest, NIC);
    void guest.unit.reset({ warm: true });
    expect(guest.faults()).toHaveLength(1);
    void guest.unit.reset();
    expect(guest.faults()).toEqual([]);
    expect(guest.faultStatus).toBe(0);
  });
});

describe("the records of a block", () => {
  it("end in front of what follows them: the IVT of a command that waits for a notifier is no fault", async () => {
    const guest = new GuestDriver({ faultRecordOffset: FRCD, iotlbRegisterOffset: FRCD + 16 });
    guest.context(NIC, { did: 5 });
    guest.setRoot();
    guest.enable();
    const notifier = new RecordingFlushNotifier({ answers: "manual" });
    guest.device(NIC).attach(notifier);
    notifier.answers.settle();
    await guest.scheduler.idle();
    expect(guest.registers.all()).toBe("pending");
    guest.unit.mmio.write32(FSTS, PFO);
    expect(guest.faultStatus).toBe(0);
    fault(guest, "00:00.0");
    expect(guest.takeFaults()).toMatchObject([{ sourceId: 0 }]);
  });
});

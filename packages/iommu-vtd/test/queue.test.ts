/**
 * The invalidation queue from the driver's view: order, wrap, errors and how they end, completions (§6.5.2).
 */

import { RecordingFlushNotifier } from "@iommu-kit/iommu-core/testing";
import { descriptor, GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask } from "./support/watched-guest.js";

const NIC = "00:03.0";
const QIE = 0x0400_0000;
const FSTS = 0x34;
const IQH = 0x80;
const IQT = 0x88;
const IQA = 0x90;
const ICS = 0x9c;
const IECTL = 0xa0;
const IQERCD = 0xb0;
const IQE = 0x10;

function started(options: GuestOptions = {}): GuestDriver {
  const guest = new GuestDriver(options);
  guest.context(NIC, { did: 5 });
  guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
  guest.start();
  return guest;
}

const head = (guest: GuestDriver): number => guest.unit.mmio.read32(IQH);
const error = (guest: GuestDriver): number => guest.unit.mmio.read32(IQERCD) & 0xf;
const type = (value: number): Int32Array => Int32Array.of((value & 0xf) | ((value >> 4) << 9), 0, 0, 0);

describe("the queue", () => {
  it("carries out descriptors in order and moves its head behind them", () => {
    const guest = started();
    expect(ask(guest.device(NIC), 1)).toBe(0x100);
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x101 });
    guest.queue.write(descriptor.contexts(), descriptor.domain(5), guest.queue.waitFor(77));
    expect(ask(guest.device(NIC), 1)).toBe(0x100);
    guest.queue.kick();
    expect(head(guest)).toBe(48);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(77);
    expect(ask(guest.device(NIC), 1)).toBe(0x101);
  });

  for (const [name, wide, sizeOrder, slots] of [
    ["256 narrow descriptors", false, 0, 256],
    ["128 wide descriptors", true, 0, 128],
    ["512 narrow descriptors", false, 1, 512],
    ["256 wide descriptors", true, 1, 256],
  ] as const) {
    it(`wraps at ${name}`, () => {
      const guest = new GuestDriver({ scalableMode: true });
      guest.enableQueue({ wide, sizeOrder });
      for (let i = 0; i < slots - 1; i++) expect(guest.invalidate.all() || i % 2 === 0).toBe(true);
      for (let i = 0; i < 20; i++) expect(guest.invalidate.all()).toBe(true);
      expect(head(guest)).toBe(guest.queue.tailBytes);
      expect(guest.faultStatus).toBe(0);
    });
  }

  it("wraps in one submission that crosses the end", () => {
    const guest = started();
    for (let i = 0; i < 127; i++) guest.invalidate.all();
    expect(head(guest)).toBe(254 * 16);
    guest.queue.submit(descriptor.all(), descriptor.all(), descriptor.all(), guest.queue.waitFor(99));
    expect(head(guest)).toBe(32);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(99);
  });

  it("carries out at once what the tail names when it is turned on: Windows writes IQT first", () => {
    const guest = new GuestDriver();
    guest.queue.setUp();
    guest.queue.write(descriptor.all(), guest.queue.waitFor(5));
    guest.queue.kick();
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(0);
    guest.command(QIE);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(5);
  });

  it("returns its head to 0 when it is turned off, and starts there again: an old tail is carried out again", () => {
    const guest = started();
    guest.queue.submit(descriptor.all(), guest.queue.waitFor(5));
    guest.command(QIE, false);
    expect(head(guest)).toBe(0);
    expect(guest.unit.mmio.read32(IQT)).toBe(32);
    guest.memory.poke(guest.queue.statusGpa, 0);
    guest.command(QIE);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(5);
    expect(head(guest)).toBe(32);
  });

  it("does nothing while it is off", () => {
    const guest = started();
    guest.command(QIE, false);
    guest.unit.mmio.write64(IQT, 0n);
    guest.queue.tailBytes = 0;
    expect(guest.queue.run(descriptor.all())).toBe(false);
    expect(head(guest)).toBe(0);
  });

  it("lies where IQA says; address bits above the host address width are ignored", () => {
    const guest = new GuestDriver({ hostAddressWidth: 40 });
    guest.queue.setUp();
    guest.unit.mmio.write64(IQA, BigInt(guest.queue.basePfn) * 4096n + 2n ** 41n);
    guest.command(QIE);
    expect(guest.queue.run(descriptor.all())).toBe(true);
  });

  it("may lie anywhere in RAM; without memory behind it, it reports that it cannot fetch", () => {
    const guest = new GuestDriver();
    guest.unit.mmio.write64(IQA, 0x7000_0000n);
    guest.command(QIE);
    guest.unit.mmio.write32(IQT, 16);
    expect(guest.faultStatus & IQE).toBe(IQE);
    expect(error(guest)).toBe(2);
  });
});

describe("a queue error", () => {
  const errors: readonly (readonly [string, number, Int32Array, GuestOptions?])[] = [
    ["type 0", 3, type(0)],
    ["a type that no specification knows", 3, type(0x1b)],
    ["a type whose low bits are a wait and whose high bits are not", 3, type(0x15)],
    ["a PASID-based IOTLB invalidation in a narrow queue", 3, descriptor.pasidAll(5, 0), { scalableMode: true }],
    ["a PASID-cache invalidation in a narrow queue", 3, descriptor.pasidEntries(), { scalableMode: true }],
    ["a device-TLB invalidation without device TLBs", 3, type(3)],
    ["a context invalidation of granularity 0", 3, Int32Array.of(1, 0, 0, 0)],
    ["an IOTLB invalidation of granularity 0", 3, Int32Array.of(2, 0, 0, 0)],
    ["a page-selective invalidation without PSI", 3, descriptor.page(5, 1), { pageSelective: false }],
    ["reserved bits of a context invalidation", 4, Int32Array.of(0x11, 0, 1, 0)],
    ["reserved bits of an IOTLB invalidation", 4, Int32Array.of(0x12, 1, 0, 0)],
    ["reserved bits of an interrupt-entry invalidation", 4, Int32Array.of(0x4, 0, 0, 1)],
    ["a wait for nothing: no status, no event, no fence", 4, descriptor.wait({})],
    ["reserved bits of a wait", 4, Int32Array.of(0x35, 0, 1, 0)],
    ["a wait that drains page requests without PDS", 4, Int32Array.of(0xa5, 0, 0, 0)],
  ];
  for (const [name, code, words, options] of errors) {
    it(`${code} is ${name}; the head stays on it, what was before it has been done`, () => {
      const guest = started(options);
      guest.queue.submit(guest.queue.waitFor(1), words, guest.queue.waitFor(2));
      expect(guest.faultStatus & IQE).toBe(IQE);
      expect(error(guest)).toBe(code);
      expect(head(guest)).toBe(16);
      expect(guest.memory.peek(guest.queue.statusGpa)).toBe(1);
      // It rests there: nothing is fetched again and again until the guest clears the error.
      expect(guest.scheduler.deferredCount).toBe(0);
    });
  }

  it("1 is a tail beyond the queue; nothing is carried out", () => {
    const guest = started();
    guest.queue.write(descriptor.all());
    guest.unit.mmio.write32(IQT, 4096);
    expect(error(guest)).toBe(1);
    expect(head(guest)).toBe(0);
    expect(guest.unit.mmio.read32(IQT)).toBe(4096);
  });

  it("5 is a narrow queue in scalable mode", () => {
    const guest = new GuestDriver({ scalableMode: true });
    guest.setRoot("scalable");
    guest.enableQueue({ wide: false });
    guest.invalidate.all();
    expect(error(guest)).toBe(5);
  });

  it("5 never comes of a wide queue on a unit without scalable mode: the width cannot be written", () => {
    const guest = new GuestDriver();
    guest.setRoot();
    guest.queue.setUp({ wide: true });
    guest.command(QIE);
    expect((guest.unit.mmio.read64(IQA) >> 11n) & 1n).toBe(0n);
    // The upper half of a wide descriptor is the next descriptor of a narrow queue.
    guest.queue.submit(descriptor.all());
    expect([head(guest), error(guest)]).toEqual([16, 3]);
  });

  it("6 is a tail in the middle of a wide descriptor, or a head there", () => {
    const guest = new GuestDriver({ scalableMode: true });
    guest.enableQueue({ wide: true });
    guest.unit.mmio.write32(IQT, 48);
    expect(error(guest)).toBe(6);
    const other = new GuestDriver({ scalableMode: true });
    other.enableQueue();
    other.queue.submit(descriptor.all());
    expect(head(other)).toBe(16);
    // Every slot from here on is a good wide descriptor: the head would run past the tail for ever.
    for (let at = 16; at < 4096 + 16; at += 16)
      other.memory.poke(other.queue.basePfn * 4096 + (at % 4096), at % 32 === 16 ? 0x12 : 0);
    other.unit.mmio.write64(IQA, (BigInt(other.queue.basePfn) << 12n) | 0x800n);
    other.unit.mmio.write32(IQT, 64);
    for (let turn = 0; turn < 10; turn++) other.scheduler.turn();
    expect(error(other)).toBe(6);
    expect(other.scheduler.deferredCount).toBe(0);
  });

  it("7 is a reserved table mode in RTADDR", () => {
    const guest = new GuestDriver({ scalableMode: true });
    guest.setRoot("reserved");
    guest.enableQueue({ wide: true });
    guest.invalidate.all();
    expect(error(guest)).toBe(7);
  });

  it("stops the queue until software clears IQE; then it goes on by itself, without a tail write", () => {
    const guest = started();
    guest.queue.submit(type(0x1f), guest.queue.waitFor(2));
    guest.queue.submit(guest.queue.waitFor(3));
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(0);
    // As Linux does: overwrite the bad slot, then clear the error.
    guest.memory.poke(guest.queue.basePfn * 4096, 0x12);
    guest.unit.mmio.write32(FSTS, IQE);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(3);
    expect(head(guest)).toBe(48);
    expect(guest.faultStatus & IQE).toBe(0);
  });

  it("stands until it is cleared, even if the bad descriptor has been mended and the tail is written again", () => {
    const guest = started();
    guest.queue.submit(type(0x1f), guest.queue.waitFor(2));
    guest.memory.poke(guest.queue.basePfn * 4096, 0x12);
    guest.queue.kick();
    guest.scheduler.turn();
    expect([head(guest), guest.memory.peek(guest.queue.statusGpa)]).toEqual([0, 0]);
  });

  it("comes again when the bad descriptor is still there", () => {
    const guest = started();
    guest.queue.submit(type(0x1f));
    guest.unit.mmio.write32(FSTS, IQE);
    expect(guest.faultStatus & IQE).toBe(IQE);
    expect(head(guest)).toBe(0);
  });

  it("raises the fault event once", () => {
    const guest = started();
    guest.unit.mmio.write32(0x3c, 0x31);
    guest.unit.mmio.write32(0x40, 0xfee0_0000);
    guest.unit.mmio.write32(0x38, 0);
    guest.queue.submit(type(0x1f));
    guest.queue.kick();
    expect(guest.messages).toEqual([{ address: 0xfee0_0000, addressHigh: 0, data: 0x31 }]);
  });

  it("does not stop translation, faults or interrupts", () => {
    const guest = started();
    guest.queue.submit(type(0x1f));
    expect(ask(guest.device(NIC), 1)).toBe(0x100);
    expect(ask(guest.device(NIC), 2)).toBe("fault 6");
    expect(guest.faults()).toHaveLength(1);
  });
});

describe("a wait", () => {
  it("may write a status and raise the event: the status first", () => {
    const guest = started();
    const { mmio } = guest.unit;
    mmio.write32(0xa4, 0x44);
    mmio.write32(0xa8, 0xfee0_2000);
    mmio.write32(IECTL, 0);
    guest.queue.submit(descriptor.wait({ status: { gpa: guest.queue.statusGpa, value: 9 }, interrupt: true }));
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(9);
    expect(guest.messages).toEqual([{ address: 0xfee0_2000, addressHigh: 0, data: 0x44 }]);
    expect(mmio.read32(ICS)).toBe(1);
  });

  it("may be a fence and nothing else", () => {
    const guest = started();
    guest.queue.submit(descriptor.wait({ fence: true }), guest.queue.waitFor(3));
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(3);
    expect(guest.faultStatus).toBe(0);
  });

  it("does what its flags say and nothing else: a status without SW is not written, without IF there is no event", () => {
    const guest = started();
    guest.unit.mmio.write32(IECTL, 0);
    // FN alone, with a status and an address.
    guest.queue.submit(Int32Array.of(0x45, 77, guest.queue.statusGpa, 0));
    expect(head(guest)).toBe(16);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(0);
    expect(guest.queue.run(descriptor.all())).toBe(true);
    expect(guest.unit.mmio.read32(ICS)).toBe(0);
    expect(guest.messages).toEqual([]);
  });

  it("raises no second event while IWC stands; clearing IWC drops a masked one", () => {
    const guest = started();
    const { mmio } = guest.unit;
    const wait = descriptor.wait({ interrupt: true });
    guest.queue.submit(wait);
    expect(mmio.read32(IECTL)).toBe(0xc000_0000);
    mmio.write32(ICS, 1);
    expect(mmio.read32(IECTL)).toBe(0x8000_0000);
    mmio.write32(IECTL, 0);
    expect(guest.messages).toEqual([]);
    guest.queue.submit(wait, wait);
    expect(guest.messages).toHaveLength(1);
  });

  it("ignores status address bits above the host address width", () => {
    const guest = started({ hostAddressWidth: 40 });
    guest.queue.submit(descriptor.wait({ status: { gpa: guest.queue.statusGpa + 2 ** 41, value: 4 } }));
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(4);
  });

  it("whose status address has no memory is reported: the guest would wait for ever", () => {
    const guest = started();
    guest.queue.submit(descriptor.wait({ status: { gpa: 0x7000_0000, value: 4 } }));
    expect(guest.faultStatus & IQE).toBe(IQE);
    expect(head(guest)).toBe(0);
  });
});

describe("a context-cache invalidation of a device", () => {
  it("concerns the notifiers of the functions that it names, and no others", () => {
    const guest = started();
    const devices = [NIC, "00:03.1", "00:04.0"];
    const caches = devices.map((device) => {
      const cache = new RecordingFlushNotifier();
      guest.context(device, { did: 5 });
      guest.device(device).attach(cache);
      cache.take();
      return cache;
    });
    const told = (): number[] => caches.map((cache) => cache.take().length);
    expect(guest.invalidate.context(NIC)).toBe(true);
    expect(told()).toEqual([1, 0, 0]);
    // A mask of 3 leaves the function out of the comparison.
    expect(guest.invalidate.context(NIC, 5, 3)).toBe(true);
    expect(told()).toEqual([1, 1, 0]);
  });
});

describe("pages that a descriptor names", () => {
  const cached = (): GuestDriver => {
    const guest = started();
    guest.map(5, { iovaPfn: 0, pageCount: 32, gpaPfn: 0x200 });
    for (let pfn = 0; pfn < 32; pfn++) ask(guest.device(NIC), pfn);
    guest.map(5, { iovaPfn: 0, pageCount: 32, gpaPfn: 0x300 });
    return guest;
  };
  const fresh = (guest: GuestDriver): number[] =>
    Array.from({ length: 32 }, (_, pfn) => pfn).filter((pfn) => ask(guest.device(NIC), pfn) === 0x300 + pfn);

  it("are aligned to their number: the low bits of the address are ignored", () => {
    const guest = cached();
    guest.invalidate.page(5, 0x0b, 2);
    expect(fresh(guest)).toEqual([8, 9, 10, 11]);
  });

  it("count in the domain only", () => {
    const guest = cached();
    guest.invalidate.page(6, 0, 5);
    expect(fresh(guest)).toEqual([]);
  });

  it("drop a superpage that has any of them", () => {
    const guest = started();
    guest.map(5, { iovaPfn: 512, gpaPfn: 0x1000, leafPages: 512 });
    ask(guest.device(NIC), 700);
    guest.map(5, { iovaPfn: 512, gpaPfn: 0x2000, leafPages: 512 });
    guest.invalidate.page(5, 512 + 511);
    expect(ask(guest.device(NIC), 700)).toBe(0x2000 + 188);
  });

  it("may be as many as MAMV says", () => {
    const guest = started({ pageSelective: 4 });
    ask(guest.device(NIC), 1);
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x101 });
    expect(guest.invalidate.page(5, 0, 4)).toBe(true);
    expect(ask(guest.device(NIC), 1)).toBe(0x101);
  });

  it("may not be more than MAMV says: error 4, nothing is dropped", () => {
    const guest = started({ pageSelective: 4 });
    ask(guest.device(NIC), 1);
    guest.map(5, { iovaPfn: 1, gpaPfn: 0x101 });
    guest.invalidate.page(5, 0, 5);
    expect(error(guest)).toBe(4);
    expect(ask(guest.device(NIC), 1)).toBe(0x100);
  });
});

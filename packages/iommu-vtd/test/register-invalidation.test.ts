/**
 * Invalidation through CCMD, IVA and IOTLB from the driver's view (§6.5.1).
 */

import { RecordingFlushNotifier } from "@iommu-kit/iommu-core/testing";
import { GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask } from "./support/watched-guest.js";

const NIC = "00:03.0";

/** Translation on, queue off; page 1 is in the IOTLB with target 0x100, its entry says 0x101. */
function stale(options: GuestOptions = {}): GuestDriver {
  const guest = new GuestDriver(options);
  guest.context(NIC, { did: 5 });
  guest.map(5, { iovaPfn: 1, gpaPfn: 0x100 });
  guest.setRoot();
  guest.enable();
  expect(ask(guest.device(NIC), 1)).toBe(0x100);
  guest.map(5, { iovaPfn: 1, gpaPfn: 0x101 });
  expect(ask(guest.device(NIC), 1)).toBe(0x100);
  return guest;
}

/** As `stale`, without an IOTLB: only the context cache can be stale. */
function uncached(): GuestDriver {
  const guest = new GuestDriver({ iotlbEntries: 0 });
  guest.context(NIC, { did: 5 });
  guest.map(5, { iovaPfn: 1, gpaPfn: 0x101 });
  guest.setRoot();
  guest.enable();
  return guest;
}

describe("an IOTLB command", () => {
  it("does what it is asked and reports that granularity", () => {
    for (const [granularity, command] of [
      [1, (guest: GuestDriver) => guest.registers.all()],
      [2, (guest: GuestDriver) => guest.registers.domain(5)],
      [3, (guest: GuestDriver) => guest.registers.page(5, 1)],
      [3, (guest: GuestDriver) => guest.registers.page(5, 0, 18)],
    ] as const) {
      const guest = stale();
      expect(command(guest)).toBe(granularity);
      expect(ask(guest.device(NIC), 1)).toBe(0x101);
    }
  });

  it("leaves other domains and pages alone", () => {
    const guest = stale();
    guest.registers.domain(6);
    guest.registers.page(5, 2);
    guest.registers.page(6, 1);
    expect(ask(guest.device(NIC), 1)).toBe(0x100);
  });

  it("for more pages than MAMV does nothing and reports 0", () => {
    const guest = stale({ pageSelective: 9 });
    expect(guest.registers.page(5, 0, 10)).toBe(0);
    expect(ask(guest.device(NIC), 1)).toBe(0x100);
    expect(guest.registers.page(5, 0, 9)).toBe(3);
    expect(ask(guest.device(NIC), 1)).toBe(0x101);
  });

  it("for pages, on a unit without page selection, is done for the domain and says so", () => {
    const guest = stale({ pageSelective: false });
    expect(guest.registers.page(5, 0x1000)).toBe(2);
    expect(ask(guest.device(NIC), 1)).toBe(0x101);
  });

  it("works as two 32-bit writes: the upper one starts it", () => {
    const guest = stale();
    const { mmio } = guest.unit;
    mmio.write32(0xf8, 0);
    expect(ask(guest.device(NIC), 1)).toBe(0x100);
    mmio.write32(0xfc, 0x9000_0000);
    expect(ask(guest.device(NIC), 1)).toBe(0x101);
    expect(mmio.read32(0xfc) >>> 25).toBe(0x08 | 1);
  });

  it("lies where ECAP says", () => {
    const guest = stale({ iotlbRegisterOffset: 0x500 });
    expect((guest.unit.mmio.read64(0x10) >> 8n) & 0x3ffn).toBe(0x50n);
    expect(guest.registers.all()).toBe(1);
    expect(ask(guest.device(NIC), 1)).toBe(0x101);
  });

  it("ignores domain-id bits beyond the unit's width, and address bits beyond its address width", () => {
    const guest = stale({ domainIdWidth: 8 });
    expect(guest.registers.page(0x105, 2 ** 45 + 1)).toBe(3);
    expect(ask(guest.device(NIC), 1)).toBe(0x101);
  });
});

describe("a command register that is written without its start bit", () => {
  it("starts nothing and reports nothing", () => {
    const guest = stale();
    guest.unit.mmio.write64(0xf8, 1n << 60n);
    expect(guest.registers.iotlbOutcome()).toBe(0);
    expect(ask(guest.device(NIC), 1)).toBe(0x100);
    const other = uncached();
    other.map(6, { iovaPfn: 1, gpaPfn: 0x200 });
    ask(other.device(NIC), 1);
    other.context(NIC, { did: 6 });
    other.unit.mmio.write64(0x28, 1n << 61n);
    expect(other.registers.contextOutcome()).toBe(0);
    expect(ask(other.device(NIC), 1)).toBe(0x101);
  });
});

describe("a command that cannot be carried out clears its start bit and reports granularity 0", () => {
  const commands = [
    (guest: GuestDriver) => guest.registers.all(),
    (guest: GuestDriver) => guest.registers.domain(5),
    (guest: GuestDriver) => guest.registers.page(5, 1),
    (guest: GuestDriver) => guest.registers.contexts(),
    (guest: GuestDriver) => guest.registers.contextsOfDomain(5),
    (guest: GuestDriver) => guest.registers.context(NIC),
  ];

  /** What the commands report, what a cache hears of them, and where the stale page goes afterwards. */
  function outcome(guest: GuestDriver): unknown[] {
    const flushes = new RecordingFlushNotifier();
    guest.device(NIC).attach(flushes);
    flushes.take();
    return [commands.map((command) => command(guest)), flushes.take(), ask(guest.device(NIC), 1)];
  }
  const NOTHING_DONE = [[0, 0, 0, 0, 0, 0], [], 0x100];

  it("while the queue is on", () => {
    const guest = stale();
    guest.enableQueue();
    expect(outcome(guest)).toEqual(NOTHING_DONE);
    guest.command(0x0400_0000, false);
    expect(guest.registers.all()).toBe(1);
  });

  it("on a unit of major version 6 and above", () => {
    expect(outcome(stale({ version: { major: 6, minor: 0 } }))).toEqual(NOTHING_DONE);
  });

  it("with the reserved granularity 0", () => {
    const guest = stale();
    guest.unit.mmio.write64(0xf8, 1n << 63n);
    expect(guest.registers.iotlbOutcome()).toBe(0);
    guest.unit.mmio.write64(0x28, 1n << 63n);
    expect(guest.registers.contextOutcome()).toBe(0);
    expect(ask(guest.device(NIC), 1)).toBe(0x100);
  });

  it("while the latched table mode is not legacy", () => {
    const guest = new GuestDriver({ scalableMode: true });
    guest.setRoot("scalable");
    for (const command of commands) expect(command(guest)).toBe(0);
    guest.setRoot("legacy");
    expect(guest.registers.all()).toBe(1);
  });
});

describe("a CCMD command", () => {
  it("makes a changed context entry count, for the devices under its function mask", () => {
    for (const [granularity, command] of [
      [1, (guest: GuestDriver) => guest.registers.contexts()],
      [1, (guest: GuestDriver) => guest.registers.contextsOfDomain(5)],
      [3, (guest: GuestDriver) => guest.registers.context(NIC, 5)],
      [3, (guest: GuestDriver) => guest.registers.context("00:03.7", 5, 3)],
    ] as const) {
      const guest = uncached();
      guest.map(6, { iovaPfn: 1, gpaPfn: 0x200 });
      ask(guest.device(NIC), 1);
      guest.context(NIC, { did: 6 });
      expect(ask(guest.device(NIC), 1)).toBe(0x101);
      guest.registers.context("00:03.1", 5, 0);
      expect(ask(guest.device(NIC), 1)).toBe(0x101);
      expect(command(guest)).toBe(granularity);
      expect(ask(guest.device(NIC), 1)).toBe(0x200);
    }
  });

  it("flushes the context cache only: the IOTLB needs a command of its own", () => {
    const guest = stale();
    guest.registers.contexts();
    expect(ask(guest.device(NIC), 1)).toBe(0x100);
  });

  it("takes the low half as it stands when only the high half is written", () => {
    const guest = uncached();
    const { mmio } = guest.unit;
    mmio.write32(0x28, 0x0018_0005);
    mmio.write32(0x2c, 0xe000_0000);
    expect(guest.registers.contextOutcome()).toBe(3);
    expect(mmio.read32(0x28)).toBe(5);
  });
});

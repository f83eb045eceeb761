/** Transfers to a page that a device has reached before: every command that may change where it goes is heeded by the next one. */

import { Command, GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { restore, save } from "@iommu-kit/iommu-vtd/snapshot";
import { describe, expect, it } from "vitest";

const NIC = "00:03.0";
const PFN = 0x10;
const OLD = 0x800;
const NEW = 0x900;

/** A device that has read and written its page, which the guest then maps elsewhere and has yet to invalidate. */
function movedPage(options: GuestOptions = {}): GuestDriver {
  const guest = new GuestDriver(options);
  for (const [gpaPfn, value] of [
    [PFN, 1],
    [OLD, 2],
    [NEW, 3],
  ] as const)
    guest.memory.poke(gpaPfn * 4096, value);
  guest.context(NIC, { did: 5 });
  guest.map(5, { iovaPfn: PFN, gpaPfn: OLD });
  guest.start();
  expect(guest.device(NIC).dma.write(PFN * 4096 + 8, Uint8Array.of(7))).toBe(true);
  expect(read(guest)).toBe(2);
  guest.unmap(5, PFN);
  guest.map(5, { iovaPfn: PFN, gpaPfn: NEW });
  return guest;
}

function read(guest: GuestDriver): number | undefined {
  const into = new Uint8Array(1);
  return guest.device(NIC).dma.read(PFN * 4096, into) ? into[0] : undefined;
}

/** The registers take commands while the queue is off. */
function withoutQueue(guest: GuestDriver): GuestDriver["registers"] {
  guest.command(Command.QIE, false);
  return guest.registers;
}

describe("a page that a device has reached before", () => {
  const commands: Readonly<Record<string, (guest: GuestDriver) => unknown>> = {
    "a page-selective invalidation": ({ invalidate }) => invalidate.page(5, PFN),
    "a domain-selective invalidation": ({ invalidate }) => invalidate.domain(5),
    "a global invalidation": ({ invalidate }) => invalidate.all(),
    "a page-selective invalidation through registers": (guest) => withoutQueue(guest).page(5, PFN),
    "a domain-selective invalidation through registers": (guest) => withoutQueue(guest).domain(5),
    "a global invalidation through registers": (guest) => withoutQueue(guest).all(),
    "a root pointer": (guest) => guest.setRoot(),
    "translation off and on": (guest) => {
      guest.disable();
      expect(read(guest)).toBe(1);
      guest.enable();
    },
    "a resync by the host": (guest) => guest.device(NIC).resync({ firstPfn: PFN, pageCount: 1 }),
    "a restore": (guest) => restore(guest.unit, save(guest.unit)),
  };
  for (const [name, command] of Object.entries(commands)) {
    it(`is where the tables say after ${name}`, () => {
      const guest = movedPage();
      command(guest);
      expect(read(guest)).toBe(3);
      expect(guest.device(NIC).dma.write(PFN * 4096 + 8, Uint8Array.of(9))).toBe(true);
      expect(guest.memory.peek(NEW * 4096 + 8)).toBe(9);
    });
  }

  it.each([
    ["its device has been moved to another domain", 3],
    ["its context has been cleared", undefined],
  ])("is where the tables say after a resync by the host when %s, whatever the IOTLB kept", (what, expected) => {
    const guest = movedPage();
    guest.map(6, { iovaPfn: PFN, gpaPfn: NEW });
    if (expected === undefined) guest.contexts.clear(NIC);
    else guest.context(NIC, { did: 6 });
    guest.invalidate.context(NIC);
    expect(read(guest), what).toBe(2);
    void guest.device(NIC).resync();
    expect(read(guest)).toBe(expected);
  });

  it("is memory itself after a reset", () => {
    const guest = movedPage();
    void guest.unit.reset();
    expect(read(guest)).toBe(1);
  });

  it("may be where it was until the guest invalidates, and is not where a unit keeps no translations", () => {
    expect(read(movedPage())).toBe(2);
    expect(read(movedPage({ iotlbEntries: 0 }))).toBe(3);
  });

  it("is where its new domain says once the guest has invalidated the old one, which concerns no device any more", () => {
    const guest = movedPage();
    guest.map(6, { iovaPfn: PFN, gpaPfn: NEW });
    guest.context(NIC, { did: 6 });
    guest.invalidate.context(NIC);
    // Still translated as in domain 5: its entry of the IOTLB has not been invalidated.
    expect(read(guest)).toBe(2);
    guest.invalidate.domain(5);
    expect(read(guest)).toBe(3);
  });

  it("gets its dirty flag with the first write, however often it was read before, and again once the guest has cleared and invalidated it", () => {
    const guest = new GuestDriver({ scalableMode: true, secondStageFlags: true });
    const tables = guest.tables(6);
    tables.map(PFN, 1, OLD);
    guest.scalableContext(NIC);
    guest.pasid(NIC, 0, { did: 6, type: "second-stage", fields: { PWSNP: 1, SSADE: 1 } });
    guest.start("scalable");
    const { dma } = guest.device(NIC);
    const leaf = tables.entryGpa(PFN, 1);
    const dirty = (): number => (guest.memory.peek(leaf) >> 9) & 1;
    for (let i = 0; i < 3; i++) dma.read(PFN * 4096, new Uint8Array(4));
    expect(dirty()).toBe(0);
    dma.write(PFN * 4096, Uint8Array.of(1));
    expect(dirty()).toBe(1);
    guest.memory.poke(leaf, guest.memory.peek(leaf) & ~0x200);
    guest.invalidate.page(6, PFN);
    dma.read(PFN * 4096, new Uint8Array(4));
    dma.write(PFN * 4096, Uint8Array.of(1));
    expect(dirty()).toBe(1);
  });
});

describe("a page that a device has reached before is refused from the moment on at which", () => {
  const PMEN = 0x64;
  const PLMBASE = 0x68;
  const PLMLIMIT = 0x6c;
  const EPM = 0x8000_0000;

  it("its memory becomes protected, whether it was translated or passed through, and reached again when it is not protected any more", () => {
    for (const translated of [true, false]) {
      const guest = new GuestDriver({ protectedRegions: ["low"] });
      guest.context(NIC, { did: 5, passThrough: !translated });
      const iovaPfn = translated ? PFN : OLD;
      if (translated) guest.map(5, { iovaPfn, gpaPfn: OLD });
      guest.start();
      const { mmio } = guest.unit;
      const { dma } = guest.device(NIC);
      const works = (): boolean[] => [
        dma.read(iovaPfn * 4096, new Uint8Array(4)),
        dma.write(iovaPfn * 4096, Uint8Array.of(1)),
      ];
      expect([...works(), ...works()]).toEqual([true, true, true, true]);
      mmio.write32(PLMBASE, OLD * 4096);
      mmio.write32(PLMLIMIT, OLD * 4096);
      mmio.write32(PMEN, EPM);
      expect(works()).toEqual([false, false]);
      mmio.write32(PMEN, 0);
      expect(works()).toEqual([true, true]);
    }
  });

  it.each<[string, (guest: GuestDriver) => unknown]>([
    ["its device is unplugged", (guest) => guest.device(NIC).unplug()],
    ["its unit is destroyed", (guest) => guest.unit.destroy()],
  ])("%s", (_what, act) => {
    const guest = movedPage();
    const { dma } = guest.device(NIC);
    void act(guest);
    expect(dma.read(PFN * 4096, new Uint8Array(1))).toBe(false);
    expect(dma.write(PFN * 4096 + 8, Uint8Array.of(9))).toBe(false);
    expect(guest.memory.peek(OLD * 4096 + 8)).toBe(7);
  });

  it.each<[string, (guest: GuestDriver) => unknown]>([
    ["its PASID's pages are invalidated", ({ invalidate }) => invalidate.pasidPages(7, 3, PFN)],
    ["everything of its PASID is invalidated", ({ invalidate }) => invalidate.pasidAll(7, 3)],
    [
      "the pages of its domain are invalidated, which drops all of the first stage",
      ({ invalidate }) => invalidate.page(7, 0),
    ],
  ])("%s, after the guest has unmapped it", (_what, act) => {
    const guest = new GuestDriver({ scalableMode: true, firstStage: "4-level", pasidWidth: 20 });
    const tables = guest.newFirstStageTables();
    tables.map(PFN, 1, OLD);
    guest.scalableContext(NIC, { pasids: true });
    guest.pasid(NIC, 3, { did: 7, type: "first-stage", firstRootPfn: tables.rootPfn });
    guest.start("scalable");
    const { dma } = guest.device(NIC, { pasid: 3 });
    expect(dma.read(PFN * 4096, new Uint8Array(1))).toBe(true);
    expect(dma.write(PFN * 4096, Uint8Array.of(1))).toBe(true);
    tables.unmap(PFN, 1);
    expect(dma.read(PFN * 4096, new Uint8Array(1))).toBe(true);
    act(guest);
    expect(dma.read(PFN * 4096, new Uint8Array(1))).toBe(false);
    expect(dma.write(PFN * 4096, Uint8Array.of(1))).toBe(false);
  });
});

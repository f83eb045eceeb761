import fc from "fast-check";
import { IommuError, parseSourceId, sourceId } from "@iommu-kit/iommu-core";
import { FakeMemory, ManualScheduler } from "@iommu-kit/iommu-core/testing";
import { FaultReason, VtdIommu, type VtdConfig } from "@iommu-kit/iommu-vtd";
import { GuestDriver, remappableMessage } from "@iommu-kit/iommu-vtd/testing";
import { buildDmar, decodeDmar } from "@iommu-kit/iommu-vtd/acpi";
import { type Bridge, VtdUnits } from "@iommu-kit/iommu-vtd/units";
import { describe, expect, it } from "vitest";

const GPU = 0xfed9_0000;
const REST = 0xfed9_1000;

function unit(config: VtdConfig = {}): VtdIommu {
  return new VtdIommu({ memory: new FakeMemory(), msi: () => undefined, scheduler: new ManualScheduler(), ...config });
}

const BRIDGES: readonly Bridge[] = [
  { path: "00:1c.0", kind: "pcie", secondaryBus: 1, subordinateBus: 4 },
  { path: "00:1c.0/00.0", kind: "pcie", secondaryBus: 2, subordinateBus: 3 },
  { path: "00:1e.0", kind: "pcie-to-pci", secondaryBus: 5, subordinateBus: 7 },
  { path: "00:1e.0/02.0", kind: "pci", secondaryBus: 6, subordinateBus: 6 },
  { path: "00:1f.0", kind: "pci", secondaryBus: 8, subordinateBus: 8 },
];

/** Three units: one for a device, one for a hierarchy, one for the rest. */
function machine(): {
  readonly units: VtdUnits;
  readonly graphics: VtdIommu;
  readonly ports: VtdIommu;
  readonly rest: VtdIommu;
} {
  const [graphics, ports, rest] = [unit(), unit(), unit()];
  const units = new VtdUnits({
    bridges: BRIDGES,
    units: [
      {
        unit: rest,
        registerGpa: REST,
        includeAll: true,
        scopes: [
          { type: "io-apic", ioApicId: 2, path: "f0:1f.0" },
          { type: "hpet", hpetNumber: 0, path: "00:0f.0" },
        ],
      },
      { unit: graphics, registerGpa: GPU, scopes: [{ type: "endpoint", path: "00:02.0" }] },
      {
        unit: ports,
        registerGpa: 0xfed9_2000,
        scopes: [
          { type: "bridge", path: "00:1c.0" },
          { type: "endpoint", path: "00:1c.0/00.0/01.0" },
        ],
      },
    ],
  });
  return { units, graphics, ports, rest };
}

describe("a machine with several units", () => {
  it("routes a device to the unit that names it, else to the one that names a bridge above it, else to the one for all", () => {
    const { units, graphics, ports, rest } = machine();
    expect(units.unitOf(sourceId(0, 2, 0))).toBe(graphics);
    expect(units.unitOf(sourceId(0, 2, 1))).toBe(rest);
    expect(units.unitOf(sourceId(0, 0x1c, 0))).toBe(ports);
    expect(units.unitOf(sourceId(1, 0, 0))).toBe(ports);
    expect(units.unitOf(sourceId(4, 31, 7))).toBe(ports);
    expect(units.unitOf(sourceId(5, 0, 0))).toBe(rest);
    expect(units.units.at(-1)).toBe(rest);
  });

  it("lets the nearest bridge that is named decide", () => {
    const [outer, inner] = [unit(), unit()];
    const units = new VtdUnits({
      bridges: BRIDGES,
      units: [
        { unit: outer, registerGpa: 0x1000, scopes: [{ type: "bridge", path: "00:1c.0" }] },
        { unit: inner, registerGpa: 0x2000, scopes: [{ type: "bridge", path: "00:1c.0/00.0" }] },
      ],
    });
    expect(units.unitOf(sourceId(4, 0, 0))).toBe(outer);
    expect(units.unitOf(sourceId(2, 0, 0))).toBe(inner);
    expect(units.unitOf(sourceId(3, 0, 0))).toBe(inner);
    expect(units.unitOf(sourceId(1, 0, 0))).toBe(inner);
    expect(units.unitOf(sourceId(1, 1, 0))).toBe(outer);
    expect(units.unitOf(sourceId(0, 3, 0))).toBeUndefined();
  });

  it("finds a device behind bridges by its path, whatever buses the guest gives them", () => {
    const named = unit();
    const units = new VtdUnits({
      bridges: BRIDGES,
      units: [{ unit: named, registerGpa: 0x1000, scopes: [{ type: "endpoint", path: "00:1c.0/00.0/01.0" }] }],
    });
    expect(units.unitOf(sourceId(2, 1, 0))).toBe(named);
    units.setBridges([
      { path: "00:1c.0", kind: "pcie", secondaryBus: 0x10, subordinateBus: 0x20 },
      { path: "00:1c.0/00.0", kind: "pcie", secondaryBus: 0x18, subordinateBus: 0x18 },
    ]);
    expect(units.unitOf(sourceId(2, 1, 0))).toBeUndefined();
    expect(units.unitOf(sourceId(0x18, 1, 0))).toBe(named);
    units.setBridges([]);
    expect(units.unitOf(sourceId(0x18, 1, 0))).toBeUndefined();
  });

  it("gives devices behind PCI bridges the requester-id under which their requests arrive", () => {
    const { units } = machine();
    const seen = (device: string): number => units.requesterIdOf(parseSourceId(device));
    expect(seen("02:01.0")).toBe(sourceId(2, 1, 0));
    expect(seen("05:03.1")).toBe(sourceId(5, 0, 0));
    // Behind a conventional bridge that is itself behind a PCIe-to-PCI bridge.
    expect(seen("06:04.0")).toBe(sourceId(5, 0, 0));
    expect(seen("08:07.0")).toBe(sourceId(0, 0x1f, 0));
    expect(seen("00:1e.0")).toBe(sourceId(0, 0x1e, 0));
  });

  it("gives devices with one requester-id one address space", () => {
    const { units, rest } = machine();
    const space = units.addressSpace(parseSourceId("05:03.1"));
    expect(units.addressSpace(parseSourceId("06:04.0"))).toBe(space);
    expect(space).toBe(rest.addressSpace(sourceId(5, 0, 0)));
    expect(units.addressSpace(parseSourceId("05:03.1")).dma.write(0x1000, Uint8Array.of(1))).toBe(true);
  });

  it("refuses an address space for a device that no unit serves", () => {
    const units = new VtdUnits({
      units: [{ unit: unit(), registerGpa: 0x1000, scopes: [{ type: "endpoint", path: "00:02.0" }] }],
    });
    expect(() => units.addressSpace(sourceId(0, 3, 0))).toThrow("00:03.0");
    expect(units.interrupt(sourceId(0, 3, 0), { address: 0xfee00000, addressHigh: 0, data: 1 })).toBeUndefined();
  });

  it("sends messages through the unit of the device, of the I/O APIC or of the HPET, under their source-ids", () => {
    const sent: string[] = [];
    const make = (name: string): VtdIommu =>
      new VtdIommu({ memory: new FakeMemory(), msi: ({ data }) => sent.push(`${name} ${data}`) });
    const [one, rest] = [make("one"), make("rest")];
    const units = new VtdUnits({
      bridges: BRIDGES,
      units: [
        { unit: one, registerGpa: 0x1000, scopes: [{ type: "bridge", path: "00:1e.0" }] },
        {
          unit: rest,
          registerGpa: 0x2000,
          includeAll: true,
          scopes: [{ type: "io-apic", ioApicId: 2, path: "f0:1f.0" }],
        },
      ],
    });
    const message = (data: number) => ({ address: 0xfee00000, addressHigh: 0, data });
    expect(units.interrupt(parseSourceId("05:03.0"), message(1))).toBe(true);
    expect(units.interrupt({ ioApicId: 2 }, message(2))).toBe(true);
    expect(units.interrupt({ ioApicId: 3 }, message(3))).toBeUndefined();
    expect(units.interrupt({ hpetNumber: 0 }, message(4))).toBeUndefined();
    expect(sent).toEqual(["one 1", "rest 2"]);
  });

  it("refuses a message that is to be validated while its I/O APIC or HPET cannot be found, and passes those that are not", () => {
    const guest = new GuestDriver();
    const scopes = [
      { type: "io-apic", ioApicId: 2, path: "00:1c.0/00.0" },
      { type: "hpet", hpetNumber: 1, path: "00:1c.0/00.1" },
    ] as const;
    const units = new VtdUnits({ units: [{ unit: guest.unit, registerGpa: 0x1000, scopes }] });
    const sources = [{ ioApicId: 2 }, { hpetNumber: 1 }] as const;
    const send = (handle: number): (boolean | undefined)[] =>
      sources.map((source) => units.interrupt(source, remappableMessage(handle)));
    expect(send(0)).toEqual([true, true]);
    guest.interrupts.remapped(4, { V: 0x40 });
    guest.interrupts.remapped(5, { V: 0x50, SVT: 1, SQ: 1, SID: 0x200 });
    guest.interrupts.remapped(6, { V: 0x60, SVT: 2, SID: 0x00ff });
    guest.interrupts.remapped(7, { V: 0x70, SVT: 1, SQ: 3, SID: 0xffff });
    guest.enableInterruptRemapping();
    guest.messages.length = 0;
    // The bridge on their way has no bus numbers yet.
    expect(send(4)).toEqual([true, true]);
    for (const handle of [5, 6, 7]) {
      expect(send(handle)).toEqual([false, false]);
      expect(guest.takeFaults()[0]).toMatchObject({ reason: FaultReason.INTERRUPT_SOURCE, sourceId: 0 });
    }
    expect(guest.messages.map(({ data }) => data & 0xff)).toEqual([0x40, 0x40]);
    units.setBridges([{ path: "00:1c.0", kind: "pcie", secondaryBus: 2, subordinateBus: 2 }]);
    expect([5, 6].map(send)).toEqual([
      [true, false],
      [true, true],
    ]);
  });

  it("says whose registers lie at an address", () => {
    const { units, graphics, rest } = machine();
    expect(units.registersAt(GPU + 0x18)).toEqual({ unit: graphics, offsetBytes: 0x18 });
    expect(units.registersAt(REST + 0xfff)?.unit).toBe(rest);
    expect(units.registersAt(GPU - 1)).toBeUndefined();
    expect(units.registersAt(0xfed9_3000)).toBeUndefined();
  });

  it("describes itself for the DMAR table, which the builder takes", () => {
    const { units } = machine();
    const bytes = buildDmar({ hostAddressWidth: 48, interruptRemapping: true, units: units.dmarUnits() });
    const { table } = decodeDmar(bytes);
    expect(table?.units).toHaveLength(3);
    expect(table?.units.at(-1)).toMatchObject({ includeAll: true, registerGpa: REST });
    expect(table?.units[0]?.scopes).toEqual([{ type: "endpoint", path: "00:02.0" }]);
  });

  it("resets, saves and restores all units, or none", () => {
    const { units, graphics, rest } = machine();
    graphics.mmio.write64(0x20, 0x5000n);
    rest.mmio.write64(0x20, 0x7000n);
    const saved = JSON.parse(JSON.stringify(units.save())) as unknown[];
    void units.reset();
    expect([graphics, rest].map((one) => one.mmio.read64(0x20))).toEqual([0n, 0n]);
    expect(() => units.restore(saved.slice(1))).toThrow(IommuError);
    expect(() => units.restore([saved[0], saved[1], {}])).toThrow(IommuError);
    expect(graphics.mmio.read64(0x20)).toBe(0n);
    void units.restore(saved);
    expect([graphics, rest].map((one) => one.mmio.read64(0x20))).toEqual([0x5000n, 0x7000n]);
  });

  it("keeps units apart: enabling one leaves the others' devices untranslated", () => {
    const { units, graphics } = machine();
    graphics.mmio.write32(0x18, 0x4000_0000);
    graphics.mmio.write32(0x18, 0x8000_0000);
    expect(units.addressSpace(sourceId(0, 2, 0)).dma.read(0x1000, new Uint8Array(1))).toBe(false);
    expect(units.addressSpace(sourceId(0, 3, 0)).dma.read(0x1000, new Uint8Array(1))).toBe(true);
  });

  it.each([
    ["two units that include all", [{ includeAll: true }, { includeAll: true }]],
    ["a PCI device named by the unit for all", [{ includeAll: true, scopes: [{ type: "endpoint", path: "00:01.0" }] }]],
    [
      "a device named twice",
      [{ scopes: [{ type: "endpoint", path: "00:01.0" }] }, { scopes: [{ type: "endpoint", path: "00:01.0" }] }],
    ],
    ["a path that is none", [{ scopes: [{ type: "endpoint", path: "00:40.9" }] }]],
    ["registers that overlap", [{ registerGpa: 0x1000 }, { registerGpa: 0x1000 }]],
    ["registers that are not aligned", [{ registerGpa: 0x1010 }]],
  ] as const)("refuses %s", (_what, given) => {
    const units = given.map((one, index) => ({ unit: unit(), registerGpa: 0x1000 * (index + 1), ...one }));
    expect(() => new VtdUnits({ units })).toThrow(IommuError);
  });

  it.each([
    ["a bridge behind an unknown one", [{ path: "00:1c.0/00.0", kind: "pcie", secondaryBus: 1, subordinateBus: 1 }]],
    ["buses the wrong way round", [{ path: "00:1c.0", kind: "pcie", secondaryBus: 3, subordinateBus: 2 }]],
    ["a bus that is none", [{ path: "00:1c.0", kind: "pcie", secondaryBus: 1, subordinateBus: 256 }]],
  ] as const)("refuses %s", (_what, bridges) => {
    expect(() => new VtdUnits({ units: [], bridges })).toThrow(IommuError);
  });

  it("answers for every source-id what a naive search over the scopes answers", () => {
    const { units, graphics, ports, rest } = machine();
    fc.assert(
      fc.property(fc.nat(0xffff), (id) => {
        const bus = id >> 8;
        const expected =
          id === sourceId(0, 2, 0) ? graphics : id === sourceId(0, 0x1c, 0) || (bus >= 1 && bus <= 4) ? ports : rest;
        expect(units.unitOf(id)).toBe(expected);
        const alias = bus >= 5 && bus <= 7 ? 0x500 : bus === 8 ? sourceId(0, 0x1f, 0) : id;
        expect(units.requesterIdOf(id)).toBe(alias);
      }),
      { numRuns: 2000 },
    );
  });
});

describe("a list of units", () => {
  it("names each unit once, and devices of each kind by what tells them apart", () => {
    const one = unit();
    const twice = [
      { unit: one, registerGpa: GPU, scopes: [{ type: "endpoint" as const, path: "00:02.0" }] },
      { unit: one, registerGpa: REST, includeAll: true },
    ];
    expect(() => new VtdUnits({ units: twice })).toThrow(/each unit once, got one twice/);
    const scopes = [
      { type: "namespace-device" as const, deviceNumber: 7, path: "00:16.0" },
      { type: "namespace-device" as const, deviceNumber: 7, path: "00:16.0" },
    ];
    expect(() => new VtdUnits({ units: [{ unit: one, registerGpa: GPU, scopes }] })).toThrow(
      /namespace device 7 at 00:16.0 named twice/,
    );
  });
});

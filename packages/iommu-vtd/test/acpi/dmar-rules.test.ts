import { describe, expect, it } from "vitest";

import { buildDmar, checkDmar } from "../../src/acpi/index.js";
import type { DeviceScope, DmarMachine, DmarTable, ReservedRegion } from "../../src/acpi/index.js";
import { fullTable } from "./full-table.js";
import { q35Table } from "./golden-q35.js";

const includeAll = { registerGpa: 0xfed90000, includeAll: true } as const;
const base: DmarTable = { hostAddressWidth: 39, units: [includeAll] };
const igd: DeviceScope = { type: "endpoint", path: "00:02.0" };
const rootPort: DeviceScope = { type: "bridge", path: "00:1c.0" };
const ioApic: DeviceScope = { type: "io-apic", ioApicId: 2, path: "f0:1f.0" };
const region: ReservedRegion = { gpa: 0x1000_0000, byteLength: 0x2000, scopes: [igd] };

/** The problems of `base` with some parts replaced, as "code where". */
function problemsOf(parts: Partial<DmarTable>, machine?: DmarMachine): string[] {
  const table = { ...base, ...parts };
  const problems = checkDmar(table, machine);
  if (problems.length > 0) expect(() => buildDmar(table, machine)).toThrow(/expected .*, got /);
  else expect(buildDmar(table, machine).length).toBeGreaterThan(48);
  return problems.map((problem) => `${problem.code} ${problem.where}`);
}

describe("a table without faults", () => {
  it.each([
    ["one include-all unit", base],
    ["the q35 machine", q35Table],
    ["all structure types", fullTable],
  ])("has no problem: %s", (_name, table) => {
    expect(checkDmar(table)).toEqual([]);
  });
});

describe("remapping units", () => {
  it("must be there", () => {
    expect(problemsOf({ units: [] })).toEqual(["no-unit units"]);
  });

  it("have the include-all unit of a segment last", () => {
    const graphics = { registerGpa: 0xfed91000, scopes: [igd] };
    expect(problemsOf({ units: [graphics, includeAll] })).toEqual([]);
    expect(problemsOf({ units: [includeAll, graphics] })).toEqual(["include-all units[1]"]);
  });

  it("may be include-all once in each segment", () => {
    const second = { ...includeAll, registerGpa: 0xfed91000 };
    expect(problemsOf({ units: [includeAll, { ...second, segment: 1 }] })).toEqual([]);
    expect(problemsOf({ units: [includeAll, second] })).toEqual(["include-all units[1]"]);
  });

  it("do not name PCI devices when they are include-all", () => {
    expect(problemsOf({ units: [{ ...includeAll, scopes: [ioApic, igd, rootPort] }] })).toEqual([
      "scope-type units[0].scopes[1]",
      "scope-type units[0].scopes[2]",
    ]);
  });

  it("name something when they are not include-all", () => {
    expect(problemsOf({ units: [{ registerGpa: 0xfed90000 }] })).toEqual(["scope-count units[0]"]);
  });

  it("have registers aligned to the size of the register set", () => {
    expect(problemsOf({ units: [{ ...includeAll, registerGpa: 0xfed90010 }] })).toEqual([
      "alignment units[0].registerGpa",
    ]);
    const eightKiB = { ...includeAll, registerByteLength: 0x2000 };
    expect(problemsOf({ units: [eightKiB] })).toEqual([]);
    expect(problemsOf({ units: [{ ...eightKiB, registerGpa: 0xfed91000 }] })).toEqual([
      "alignment units[0].registerGpa",
    ]);
  });

  it.each([0, 2048, 0x3000, 0x1000_0000, -4096, Number.NaN])(
    "have no register set of %i bytes",
    (registerByteLength) => {
      expect(problemsOf({ units: [{ ...includeAll, registerGpa: 0, registerByteLength }] })).toEqual([
        "range units[0].registerByteLength",
      ]);
    },
  );

  it("have register sets apart", () => {
    const large = { registerGpa: 0xfed90000, registerByteLength: 0x4000, scopes: [igd] };
    const next = { ...includeAll, registerGpa: 0xfed94000 };
    expect(problemsOf({ units: [large, next] })).toEqual([]);
    expect(problemsOf({ units: [large, { ...next, registerGpa: 0xfed93000 }] })).toEqual(["overlap units[1]"]);
  });

  it("lie within the host address width", () => {
    expect(problemsOf({ hostAddressWidth: 32 })).toEqual([]);
    expect(problemsOf({ hostAddressWidth: 31 })).toEqual(["address-width units[0].registerGpa"]);
  });

  it("do not share a PCI device, but may share the number of one in another segment", () => {
    const first = { registerGpa: 0xfed90000, scopes: [igd] };
    const second = { registerGpa: 0xfed91000, scopes: [rootPort, { type: "endpoint", path: "00:2.0" } as const] };
    expect(problemsOf({ units: [first, second] })).toEqual(["duplicate units[1].scopes[1]"]);
    expect(problemsOf({ units: [first, { ...second, segment: 1 }] })).toEqual([]);
  });

  it("may name a device behind a bridge that another unit names", () => {
    const behind: DeviceScope = { type: "endpoint", path: "00:1c.0/00.0" };
    const units = [
      { registerGpa: 0xfed90000, scopes: [rootPort] },
      { registerGpa: 0xfed91000, scopes: [behind] },
    ];
    expect(problemsOf({ units })).toEqual([]);
  });
});

describe("I/O APICs", () => {
  const withApic = { interruptRemapping: true, units: [{ ...includeAll, scopes: [ioApic] }] };

  it("of the MADT are each in the scope of one unit when interrupts are remapped", () => {
    expect(problemsOf(withApic, { ioApicIds: [2] })).toEqual([]);
    expect(problemsOf(withApic, { ioApicIds: [2, 3] })).toEqual(["io-apic units"]);
    expect(problemsOf({ ...withApic, interruptRemapping: false }, { ioApicIds: [2, 3] })).toEqual([]);
  });

  it("in a scope are in the MADT", () => {
    expect(problemsOf(withApic, { ioApicIds: [0] })).toEqual(["io-apic units[0].scopes[0]", "io-apic units"]);
  });

  it("are in one scope only", () => {
    const units = [
      { registerGpa: 0xfed91000, scopes: [ioApic] },
      { ...includeAll, scopes: [ioApic] },
    ];
    expect(problemsOf({ units })).toEqual(["duplicate units[1].scopes[0]"]);
  });
});

describe("reserved regions", () => {
  it("are whole pages", () => {
    expect(problemsOf({ reservedRegions: [region] })).toEqual([]);
    expect(problemsOf({ reservedRegions: [{ ...region, gpa: 0x1000_0800 }] })).toEqual([
      "alignment reservedRegions[0].gpa",
    ]);
    expect(problemsOf({ reservedRegions: [{ ...region, byteLength: 0x1800 }] })).toEqual([
      "alignment reservedRegions[0].byteLength",
    ]);
  });

  it.each([0, -4096, 1.5, 2 ** 53])("have no length of %d bytes", (byteLength) => {
    expect(problemsOf({ reservedRegions: [{ ...region, byteLength }] })).toEqual([
      "range reservedRegions[0].byteLength",
    ]);
  });

  it("end within the host address width, its last byte included", () => {
    const last = { ...region, gpa: 2 ** 39 - 0x2000 };
    expect(problemsOf({ reservedRegions: [last] })).toEqual([]);
    expect(problemsOf({ reservedRegions: [{ ...last, byteLength: 0x3000 }] })).toEqual([
      "address-width reservedRegions[0].gpa",
    ]);
  });

  it("name at least one device, by a scope that stands for DMA", () => {
    expect(problemsOf({ reservedRegions: [{ ...region, scopes: [] }] })).toEqual(["scope-count reservedRegions[0]"]);
    expect(problemsOf({ reservedRegions: [{ ...region, scopes: [ioApic] }] })).toEqual([
      "scope-type reservedRegions[0].scopes[0]",
    ]);
  });

  it("lie in reserved memory, which may come in adjoining pieces", () => {
    const pieces = [
      { gpa: 0x1000_1000, byteLength: 0x5000 },
      { gpa: 0x0fff_0000, byteLength: 0x1_1000 },
    ];
    expect(problemsOf({ reservedRegions: [region] }, { reservedMemory: pieces })).toEqual([]);
    expect(problemsOf({ reservedRegions: [region] }, { reservedMemory: pieces.slice(0, 1) })).toEqual([
      "reserved-memory reservedRegions[0]",
    ]);
  });
});

describe("segments", () => {
  it.each([
    ["reservedRegions", { reservedRegions: [{ ...region, segment: 1 }] }],
    ["atsRootPorts", { atsRootPorts: [{ segment: 1, allPorts: true }] }],
    ["integratedAtcs", { integratedAtcs: [{ segment: 1, scopes: [igd] }] }],
    ["deviceProperties", { deviceProperties: [{ segment: 1, scopes: [{ type: "endpoint", path: "00:02.0" }] }] }],
  ] as const)("of %s have a unit", (kind, parts) => {
    expect(problemsOf(parts)).toEqual([`no-unit ${kind}[0].segment`]);
  });

  it.each([-1, 0x10000, 0.5])("are 16-bit numbers, which %d is not", (segment) => {
    expect(problemsOf({ units: [{ ...includeAll, segment }] })).toEqual(["range units[0].segment"]);
  });
});

describe("root ports for ATS", () => {
  it("come in one entry for each segment", () => {
    expect(problemsOf({ atsRootPorts: [{ allPorts: true }, { scopes: [rootPort] }] })).toEqual([
      "duplicate atsRootPorts[1]",
    ]);
  });

  it("are all ports or named ones, never both and never none", () => {
    expect(problemsOf({ atsRootPorts: [{ allPorts: true, scopes: [rootPort] }] })).toEqual([
      "scope-count atsRootPorts[0]",
    ]);
    expect(problemsOf({ atsRootPorts: [{}] })).toEqual(["scope-count atsRootPorts[0]"]);
  });

  it("are bridges", () => {
    expect(problemsOf({ atsRootPorts: [{ scopes: [igd] }] })).toEqual(["scope-type atsRootPorts[0].scopes[0]"]);
  });
});

describe("affinities", () => {
  it("refer to a unit, each once", () => {
    const affinity = { registerGpa: 0xfed90000, proximityDomain: 1 };
    expect(problemsOf({ affinities: [affinity] })).toEqual([]);
    expect(problemsOf({ affinities: [affinity, affinity] })).toEqual(["duplicate affinities[1]"]);
    expect(problemsOf({ affinities: [{ ...affinity, registerGpa: 0xfed91000 }] })).toEqual([
      "no-unit affinities[0].registerGpa",
    ]);
    expect(problemsOf({ affinities: [{ ...affinity, proximityDomain: 2 ** 32 }] })).toEqual([
      "range affinities[0].proximityDomain",
    ]);
  });
});

describe("namespace devices", () => {
  const device = { deviceNumber: 1, name: "\\_SB.PCI0.I2C1" };
  const scope: DeviceScope = { type: "namespace-device", deviceNumber: 1, path: "f0:15.0" };

  it("have unique numbers from 1 to 255", () => {
    expect(problemsOf({ namespaceDevices: [device, { ...device, name: "\\_SB.PCI0.I2C2" }] })).toEqual([
      "duplicate namespaceDevices[1]",
    ]);
    for (const deviceNumber of [0, 256]) {
      expect(problemsOf({ namespaceDevices: [{ ...device, deviceNumber }] })).toEqual([
        "range namespaceDevices[0].deviceNumber",
      ]);
    }
  });

  it.each(["_SB.PCI0", "\\", "\\_SB.", "\\_sb.PCI0", "\\TOOLONG", "\\_SB.1ABC", "\\_SB.P\0CI", ""])(
    "are named from the root, which %j is not",
    (name) => {
      expect(problemsOf({ namespaceDevices: [{ ...device, name }] })).toEqual(["name namespaceDevices[0].name"]);
    },
  );

  it("have names that fit the structure", () => {
    const longest = `\\${"ABCD.".repeat(13104)}ABCDEF`.slice(0, 65526);
    expect(problemsOf({ namespaceDevices: [{ ...device, name: `${longest.slice(0, 65521)}.ABCD` }] })).toEqual([
      "name namespaceDevices[0].name",
    ]);
    expect(problemsOf({ namespaceDevices: [{ ...device, name: `\\${"ABCD.".repeat(13104)}ABCDE` }] })).toEqual([
      "name namespaceDevices[0].name",
    ]);
    expect(problemsOf({ namespaceDevices: [{ ...device, name: `\\${"ABCD.".repeat(13104)}ABCD` }] })).toEqual([]);
    expect(problemsOf({ namespaceDevices: [{ ...device, name: `\\${"ABCD.".repeat(13105)}ABCD` }] })).toEqual([
      "too-long namespaceDevices[0].name",
    ]);
  });

  it("are there when a scope refers to them", () => {
    const units = [{ ...includeAll, scopes: [scope] }];
    expect(problemsOf({ units, namespaceDevices: [device] })).toEqual([]);
    expect(problemsOf({ units })).toEqual(["no-namespace-device units[0].scopes[0].deviceNumber"]);
  });
});

describe("integrated devices", () => {
  it("with an ATC come in one entry per segment and need", () => {
    const required = { atcRequired: true, scopes: [igd] };
    const optional = { scopes: [{ type: "endpoint", path: "00:03.0" } as const] };
    expect(problemsOf({ integratedAtcs: [required, optional] })).toEqual([]);
    expect(problemsOf({ integratedAtcs: [required, { ...optional, atcRequired: true }] })).toEqual([
      "duplicate integratedAtcs[1]",
    ]);
  });

  it("are listed once", () => {
    expect(problemsOf({ integratedAtcs: [{ atcRequired: true, scopes: [igd] }, { scopes: [igd] }] })).toEqual([
      "duplicate integratedAtcs[1].scopes[0]",
    ]);
  });

  it("are endpoints on a root bus", () => {
    expect(problemsOf({ integratedAtcs: [{ scopes: [rootPort] }] })).toEqual([
      "scope-type integratedAtcs[0].scopes[0]",
    ]);
    expect(problemsOf({ integratedAtcs: [{ scopes: [{ type: "endpoint", path: "00:1c.0/00.0" }] }] })).toEqual([
      "path integratedAtcs[0].scopes[0].path",
    ]);
    expect(problemsOf({ integratedAtcs: [{ scopes: [] }] })).toEqual(["scope-count integratedAtcs[0]"]);
  });

  it("with properties are endpoints or namespace devices on a root bus, with properties that exist", () => {
    const properties = (scopes: readonly object[]): Partial<DmarTable> => ({
      deviceProperties: [{ scopes: scopes as NonNullable<DmarTable["deviceProperties"]>[number]["scopes"] }],
    });
    expect(problemsOf(properties([]))).toEqual(["scope-count deviceProperties[0]"]);
    expect(problemsOf(properties([rootPort]))).toEqual(["scope-type deviceProperties[0].scopes[0]"]);
    expect(problemsOf(properties([{ ...igd, path: "00:1c.0/00.0" }]))).toEqual([
      "path deviceProperties[0].scopes[0].path",
    ]);
    expect(problemsOf(properties([igd, igd]))).toEqual(["duplicate deviceProperties[0].scopes[1]"]);
    expect(problemsOf(properties([{ ...igd, properties: ["no-such-thing"] }]))).toEqual([
      "flags deviceProperties[0].scopes[0].properties",
    ]);
  });
});

describe("device scopes", () => {
  const withPath = (path: string): Partial<DmarTable> => ({
    units: [{ registerGpa: 0xfed90000, scopes: [{ type: "endpoint", path }] }],
  });

  it.each(["", "00", "00:", "00:00", "00:1f.8", "00:20.0", "100:00.0", "0000:00:1f.0", "00:1f.0/", "00:1f.0/00:00.0"])(
    "have a path of devices, which %j is not",
    (path) => {
      expect(problemsOf(withPath(path))).toEqual(["path units[0].scopes[0].path"]);
    },
  );

  it("have at most the 124 steps that their length can express", () => {
    expect(problemsOf(withPath(`00:1c.0${"/00.0".repeat(123)}`))).toEqual([]);
    expect(problemsOf(withPath(`00:1c.0${"/00.0".repeat(124)}`))).toEqual(["too-long units[0].scopes[0].path"]);
  });

  it("fit the length of their structure together", () => {
    const scopes = Array.from({ length: 8190 }, (_, index): DeviceScope => {
      const hex = (value: number): string => value.toString(16).padStart(2, "0");
      return { type: "endpoint", path: `${hex(index >> 8)}:${hex((index >> 3) & 31)}.${index & 7}` };
    });
    expect(problemsOf({ units: [{ registerGpa: 0xfed90000, scopes }] })).toEqual(["too-long units[0]"]);
    expect(problemsOf({ units: [{ registerGpa: 0xfed90000, scopes: scopes.slice(1) }] })).toEqual([]);
  });

  it("have 8-bit ids", () => {
    const hpet: DeviceScope = { type: "hpet", hpetNumber: 256, path: "00:1e.0" };
    expect(problemsOf({ units: [{ ...includeAll, scopes: [{ ...ioApic, ioApicId: -1 }, hpet] }] })).toEqual([
      "range units[0].scopes[0].ioApicId",
      "range units[0].scopes[1].hpetNumber",
    ]);
  });

  it("are of a kind that exists", () => {
    const scopes = [{ type: "toaster", path: "00:02.0" } as unknown as DeviceScope];
    expect(problemsOf({ units: [{ registerGpa: 0xfed90000, scopes }] })).toEqual(["scope-type units[0].scopes[0]"]);
  });
});

describe("the header", () => {
  it("asks to leave x2APIC off only with interrupt remapping", () => {
    expect(problemsOf({ x2apicOptOut: true })).toEqual(["flags x2apicOptOut"]);
  });

  it.each([0, 65, 47.5])("has no host address width of %d bits", (hostAddressWidth) => {
    expect(problemsOf({ hostAddressWidth })).toContain("range hostAddressWidth");
  });

  it("has a host address width within the units' MGAW", () => {
    expect(problemsOf({}, { maximumGuestAddressWidth: 39 })).toEqual([]);
    expect(problemsOf({}, { maximumGuestAddressWidth: 38 })).toEqual(["guest-address-width hostAddressWidth"]);
  });

  it("takes OEM texts that fit and are printable, and 32-bit revisions", () => {
    expect(
      problemsOf({ oem: { oemId: "SEVENCH", oemTableId: "NINECHARS", creatorId: "\u00e9", oemRevision: -1 } }),
    ).toEqual(["name oem.oemId", "name oem.oemTableId", "name oem.creatorId", "range oem.oemRevision"]);
  });
});

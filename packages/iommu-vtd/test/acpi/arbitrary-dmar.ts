/**
 * Random valid DMAR tables, with every default filled in.
 */

import fc from "fast-check";

import type {
  CompleteDmarTable,
  DeviceScope,
  EndpointScope,
  NamespaceDeviceScope,
  SidpProperty,
} from "../../src/acpi/index.js";

const step = fc.tuple(fc.integer({ min: 0, max: 0x1f }), fc.integer({ min: 0, max: 7 }));
const pathOf = (maxSteps: number): fc.Arbitrary<string> =>
  fc
    .tuple(fc.integer({ min: 0, max: 0xff }), fc.array(step, { minLength: 1, maxLength: maxSteps }))
    .map(([bus, steps]) => `${hex2(bus)}:${steps.map(([device, fn]) => `${hex2(device)}.${fn}`).join("/")}`);
const uniquePaths = (maxSteps: number, minLength: number, maxLength: number): fc.Arbitrary<string[]> =>
  fc.uniqueArray(pathOf(maxSteps), { minLength, maxLength });

const text = (maxLength: number): fc.Arbitrary<string> =>
  fc
    .string({ unit: fc.constantFrom("A", "B", "C", "a", "b", "c", "0", "1", "9", "_", "-", ".", " "), maxLength })
    .map((value) => value.trimEnd());
const u32 = fc.integer({ min: 0, max: 0xffffffff });
const nameSegment = fc
  .tuple(
    fc.constantFrom("A", "B", "Z", "_"),
    fc.string({ unit: fc.constantFrom("A", "Z", "_", "0", "9"), maxLength: 3 }),
  )
  .map(([first, rest]) => first + rest);
const acpiName = fc.array(nameSegment, { minLength: 1, maxLength: 6 }).map((names) => `\\${names.join(".")}`);
const properties = fc.subarray<SidpProperty>([
  "no-nested-translation",
  "no-page-walk-snoop",
  "no-page-snoop",
  "hardened-device-tlb",
  "device-tlb-required",
]);

interface UnitSeed {
  readonly sizeLog2: number;
  readonly paths: readonly string[];
  readonly ioApicPath: string;
  readonly hpet: number | undefined;
}

const unitSeed: fc.Arbitrary<UnitSeed> = fc.record({
  sizeLog2: fc.integer({ min: 0, max: 15 }),
  paths: uniquePaths(4, 1, 6),
  ioApicPath: pathOf(1),
  hpet: fc.option(fc.integer({ min: 0, max: 255 }), { nil: undefined }),
});

/** Valid tables of up to three segments and every structure type; a `namespaceDevices` entry is always there. */
export const arbitraryDmar: fc.Arbitrary<CompleteDmarTable> = fc
  .record({
    hostAddressWidth: fc.integer({ min: 49, max: 64 }),
    interruptRemapping: fc.boolean(),
    optOut: fc.boolean(),
    dmaControlOptIn: fc.boolean(),
    oem: fc.record({
      oemId: text(6),
      oemTableId: text(8),
      oemRevision: u32,
      creatorId: text(4),
      creatorRevision: u32,
    }),
    segments: fc.uniqueArray(fc.integer({ min: 0, max: 0xffff }), { minLength: 1, maxLength: 3 }),
    unitSeeds: fc.array(unitSeed, { minLength: 1, maxLength: 5 }),
    includeAll: fc.boolean(),
    regions: fc.array(
      fc.tuple(fc.integer({ min: 0, max: 2 ** 36 }), fc.integer({ min: 1, max: 2 ** 35 }), uniquePaths(3, 1, 3)),
      { maxLength: 3 },
    ),
    rootPorts: fc.array(uniquePaths(2, 0, 4), { maxLength: 3 }),
    proximityDomain: fc.option(u32),
    deviceNumbers: fc.uniqueArray(fc.integer({ min: 1, max: 255 }), { minLength: 1, maxLength: 4 }),
    names: fc.array(acpiName, { minLength: 4, maxLength: 4 }),
    atcs: uniquePaths(1, 2, 6),
    propertyScopes: fc.array(properties, { maxLength: 5 }),
  })
  .map((seed): CompleteDmarTable => {
    const segment = (index: number): number => seed.segments[index % seed.segments.length]!;
    const deviceNumber = (index: number): number => seed.deviceNumbers[index % seed.deviceNumbers.length]!;
    // 128 MiB apart: the largest register set fits and is aligned.
    const registerGpa = (index: number): number => (index + 1) * 2 ** 27 * 1021;
    const units = seed.unitSeeds.map((unit, index) => ({
      registerGpa: registerGpa(index),
      registerByteLength: 4096 * 2 ** unit.sizeLog2,
      segment: segment(index),
      includeAll: false,
      scopes: [
        // Start bus by unit: no device is in two units.
        ...unit.paths.map((path, at): DeviceScope => ({
          type: at % 2 ? "bridge" : "endpoint",
          path: hex2(index) + path.slice(2),
        })),
        { type: "io-apic", ioApicId: index, path: unit.ioApicPath } as const,
        ...(unit.hpet === undefined ? [] : [{ type: "hpet", hpetNumber: unit.hpet, path: unit.ioApicPath } as const]),
        { type: "namespace-device", deviceNumber: deviceNumber(index), path: unit.ioApicPath } as const,
      ].filter((scope, at, all) => isFirst(scope, at, all)),
    }));
    const includeAll = { registerGpa: registerGpa(100), registerByteLength: 4096, includeAll: true, scopes: [] };
    return {
      hostAddressWidth: seed.hostAddressWidth,
      interruptRemapping: seed.interruptRemapping,
      x2apicOptOut: seed.interruptRemapping && seed.optOut,
      dmaControlOptIn: seed.dmaControlOptIn,
      oem: seed.oem,
      units: seed.includeAll ? [...units, { ...includeAll, segment: segment(0) }] : units,
      reservedRegions: seed.regions.map(([page, pageCount, paths]) => ({
        gpa: page * 4096,
        byteLength: pageCount * 4096,
        segment: units[0]!.segment,
        scopes: paths.map((path): EndpointScope => ({ type: "endpoint", path })),
      })),
      atsRootPorts: seed.rootPorts.slice(0, Math.min(seed.segments.length, units.length)).map((paths, index) => ({
        segment: segment(index),
        allPorts: paths.length === 0,
        scopes: paths.map((path): DeviceScope => ({ type: "bridge", path })),
      })),
      affinities:
        seed.proximityDomain === null ? [] : [{ registerGpa: registerGpa(0), proximityDomain: seed.proximityDomain }],
      namespaceDevices: seed.deviceNumbers.map((number, index) => ({ deviceNumber: number, name: seed.names[index]! })),
      integratedAtcs: [true, false].map((atcRequired) => ({
        segment: segment(0),
        atcRequired,
        scopes: seed.atcs
          .filter((_, index) => (index % 2 === 0) === atcRequired)
          .map((path): EndpointScope => ({ type: "endpoint", path })),
      })),
      deviceProperties: seed.propertyScopes.map((names, index) => ({
        segment: segment(0),
        scopes: [
          index % 2 === 0
            ? { ...({ type: "endpoint", path: `${hex2(index)}:02.0` } satisfies EndpointScope), properties: names }
            : {
                ...({
                  type: "namespace-device",
                  deviceNumber: deviceNumber(index),
                  path: `${hex2(index)}:02.0`,
                } satisfies NamespaceDeviceScope),
                properties: names,
              },
        ],
      })),
    };
  });

/** No device twice in one unit, once its start bus was replaced. */
function isFirst(scope: DeviceScope, at: number, all: readonly DeviceScope[]): boolean {
  const isPci = (other: DeviceScope): boolean => other.type === "endpoint" || other.type === "bridge";
  return !isPci(scope) || all.findIndex((other) => isPci(other) && other.path === scope.path) === at;
}

function hex2(value: number): string {
  return value.toString(16).padStart(2, "0");
}

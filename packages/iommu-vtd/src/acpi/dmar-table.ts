/**
 * What a DMAR table says, as plain data: the options of the builder and the result of the decoder.
 *
 * One list per structure type, so that the order which §8.2 demands cannot be got wrong; within a list the order
 * is the table's. Addresses and lengths are bytes, ranges half-open, devices are written "00:1f.2" (see device-path.ts).
 */

import { formatDevicePath, parseDevicePath } from "./device-path.js";

/** A PCI device. In SATC and SIDP a physical function, which stands for its virtual functions too. */
export interface EndpointScope {
  /** Device scope type 1 (§8.3.1). */
  readonly type: "endpoint";
  /** "bb:dd.f", or "bb:dd.f/dd.f" behind a bridge; hexadecimal. */
  readonly path: string;
}

/** A bridge and everything behind it. */
export interface BridgeScope {
  /** Device scope type 2 (§8.3.1). */
  readonly type: "bridge";
  /** Place of the bridge, as for an endpoint. */
  readonly path: string;
}

/** An I/O APIC; `path` is the source-id of its interrupts and may be fictitious (q35 machines use "ff:00.0"). */
export interface IoApicScope {
  /** Device scope type 3 (§8.3.1). */
  readonly type: "io-apic";
  /** Id of the I/O APIC in the MADT, 0-255. */
  readonly ioApicId: number;
  /** Bus, device and function, such as `f0:1f.7`. */
  readonly path: string;
}

/** An HPET that sends message-signalled interrupts; `path` is their source-id. */
export interface HpetScope {
  /** Device scope type 4 (§8.3.1). */
  readonly type: "hpet";
  /** Number of the HPET in its ACPI table, 0-255. */
  readonly hpetNumber: number;
  /** Bus, device and function, such as `f0:1f.0`. */
  readonly path: string;
}

/** A device that only ACPI knows; `path` is the source-id of its requests. */
export interface NamespaceDeviceScope {
  /** Device scope type 5 (§8.3.1). */
  readonly type: "namespace-device";
  /** `deviceNumber` of an entry in `namespaceDevices`. */
  readonly deviceNumber: number;
  /** Bus, device and function of its requests. */
  readonly path: string;
}

/** What a structure applies to (§8.3.1). */
export type DeviceScope = EndpointScope | BridgeScope | IoApicScope | HpetScope | NamespaceDeviceScope;

/** Advice to system software about one device (§8.9); the unit itself does not act on it. */
export type SidpProperty =
  /** No nested translation for requests without PASID. */
  | "no-nested-translation"
  /** Page-walk snoop stays off for requests without PASID. */
  | "no-page-walk-snoop"
  /** Page snoop stays off for requests without PASID. */
  | "no-page-snoop"
  /** The device TLB cannot be made to emit forged translated requests. */
  | "hardened-device-tlb"
  /** The device works only with its device TLB enabled. */
  | "device-tlb-required";

/** A device of an SIDP structure with its properties (default: none). */
export type PropertyScope = (EndpointScope | NamespaceDeviceScope) & { readonly properties?: readonly SidpProperty[] };

/** DRHD: a remapping unit (§8.3). */
export interface RemappingUnit {
  /** Address of the register set in bytes, aligned to `registerByteLength`. */
  readonly registerGpa: number;
  /** 4096 * 2^N, N = 0..15. Default 4096. */
  readonly registerByteLength?: number;
  /** PCI segment, 0-65535. Default 0. */
  readonly segment?: number;
  /** Covers every PCI device of the segment that no other unit names; the last unit of its segment. Default false. */
  readonly includeAll?: boolean;
  /** Default: none. With `includeAll` only I/O APICs, HPETs and namespace devices. */
  readonly scopes?: readonly DeviceScope[];
}

/** RMRR: memory that the named devices reach before and after the operating system takes over (§8.4). */
export interface ReservedRegion {
  /** First byte, a multiple of 4096. */
  readonly gpa: number;
  /** A multiple of 4096, at least 4096. */
  readonly byteLength: number;
  /** PCI segment. Default 0. */
  readonly segment?: number;
  /** At least one: endpoints, bridges or namespace devices. */
  readonly scopes: readonly DeviceScope[];
}

/** ATSR: root ports below which devices may use ATS; one for each segment at most (§8.5). */
export interface AtsRootPorts {
  /** PCI segment. Default 0. */
  readonly segment?: number;
  /** All root ports of the segment; then no scopes. Default false. */
  readonly allPorts?: boolean;
  /** The root ports, as bridges. */
  readonly scopes?: readonly DeviceScope[];
}

/** RHSA: the proximity domain of a unit (§8.6). */
export interface UnitAffinity {
  /** `registerGpa` of a unit of this table. */
  readonly registerGpa: number;
  /** 0-0xFFFFFFFF. */
  readonly proximityDomain: number;
}

/** ANDD: a device that only ACPI knows (§8.7). */
export interface NamespaceDevice {
  /** 1-255, unique in the table. */
  readonly deviceNumber: number;
  /** Fully qualified ACPI name, such as "\\_SB.PCI0.I2C1". */
  readonly name: string;
}

/** SATC: integrated devices that cache translations; one per segment and value of `atcRequired` at most (§8.8). */
export interface IntegratedAtcs {
  /** PCI segment. Default 0. */
  readonly segment?: number;
  /** The devices do not work without ATS. Default false. */
  readonly atcRequired?: boolean;
  /** At least one endpoint on a root bus. */
  readonly scopes: readonly DeviceScope[];
}

/** SIDP: properties of integrated devices; software that knows it ignores SATC (§8.9). */
export interface DeviceProperties {
  /** PCI segment. Default 0. */
  readonly segment?: number;
  /** At least one endpoint or namespace device on a root bus. */
  readonly scopes: readonly PropertyScope[];
}

/** Identification in the ACPI header: printable ASCII of up to 6, 8 and 4 characters, and 32-bit revisions. */
export interface DmarOem {
  /** Up to 6 characters. */
  readonly oemId?: string;
  /** Up to 8 characters. */
  readonly oemTableId?: string;
  /** 32 bits. */
  readonly oemRevision?: number;
  /** Up to 4 characters. */
  readonly creatorId?: string;
  /** 32 bits. */
  readonly creatorRevision?: number;
}

/** A whole DMAR table (§8.1). */
export interface DmarTable {
  /** Width of a physical address of the machine in bits, 1-64; bounds every address of the table. */
  readonly hostAddressWidth: number;
  /** The units support interrupt remapping. Default false. */
  readonly interruptRemapping?: boolean;
  /** Asks the operating system to leave x2APIC mode off; only with `interruptRemapping`. Default false. */
  readonly x2apicOptOut?: boolean;
  /** Firmware restricts its own DMA to reserved regions. Default false. */
  readonly dmaControlOptIn?: boolean;
  /** What the header says of its maker. Default: that of this package. */
  readonly oem?: DmarOem;
  /** DRHD. At least one for each segment. */
  readonly units: readonly RemappingUnit[];
  /** RMRR. */
  readonly reservedRegions?: readonly ReservedRegion[];
  /** ATSR. */
  readonly atsRootPorts?: readonly AtsRootPorts[];
  /** RHSA. */
  readonly affinities?: readonly UnitAffinity[];
  /** ANDD. */
  readonly namespaceDevices?: readonly NamespaceDevice[];
  /** SATC. */
  readonly integratedAtcs?: readonly IntegratedAtcs[];
  /** SIDP. */
  readonly deviceProperties?: readonly DeviceProperties[];
}

/** A table with every default filled in. */
export type Complete<T> = T extends readonly (infer Item)[]
  ? readonly Complete<Item>[]
  : T extends object
    ? { readonly [Key in keyof T]-?: Complete<T[Key]> }
    : T;

/** A `DmarTable` with every default filled in; itself a valid `DmarTable`. */
export type CompleteDmarTable = Complete<DmarTable>;

const DEFAULT_OEM = {
  oemId: "IOMMUK",
  oemTableId: "IOMMUVTD",
  oemRevision: 1,
  creatorId: "IOMK",
  creatorRevision: 1,
} as const;

/** Fills in the defaults and spells every device path canonically; checks nothing. The result shares no list with the argument. */
export function completeDmar(table: DmarTable): CompleteDmarTable {
  return {
    hostAddressWidth: table.hostAddressWidth,
    interruptRemapping: table.interruptRemapping ?? false,
    x2apicOptOut: table.x2apicOptOut ?? false,
    dmaControlOptIn: table.dmaControlOptIn ?? false,
    oem: { ...DEFAULT_OEM, ...table.oem },
    units: table.units.map((unit) => ({
      registerGpa: unit.registerGpa,
      registerByteLength: unit.registerByteLength ?? 4096,
      segment: unit.segment ?? 0,
      includeAll: unit.includeAll ?? false,
      scopes: (unit.scopes ?? []).map(canonicalScope),
    })),
    reservedRegions: (table.reservedRegions ?? []).map((region) => ({
      gpa: region.gpa,
      byteLength: region.byteLength,
      segment: region.segment ?? 0,
      scopes: region.scopes.map(canonicalScope),
    })),
    atsRootPorts: (table.atsRootPorts ?? []).map((ports) => ({
      segment: ports.segment ?? 0,
      allPorts: ports.allPorts ?? false,
      scopes: (ports.scopes ?? []).map(canonicalScope),
    })),
    affinities: (table.affinities ?? []).map((affinity) => ({ ...affinity })),
    namespaceDevices: (table.namespaceDevices ?? []).map((device) => ({ ...device })),
    integratedAtcs: (table.integratedAtcs ?? []).map((atcs) => ({
      segment: atcs.segment ?? 0,
      atcRequired: atcs.atcRequired ?? false,
      scopes: atcs.scopes.map(canonicalScope),
    })),
    deviceProperties: (table.deviceProperties ?? []).map((group) => ({
      segment: group.segment ?? 0,
      scopes: group.scopes.map((scope) => ({ ...canonicalScope(scope), properties: [...(scope.properties ?? [])] })),
    })),
  };
}

function canonicalScope<Scope extends DeviceScope>(scope: Scope): Scope {
  const path = parseDevicePath(scope.path);
  return path === undefined ? { ...scope } : { ...scope, path: formatDevicePath(path) };
}

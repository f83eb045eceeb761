/**
 * The DMAR table of the VT-d specification, §8, as tables: header, remapping structures, device scopes.
 *
 * The only file that knows an offset, a type number or a flag's bit. `STRUCTURES` is in ascending type order,
 * the order in which a table must list them (§8.2): builder and decoder both follow it.
 */

import { byteLayout, flags, text, u16, u32, u64, u8 } from "./byte-layout.js";

/** Table signature (§8.1). */
export const DMAR_SIGNATURE = "DMAR";
/** Table revision (§8.1). */
export const DMAR_REVISION = 1;

/** ACPI table header and the fields that DMAR adds to it (§8.1). */
export const DMAR_HEADER = byteLayout(48, {
  /** "DMAR". */
  SIGNATURE: text(0, 4),
  /** Bytes of the whole table. */
  LENGTH: u32(4),
  /** Revision of the table. */
  REVISION: u8(8),
  /** Makes the sum of all bytes 0 modulo 256. */
  CHECKSUM: u8(9),
  /** OEM. */
  OEM_ID: text(10, 6),
  /** OEM's name of the table. */
  OEM_TABLE_ID: text(16, 8),
  /** OEM's revision of the table. */
  OEM_REVISION: u32(24),
  /** Tool that made the table. */
  CREATOR_ID: text(28, 4),
  /** Revision of that tool. */
  CREATOR_REVISION: u32(32),
  /** Host address width in bits, minus 1. */
  HAW: u8(36),
  /** Interrupt remapping supported; leave x2APIC off; firmware restricts its own DMA. */
  FLAGS: flags(37, { INTR_REMAP: 0, X2APIC_OPT_OUT: 1, DMA_CTRL_PLATFORM_OPT_IN_FLAG: 2 }),
});

/** Head of every remapping structure (§8.2). */
export const STRUCTURE_HEADER = byteLayout(4, {
  /** Type of the structure. */
  TYPE: u16(0),
  /** Bytes of the structure with its scopes. */
  LENGTH: u16(2),
});

/** Remapping hardware unit (§8.3). */
export const DRHD = byteLayout(16, {
  ...STRUCTURE_HEADER.fields,
  /** Covers all PCI devices that no other unit of the segment names. */
  FLAGS: flags(4, { INCLUDE_PCI_ALL: 0 }),
  /** The register set has 2^N pages of 4 KiB. */
  SIZE: u8(5, 0x0f),
  /** PCI segment. */
  SEGMENT: u16(6),
  /** Address of the register set. */
  REGISTER_BASE: u64(8),
});

/** Reserved memory region (§8.4). */
export const RMRR = byteLayout(24, {
  ...STRUCTURE_HEADER.fields,
  /** PCI segment. */
  SEGMENT: u16(6),
  /** First byte of the region. */
  BASE: u64(8),
  /** Last byte of the region. */
  LIMIT: u64(16),
});

/** Root ports that let ATS through (§8.5). */
export const ATSR = byteLayout(8, {
  ...STRUCTURE_HEADER.fields,
  /** All root ports of the segment. */
  FLAGS: flags(4, { ALL_PORTS: 0 }),
  /** PCI segment. */
  SEGMENT: u16(6),
});

/** Affinity of a unit to a proximity domain (§8.6). */
export const RHSA = byteLayout(20, {
  ...STRUCTURE_HEADER.fields,
  /** Address of the unit's register set. */
  REGISTER_BASE: u64(8),
  /** Proximity domain of the SRAT. */
  PROXIMITY_DOMAIN: u32(16),
});

/** ACPI namespace device; its NUL-terminated name follows (§8.7). */
export const ANDD = byteLayout(8, {
  ...STRUCTURE_HEADER.fields,
  /** Number by which scopes refer to the device, from 1. */
  DEVICE_NUMBER: u8(7),
});

/** SoC-integrated devices with an address translation cache (§8.8). */
export const SATC = byteLayout(8, {
  ...STRUCTURE_HEADER.fields,
  /** The devices need ATS to work. */
  FLAGS: flags(4, { ATC_REQUIRED: 0 }),
  /** PCI segment. */
  SEGMENT: u16(6),
});

/** Properties of SoC-integrated devices (§8.9). */
export const SIDP = byteLayout(8, {
  ...STRUCTURE_HEADER.fields,
  /** PCI segment. */
  SEGMENT: u16(6),
});

/** Structure types in the order of the table; the keys are those of `DmarTable`. */
export const STRUCTURES = {
  units: { type: 0, mnemonic: "DRHD", layout: DRHD },
  reservedRegions: { type: 1, mnemonic: "RMRR", layout: RMRR },
  atsRootPorts: { type: 2, mnemonic: "ATSR", layout: ATSR },
  affinities: { type: 3, mnemonic: "RHSA", layout: RHSA },
  namespaceDevices: { type: 4, mnemonic: "ANDD", layout: ANDD },
  integratedAtcs: { type: 5, mnemonic: "SATC", layout: SATC },
  deviceProperties: { type: 6, mnemonic: "SIDP", layout: SIDP },
} as const;

/** Keys of `STRUCTURES`. */
export type StructureKind = keyof typeof STRUCTURES;

/** The kinds of structures in the order of the table. */
export const STRUCTURE_KINDS = Object.keys(STRUCTURES) as readonly StructureKind[];

/** Head of a device scope; pairs of device and function follow (§8.3.1). */
export const DEVICE_SCOPE = byteLayout(6, {
  /** Kind of device. */
  TYPE: u8(0),
  /** 6 + 2 bytes for each pair of the path. */
  LENGTH: u8(1),
  /** Properties (SIDP only). */
  FLAGS: flags(2, {
    "no-nested-translation": 0,
    "no-page-walk-snoop": 1,
    "no-page-snoop": 2,
    "hardened-device-tlb": 3,
    "device-tlb-required": 4,
  }),
  /** I/O APIC id, HPET number or ACPI device number. */
  ENUMERATION_ID: u8(4),
  /** Bus at which the path begins. */
  START_BUS: u8(5),
});

/** One step of a device scope's path (§8.3.1). */
export const PATH_PAIR = byteLayout(2, {
  /** PCI device number. */
  DEVICE: u8(0),
  /** PCI function number. */
  FUNCTION: u8(1),
});

/** Granularity of register sets and reserved regions. */
export const PAGE_BYTES = 4096;

/** Largest N of DRHD.SIZE: a register set of 2^N pages. */
export const MAX_REGISTER_PAGES_LOG2 = 15;

/** Longest structure that the two-byte length can express. */
export const MAX_STRUCTURE_BYTES = 0xffff;

/** Largest number of path pairs that the one-byte length of a scope can express. */
export const MAX_PATH_PAIRS = Math.floor((0xff - DEVICE_SCOPE.byteLength) / PATH_PAIR.byteLength);

/** Device scope types (§8.3.1). */
export const SCOPE_TYPES = {
  endpoint: 1,
  bridge: 2,
  "io-apic": 3,
  hpet: 4,
  "namespace-device": 5,
} as const;

/** Keys of `SCOPE_TYPES`. */
export type ScopeType = keyof typeof SCOPE_TYPES;

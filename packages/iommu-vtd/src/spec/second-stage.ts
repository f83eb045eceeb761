/**
 * Second-stage paging entries (§9.8): 64 bits, 512 to a table, 3 to 5 levels.
 *
 * Level 1 holds PTEs (4 KiB), level 2 PDEs (2 MiB), level 3 PDPEs (1 GiB), levels 4 and 5 PML4Es and PML5Es.
 * An entry without R and W is absent, and nothing else of it is looked at. PS makes a leaf at levels 2 and 3.
 */
import {
  address,
  bit,
  bits,
  fieldMask,
  ignored,
  layout,
  markBits,
  reserved,
  reservedMask,
} from "@iommu-kit/iommu-core";
import type { Part, TextOf } from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "./capabilities.js";
import { CAP, ECAP } from "./registers-capability.js";

/** An entry that points to a table. */
export const SecondStageTableEntry = layout(64, {
  R: bit(0),
  W: bit(1),
  _2: ignored(6, 2),
  PS: bit(7),
  A: bit(8),
  _9: ignored(10, 9),
  _11: reserved(11),
  ADDR: address(51, 12),
  _52: ignored(60, 52),
  IR: bit(61),
  IW: bit(62),
  _63: ignored(63),
});

/** Meanings of `SecondStageTableEntry`. */
export const SecondStageTableEntryText: TextOf<typeof SecondStageTableEntry> = {
  title: "Second-stage table entry",
  section: "§9.8",
  R: "Read, unless SSIRWE",
  W: "Write, unless SSIRWE",
  PS: "0: a table; reserved in PML4E and PML5E",
  A: "Accessed, with SSADE",
  ADDR: "Next table, page frame",
  IR: "Read, with SSIRWE; else ignored",
  IW: "Write, with SSIRWE; else reserved",
};

/** An entry that maps a page. */
export const SecondStageLeafEntry = layout(64, {
  R: bit(0),
  W: bit(1),
  _2: ignored(2),
  EMT: bits(5, 3),
  IPAT: bit(6),
  PS: bit(7),
  A: bit(8),
  D: bit(9),
  _10: ignored(10),
  SNP: bit(11),
  ADDR: address(51, 12),
  _52: ignored(60, 52),
  IR: bit(61),
  IW: bit(62),
  _63: ignored(63),
});

/** Meanings of `SecondStageLeafEntry`. */
export const SecondStageLeafEntryText: TextOf<typeof SecondStageLeafEntry> = {
  title: "Second-stage leaf entry",
  section: "§9.8",
  R: "Read, unless SSIRWE",
  W: "Write, unless SSIRWE",
  EMT: "Memory type, with EMTE",
  IPAT: "Ignore the page attributes, with EMTE",
  PS: "1: a 2 MiB or 1 GiB page; ignored in a PTE",
  A: "Accessed, with SSADE",
  D: "Dirty, with SSADE",
  SNP: "Snoop; reserved without snoop control",
  ADDR: "Page, page frame",
  IR: "Read, with SSIRWE; else ignored",
  IW: "Write, with SSIRWE; else reserved",
};

const { PS, ADDR } = SecondStageLeafEntry.fields;

/** Two words: the rights and the frame of a leaf, all that a mapping consists of while SSIRWE is 0. */
export const SECOND_STAGE_MAPPING: Int32Array = fieldMask(SecondStageLeafEntry, "R", "W", "ADDR");

/**
 * Index into the words of `secondStageReserved` for an entry of `level` (1 to 5) whose low word is `low`: the low mask
 * is there, the high mask follows.
 */
export function reservedIndex(level: number, low: number): number {
  return level * 4 + ((low >>> (PS.shift - 1)) & 2);
}

/**
 * The reserved bits of present second-stage entries, to be looked up with `reservedIndex`. `rightsInHighBits` is
 * RTADDR.SSIRWE as latched. A page size that the unit lacks makes PS itself reserved.
 */
export function secondStageReserved(unit: UnitCapabilities, rightsInHighBits: boolean): Int32Array {
  const masks = new Int32Array(6 * 4);
  const pageSizes = CAP.fields.SSLPS.get(unit.cap, 0);
  const noSnoop: readonly Part[] = ECAP.fields.SC.get(unit.ecap, 0) ? [] : [SecondStageLeafEntry.fields.SNP];
  const always: readonly Part[] = rightsInHighBits ? [] : [SecondStageTableEntry.fields.IW];
  const table = reservedMask(SecondStageTableEntry, unit.hostAddressWidth, always);
  const leaf = reservedMask(SecondStageLeafEntry, unit.hostAddressWidth, [...always, ...noSnoop]);
  for (let level = 1; level <= 5; level++) {
    const withPs = leaf.slice();
    markBits(withPs, ADDR.lo + (level - 1) * 9 - 1, ADDR.lo);
    if (level > 3 || (level > 1 && (pageSizes & (1 << (level - 2))) === 0)) markBits(withPs, PS.hi, PS.lo);
    masks.set(level === 1 ? leaf : table, level * 4);
    masks.set(withPs, level * 4 + 2);
  }
  return masks;
}

/** Whether an entry of level 2 or 3 whose low word is `low` maps a superpage (PS). */
export function isSecondStageLeaf(low: number): boolean {
  return (low & PS.mask) !== 0;
}

/** The accessed flag in the low word of an entry. */
export const SECOND_STAGE_ACCESSED: number = SecondStageLeafEntry.fields.A.mask;
/** The snoop bit in the low word of a leaf. */
export const SECOND_STAGE_SNOOP: number = SecondStageLeafEntry.fields.SNP.mask;
/** The dirty flag in the low word of a leaf. */
export const SECOND_STAGE_DIRTY: number = SecondStageLeafEntry.fields.D.mask;

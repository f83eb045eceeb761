/**
 * First-stage paging entries (§9.7): the x86-64 format, 64 bits, 512 to a table, 4 or 5 levels.
 *
 * Level 1 holds PTEs (4 KiB), level 2 PDEs (2 MiB), level 3 PDPEs (1 GiB), levels 4 and 5 PML4Es and PML5Es.
 * An entry without P is absent, and nothing else of it is looked at. PS makes a leaf at levels 2 and 3; at level 1 the
 * same bit is PAT. In nested translation ADDR is a guest physical address.
 */
import { address, bit, ignored, layout, markBits, reservedMask, type TextOf } from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "./capabilities.js";
import { CAP } from "./registers-capability.js";
import { entryFrame } from "./word.js";

/** An entry that points to a table. */
export const FirstStageTableEntry = layout(64, {
  P: bit(0),
  RW: bit(1),
  US: bit(2),
  _3: ignored(4, 3),
  A: bit(5),
  _6: ignored(6),
  PS: bit(7),
  _8: ignored(9, 8),
  EA: bit(10),
  _11: ignored(11),
  ADDR: address(51, 12),
  _52: ignored(63, 52),
});

/** Meanings of `FirstStageTableEntry`. */
export const FirstStageTableEntryText: TextOf<typeof FirstStageTableEntry> = {
  title: "First-stage table entry",
  section: "§9.7",
  P: "Present",
  RW: "Write",
  US: "User",
  A: "Accessed",
  PS: "0: a table; reserved in PML4E and PML5E",
  EA: "Extended accessed, with EAFE",
  ADDR: "Next table, page frame",
};

/** An entry that maps a page. Bit 12 of a superpage is PAT and no part of the address. */
export const FirstStageLeafEntry = layout(64, {
  P: bit(0),
  RW: bit(1),
  US: bit(2),
  PWT: bit(3),
  PCD: bit(4),
  A: bit(5),
  D: bit(6),
  PS: bit(7),
  _8: ignored(9, 8),
  EA: bit(10),
  _11: ignored(11),
  ADDR: address(51, 12),
  _52: ignored(63, 52),
});

/** Meanings of `FirstStageLeafEntry`. */
export const FirstStageLeafEntryText: TextOf<typeof FirstStageLeafEntry> = {
  title: "First-stage leaf entry",
  section: "§9.7",
  P: "Present",
  RW: "Write",
  US: "User",
  PWT: "Write-through, with memory types",
  PCD: "Cache disable, with memory types",
  A: "Accessed",
  D: "Dirty",
  PS: "1: a 2 MiB or 1 GiB page; PAT in a PTE",
  EA: "Extended accessed, with EAFE",
  ADDR: "Page, page frame",
};

const { PS, ADDR } = FirstStageLeafEntry.fields;

/**
 * Index into the words of `firstStageReserved` for an entry of `level` (1 to 5) whose low word is `low`: the low mask
 * is there, the high mask follows.
 */
export function firstStageReservedIndex(level: number, low: number): number {
  return level * 4 + ((low >>> (PS.shift - 1)) & 2);
}

/**
 * The reserved bits of present first-stage entries, to be looked up with `firstStageReservedIndex`. A page size that
 * the unit lacks (1 GiB without CAP.FS1GP) makes PS itself reserved.
 */
export function firstStageReserved(unit: UnitCapabilities): Int32Array {
  const masks = new Int32Array(6 * 4);
  const table = reservedMask(FirstStageTableEntry, unit.hostAddressWidth);
  const leaf = reservedMask(FirstStageLeafEntry, unit.hostAddressWidth);
  const largestLeaf = CAP.fields.FS1GP.get(unit.cap, 0) ? 3 : 2;
  for (let level = 1; level <= 5; level++) {
    const withPs = leaf.slice();
    // Bit 12 of a superpage is PAT, so its reserved bits start at 13; a PTE has none.
    markBits(withPs, ADDR.lo + (level - 1) * 9 - 1, ADDR.lo + 1);
    if (level > largestLeaf) markBits(withPs, PS.hi, PS.lo);
    masks.set(level === 1 ? leaf : table, level * 4);
    masks.set(withPs, level * 4 + 2);
  }
  return masks;
}

const { P, RW, US, A, D, EA } = FirstStageLeafEntry.fields;

/** Flags and bits of the low word of an entry, as masks. */
export const FirstStageBits = {
  PRESENT: P.mask,
  WRITE: RW.mask,
  USER: US.mask,
  ACCESSED: A.mask,
  DIRTY: D.mask,
  EXTENDED_ACCESSED: EA.mask,
  PAGE_SIZE: PS.mask,
} as const;

/** The frame in the two words of an entry of this span: bit 12 of a superpage is PAT and is cut off. */
export function firstStageFrame(low: number, high: number, span: number): number {
  const frame = entryFrame(low, high);
  return frame - (frame % span);
}

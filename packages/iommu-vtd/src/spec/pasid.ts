/**
 * The PASID directory (§9.5) and the PASID table (§9.6) of scalable mode.
 *
 * A directory entry, 8 bytes, is indexed by PASID bits 19:6 and points to a table of 64 entries of 64 bytes, indexed by
 * bits 5:0. FPD counts even where P is 0; every other field is looked at only in a present entry.
 */
import {
  address,
  bit,
  bits,
  ignored,
  layout,
  markBits,
  reserved,
  reservedMask,
  type TextOf,
} from "@iommu-kit/iommu-core";
import { absentFields, type UnitCapabilities, unusedDomainIdBits } from "./capabilities.js";
import { ECAP } from "./registers-capability.js";

/** PASID-directory entry. */
export const PasidDirectoryEntry = layout(64, {
  P: bit(0),
  FPD: bit(1),
  _2: reserved(11, 2),
  SMPTBLPTR: address(63, 12),
});

/** Meanings of `PasidDirectoryEntry`. */
export const PasidDirectoryEntryText: TextOf<typeof PasidDirectoryEntry> = {
  title: "PASID-directory entry",
  section: "§9.5",
  P: "Present",
  FPD: "Do not record faults",
  SMPTBLPTR: "PASID table, page frame",
};

/** PASID-table entry. FSPTPTR is a guest physical address in nested translation. */
export const PasidEntry = layout(512, {
  P: bit(0),
  FPD: bit(1),
  AW: bits(4, 2),
  _5: reserved(5),
  PGTT: bits(8, 6),
  SSADE: bit(9),
  _10: reserved(11, 10),
  SSPTPTR: address(63, 12),
  DID: bits(79, 64),
  _80: reserved(86, 80),
  PWSNP: bit(87),
  PGSNP: bit(88),
  CD: bit(89),
  EMTE: bit(90),
  _91: reserved(95, 91),
  PAT: bits(127, 96),
  SRE: bit(128),
  _129: reserved(129),
  FSPM: bits(131, 130),
  WPE: bit(132),
  _133: ignored(134, 133),
  EAFE: bit(135),
  _136: reserved(139, 136),
  FSPTPTR: address(191, 140),
  _192: reserved(255, 192),
  HPTSZ: bits(257, 256),
  HPTPFD: bit(258),
  _259: reserved(267, 259),
  HPTPTR: address(319, 268),
  HPTDID: bits(335, 320),
  _336: reserved(511, 336),
});

/** Meanings of `PasidEntry`. */
export const PasidEntryText: TextOf<typeof PasidEntry> = {
  title: "PASID-table entry",
  section: "§9.6",
  P: "Present",
  FPD: "Do not record faults",
  AW: "Second-stage width: 1 is 39, 2 is 48, 3 is 57 bits",
  PGTT: "1 first stage, 2 second stage, 3 nested, 4 pass-through",
  SSADE: "Second-stage accessed and dirty flags",
  SSPTPTR: "Second-stage table, page frame",
  DID: "Domain-id",
  PWSNP: "Table accesses are snooped",
  PGSNP: "Page accesses are snooped",
  CD: "Cache disable",
  EMTE: "Second-stage memory types count",
  PAT: "Eight page attributes of 3 bits, 4 bits apart",
  SRE: "Supervisor requests enabled",
  FSPM: "First-stage tables: 0 four, 1 five levels",
  WPE: "Write protection binds supervisors",
  EAFE: "Extended accessed flag",
  FSPTPTR: "First-stage table, page frame",
  HPTSZ: "log2 of the host permission table's pages",
  HPTPFD: "No prefetch of host permissions",
  HPTPTR: "Host permission table, page frame",
  HPTDID: "Domain-id of the host permission table",
};

/** The reserved bits of a present PASID-directory entry, two words. */
export function pasidDirectoryReserved(unit: UnitCapabilities): Int32Array {
  return reservedMask(PasidDirectoryEntry, unit.hostAddressWidth);
}

/** The reserved bits of a present PASID-table entry, sixteen words: fields of missing capabilities count. */
export function pasidEntryReserved(unit: UnitCapabilities): Int32Array {
  const entry = PasidEntry.fields;
  const { SSTS, SSADS, SMPWCS, SC, MTS, SRS, FSTS, EAFS, HPTS } = ECAP.fields;
  const absent = absentFields(unit.ecap, [
    [SSTS, entry.AW, entry.SSADE, entry.SSPTPTR],
    [SSADS, entry.SSADE],
    [SMPWCS, entry.PWSNP],
    [SC, entry.PGSNP],
    [MTS, entry.CD, entry.EMTE, entry.PAT],
    [SRS, entry.SRE],
    [FSTS, entry.FSPM, entry.WPE, entry.FSPTPTR],
    [EAFS, entry.EAFE],
    [HPTS, entry.HPTSZ, entry.HPTPFD, entry.HPTPTR, entry.HPTDID],
  ]);
  const words = reservedMask(PasidEntry, unit.hostAddressWidth, absent);
  for (let at = entry.PAT.lo + 3; at <= entry.PAT.hi; at += 4) markBits(words, at, at);
  const { hi, lo } = unusedDomainIdBits(unit.cap, entry.DID);
  return markBits(words, hi, lo);
}

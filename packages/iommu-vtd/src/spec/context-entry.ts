/**
 * Context entries: legacy, 16 bytes (§9.3), and scalable mode, 32 bytes (§9.4).
 *
 * FPD counts even where P is 0; every other field is looked at only in a present entry.
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

/** Legacy context-entry. SSPTPTR is not used by TT = pass-through, but its reserved bits still are. */
export const ContextEntry = layout(128, {
  P: bit(0),
  FPD: bit(1),
  TT: bits(3, 2),
  _4: reserved(11, 4),
  SSPTPTR: address(63, 12),
  AW: bits(66, 64),
  _67: ignored(70, 67),
  _71: reserved(71),
  DID: bits(87, 72),
  _88: reserved(127, 88),
});

/** Meanings of `ContextEntry`. */
export const ContextEntryText: TextOf<typeof ContextEntry> = {
  title: "Context entry",
  section: "§9.3",
  P: "Present",
  FPD: "Do not record faults",
  TT: "Translation type",
  SSPTPTR: "Second-stage table, page frame",
  AW: "Address width: 1 is 39, 2 is 48, 3 is 57 bits",
  DID: "Domain-id",
};

/** The reserved bits of a present legacy context-entry, four words. */
export function contextEntryReserved(unit: UnitCapabilities): Int32Array {
  const { hi, lo } = unusedDomainIdBits(unit.cap, ContextEntry.fields.DID);
  return markBits(reservedMask(ContextEntry, unit.hostAddressWidth), hi, lo);
}

/** Scalable-mode context-entry. PASIDs below 2^(PDTS + 13) are in the directory's range. */
export const ScalableContextEntry = layout(256, {
  P: bit(0),
  FPD: bit(1),
  DTE: bit(2),
  PASIDE: bit(3),
  PRE: bit(4),
  HPTE: bit(5),
  EPTR: bit(6),
  _7: reserved(8, 7),
  PDTS: bits(11, 9),
  PASIDDIRPTR: address(63, 12),
  RID_PASID: bits(83, 64),
  RID_PRIV: bit(84),
  _85: reserved(255, 85),
});

/** Meanings of `ScalableContextEntry`. */
export const ScalableContextEntryText: TextOf<typeof ScalableContextEntry> = {
  title: "Scalable-mode context entry",
  section: "§9.4",
  P: "Present",
  FPD: "Do not record faults",
  DTE: "Device TLB enabled",
  PASIDE: "Requests with PASID enabled",
  PRE: "Page requests enabled",
  HPTE: "Host permission table enabled",
  EPTR: "Translated requests with PASID enabled",
  PDTS: "Directory has 2^(PDTS + 7) entries",
  PASIDDIRPTR: "PASID directory, page frame",
  RID_PASID: "PASID of requests without PASID",
  RID_PRIV: "Requests without PASID are privileged",
};

/** The reserved bits of a present scalable-mode context-entry, eight words: fields of missing capabilities count. */
export function scalableContextEntryReserved(unit: UnitCapabilities): Int32Array {
  const { DTE, PASIDE, PRE, HPTE, EPTR, RID_PASID, RID_PRIV } = ScalableContextEntry.fields;
  const { DT, PASID, PRS, HPTS, PTRS, RPS, RPRIVS } = ECAP.fields;
  const absent = absentFields(unit.ecap, [
    [DT, DTE],
    [PASID, PASIDE],
    [PRS, PRE],
    [HPTS, HPTE],
    [PTRS, EPTR],
    [RPS, RID_PASID],
    [RPRIVS, RID_PRIV],
  ]);
  return reservedMask(ScalableContextEntry, unit.hostAddressWidth, absent);
}

/**
 * Registers of features that this unit never has: memory types, performance monitoring, enhanced and virtual commands,
 * resource director tags (§11.4.12 to §11.4.16).
 *
 * They read 0 and ignore writes. The tables are here for documentation and for decoding dumps of other units. The
 * register windows of performance monitoring have no fixed place and are not listed.
 */
import { layout, reserved, ro, rw, rw1c, type TextOf, wo } from "@iommu-kit/iommu-core";

/** Memory type range registers, capability. Mirrors the processor's. */
export const MTRRCAP = layout(64, {
  VCNT: ro(7, 0),
  FIX: ro(8),
  _9: reserved(9),
  WC: ro(10),
  _11: reserved(63, 11),
});

/** Meanings of `MTRRCAP`. */
export const MTRRCAPText: TextOf<typeof MTRRCAP> = {
  title: "Memory type range capability",
  section: "§11.4.12",
  VCNT: "Number of variable ranges",
  FIX: "Fixed ranges",
  WC: "Write combining",
};

/** Default memory type. */
export const MTRRDEF = layout(64, {
  TYPE: rw(7, 0),
  _8: reserved(9, 8),
  FE: rw(10),
  E: rw(11),
  _12: reserved(63, 12),
});

/** Meanings of `MTRRDEF`. */
export const MTRRDEFText: TextOf<typeof MTRRDEF> = {
  title: "Default memory type",
  section: "§11.4.12",
  TYPE: "Default type",
  FE: "Fixed ranges enabled",
  E: "Ranges enabled; else everything is uncacheable",
};

/** Fixed-range memory types: eight ranges of one size. */
export const MTRRFIX = layout(64, {
  R0: rw(7, 0),
  R1: rw(15, 8),
  R2: rw(23, 16),
  R3: rw(31, 24),
  R4: rw(39, 32),
  R5: rw(47, 40),
  R6: rw(55, 48),
  R7: rw(63, 56),
});

/** Meanings of `MTRRFIX`. */
export const MTRRFIXText: TextOf<typeof MTRRFIX> = {
  title: "Fixed-range memory types",
  section: "§11.4.12",
  R0: "Type of the first eighth",
  R1: "Type of the second eighth",
  R2: "Type of the third eighth",
  R3: "Type of the fourth eighth",
  R4: "Type of the fifth eighth",
  R5: "Type of the sixth eighth",
  R6: "Type of the seventh eighth",
  R7: "Type of the last eighth",
};

/** Variable range, base. */
export const MTRRPHYSBASE = layout(64, { TYPE: rw(7, 0), _8: reserved(11, 8), BASE: rw(63, 12) });

/** Meanings of `MTRRPHYSBASE`. */
export const MTRRPHYSBASEText: TextOf<typeof MTRRPHYSBASE> = {
  title: "Variable memory range base",
  section: "§11.4.12",
  TYPE: "Type of the range",
  BASE: "First page frame",
};

/** Variable range, mask. */
export const MTRRPHYSMASK = layout(64, { _0: reserved(10, 0), V: rw(11), MASK: rw(63, 12) });

/** Meanings of `MTRRPHYSMASK`. */
export const MTRRPHYSMASKText: TextOf<typeof MTRRPHYSMASK> = {
  title: "Variable memory range mask",
  section: "§11.4.12",
  V: "The range is valid",
  MASK: "Frame bits that count",
};

/** Performance monitoring capability. */
export const PERFCAP = layout(64, {
  NCNTR: ro(15, 0),
  CW: ro(22, 16),
  _23: reserved(23),
  EGCNT: ro(28, 24),
  _29: reserved(31, 29),
  RIDFS: ro(32),
  DIDFS: ro(33),
  PASIDFS: ro(34),
  ATFS: ro(35),
  PTLFS: ro(36),
  _37: reserved(47, 37),
  CWE: ro(48),
  GFS: ro(49),
  IOS: ro(50),
  PCCS: ro(51),
  CS: ro(54, 52),
  _55: reserved(59, 55),
  ONES: ro(63, 60),
});

/** Meanings of `PERFCAP`. */
export const PERFCAPText: TextOf<typeof PERFCAP> = {
  title: "Performance monitoring capability",
  section: "§11.4.13",
  NCNTR: "Number of counters",
  CW: "Counter width",
  EGCNT: "Number of event groups",
  RIDFS: "Requester filter",
  DIDFS: "Domain-id filter",
  PASIDFS: "PASID filter",
  ATFS: "Address-type filter",
  PTLFS: "Table-level filter",
  CWE: "Counters are writable while enabled",
  GFS: "Freeze on overflow",
  IOS: "Interrupt on overflow",
  PCCS: "Capabilities per counter",
  CS: "Counter stride is 2^(CS + 10)",
  ONES: "All ones where the block exists",
};

/** Where a window of performance registers lies: PERFCFGOFF, PERFFRZOFF, PERFOVFOFF, PERFCNTROFF. */
export const PERFOFF = layout(32, { OFF: ro(31, 0) });

/** Meanings of `PERFOFF`. */
export const PERFOFFText: TextOf<typeof PERFOFF> = {
  title: "Performance register window offset",
  section: "§11.4.13",
  OFF: "Bytes from the base of the registers",
};

/** Performance interrupt status. */
export const PERFINTRSTS = layout(32, { PIS: rw1c(0), _1: reserved(31, 1) });

/** Meanings of `PERFINTRSTS`. */
export const PERFINTRSTSText: TextOf<typeof PERFINTRSTS> = {
  title: "Performance interrupt status",
  section: "§11.4.13",
  PIS: "A counter overflowed",
};

/** Events of one group, 8 bytes each. */
export const PERFEVNTCAP = layout(64, { ES: ro(27, 0), _28: reserved(63, 28) });

/** Meanings of `PERFEVNTCAP`. */
export const PERFEVNTCAPText: TextOf<typeof PERFEVNTCAP> = {
  title: "Performance event capability",
  section: "§11.4.13",
  ES: "Events supported, one bit each",
};

/** Enhanced command. */
export const ECMD = layout(64, { CMD: wo(7, 0), _8: reserved(15, 8), OA: wo(63, 16) });

/** Meanings of `ECMD`. */
export const ECMDText: TextOf<typeof ECMD> = {
  title: "Enhanced command",
  section: "§11.4.14.1",
  CMD: "Command",
  OA: "Operand A",
};

/** Enhanced command, operand B. */
export const ECEO = layout(64, { OB_LO: wo(31, 0), OB_HI: wo(63, 32) });

/** Meanings of `ECEO`. */
export const ECEOText: TextOf<typeof ECEO> = {
  title: "Enhanced command operand",
  section: "§11.4.14.2",
  OB_LO: "Operand B, low half",
  OB_HI: "Operand B, high half",
};

/** Enhanced command response. */
export const ECRSP = layout(64, { IP: ro(0), SC: ro(7, 1), _8: reserved(15, 8), RES: ro(63, 16) });

/** Meanings of `ECRSP`. */
export const ECRSPText: TextOf<typeof ECRSP> = {
  title: "Enhanced command response",
  section: "§11.4.14.3",
  IP: "In progress",
  SC: "Status: 0 done, 1 unknown, 2 aborted, others by command",
  RES: "Result",
};

/** Enhanced command status 0 and 1, and capabilities 0 to 2: no bit is defined. */
export const ECRESERVED = layout(64, { _0: reserved(63, 0) });

/** Meanings of `ECRESERVED`. */
export const ECRESERVEDText: TextOf<typeof ECRESERVED> = {
  title: "Enhanced command status and capability, no bit defined",
  section: "§11.4.14.4",
};

/** Enhanced command capability 3: bit k stands for command 192 + k. */
export const ECCAP3 = layout(64, {
  _0: reserved(47, 0),
  EC240: ro(48),
  EC241: ro(49),
  EC242: ro(50),
  EC243: ro(51),
  EC244: ro(52),
  EC245: ro(53),
  _54: reserved(63, 54),
});

/** Meanings of `ECCAP3`. */
export const ECCAP3Text: TextOf<typeof ECCAP3> = {
  title: "Enhanced command capability",
  section: "§11.4.14.5",
  EC240: "Enable a counter",
  EC241: "Disable a counter",
  EC242: "Reset all configurations",
  EC243: "Reset all values",
  EC244: "Freeze all counters",
  EC245: "Unfreeze all counters",
};

/** Resource director tags. */
export const RDTC = layout(64, {
  RMID: rw(11, 0),
  _12: reserved(31, 12),
  CLOS: rw(36, 32),
  _37: reserved(63, 37),
});

/** Meanings of `RDTC`. */
export const RDTCText: TextOf<typeof RDTC> = {
  title: "Resource director tags",
  section: "§11.4.15",
  RMID: "Monitoring id",
  CLOS: "Class of service",
};

/** Virtual command. */
export const VCMD = layout(64, { CMD: rw(7, 0), _8: reserved(15, 8), OA: rw(63, 16) });

/** Meanings of `VCMD`. */
export const VCMDText: TextOf<typeof VCMD> = {
  title: "Virtual command",
  section: "§11.4.16.1",
  CMD: "Command: 0 none, 1 allocate a PASID, 2 free one",
  OA: "Operand A",
};

/** Virtual command, operand B. */
export const VCMDEO = layout(64, { OB_LO: rw(31, 0), OB_HI: rw(63, 32) });

/** Meanings of `VCMDEO`. */
export const VCMDEOText: TextOf<typeof VCMDEO> = {
  title: "Virtual command operand",
  section: "§11.4.16.2",
  OB_LO: "Operand B, low half",
  OB_HI: "Operand B, high half",
};

/** Virtual command response. */
export const VCRSP = layout(64, { IP: ro(0), SC: ro(7, 1), _8: reserved(15, 8), RSLT: ro(63, 16) });

/** Meanings of `VCRSP`. */
export const VCRSPText: TextOf<typeof VCRSP> = {
  title: "Virtual command response",
  section: "§11.4.16.3",
  IP: "In progress",
  SC: "Status: 0 done, 1 unknown, 16 no such PASID",
  RSLT: "Result",
};

/** Virtual command capability. */
export const VCCAP = layout(64, { NS: ro(0), PAS: ro(1), FPS: ro(2), _3: reserved(63, 3) });

/** Meanings of `VCCAP`. */
export const VCCAPText: TextOf<typeof VCCAP> = {
  title: "Virtual command capability",
  section: "§11.4.16.4",
  NS: "Null command",
  PAS: "PASID allocation",
  FPS: "PASID release",
};

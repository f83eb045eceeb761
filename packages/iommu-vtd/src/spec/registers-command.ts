/**
 * The registers that set a unit up and switch it: commands and status, table pointers, protected memory
 * (§11.4.4, §11.4.5, §11.4.8, §11.4.10).
 *
 * A pointer written to RTADDR or IRTA takes effect only with the command SRTP or SIRTP.
 */
import { layout, reserved, ro, rw, type TextOf, wo } from "@iommu-kit/iommu-core";

/** Global command register. Reads 0. TE, QIE, IRE and CFI are levels; the others act once per write of 1. */
export const GCMD = layout(32, {
  _0: reserved(22, 0),
  CFI: wo(23),
  SIRTP: wo(24),
  IRE: wo(25),
  QIE: wo(26),
  WBF: wo(27),
  _28: reserved(29, 28),
  SRTP: wo(30),
  TE: wo(31),
});

/** Meanings of `GCMD`. */
export const GCMDText: TextOf<typeof GCMD> = {
  title: "Global command",
  section: "§11.4.4.1",
  CFI: "Let compatibility-format interrupts pass",
  SIRTP: "Latch the interrupt table pointer",
  IRE: "Enable interrupt remapping",
  QIE: "Enable the invalidation queue",
  WBF: "Flush write buffers",
  SRTP: "Latch the root table pointer",
  TE: "Enable DMA translation",
};

/** Global status register: each bit reports the GCMD bit at the same place. */
export const GSTS = layout(32, {
  _0: reserved(22, 0),
  CFIS: ro(23),
  IRTPS: ro(24),
  IRES: ro(25),
  QIES: ro(26),
  WBFS: ro(27),
  _28: reserved(29, 28),
  RTPS: ro(30),
  TES: ro(31),
});

/** Meanings of `GSTS`. */
export const GSTSText: TextOf<typeof GSTS> = {
  title: "Global status",
  section: "§11.4.4.2",
  CFIS: "Compatibility-format interrupts pass",
  IRTPS: "Interrupt table pointer latched",
  IRES: "Interrupt remapping enabled",
  QIES: "Invalidation queue enabled",
  WBFS: "Write-buffer flush pending",
  RTPS: "Root table pointer latched",
  TES: "DMA translation enabled",
};

/** Root table address register. */
export const RTADDR = layout(64, {
  _0: reserved(6, 0),
  SSIRWE: rw(7),
  _8: reserved(9, 8),
  TTM: rw(11, 10),
  RTA: rw(63, 12),
});

/** Meanings of `RTADDR`. */
export const RTADDRText: TextOf<typeof RTADDR> = {
  title: "Root table address",
  section: "§11.4.5",
  SSIRWE: "Second-stage rights come from bits 61 and 62",
  TTM: "Translation table mode",
  RTA: "Root table, page frame",
};

/** Interrupt remapping table address register. The table has 2^(S + 1) entries. */
export const IRTA = layout(64, { S: rw(3, 0), _4: reserved(10, 4), EIME: rw(11), IRTA: rw(63, 12) });

/** Meanings of `IRTA`. */
export const IRTAText: TextOf<typeof IRTA> = {
  title: "Interrupt remapping table address",
  section: "§11.4.10",
  S: "log2 of the number of entries - 1",
  EIME: "32-bit destinations",
  IRTA: "Interrupt remapping table, page frame",
};

/** Protected memory enable register. */
export const PMEN = layout(32, { PRS: ro(0), _1: reserved(30, 1), EPM: rw(31) });

/** Meanings of `PMEN`. */
export const PMENText: TextOf<typeof PMEN> = {
  title: "Protected memory enable",
  section: "§11.4.8.1",
  PRS: "Regions are protected",
  EPM: "Protect the regions",
};

/**
 * Protected low memory base and limit. The granularity is 2 MiB: the bits below read 0, and count as ones in the
 * limit, so equal values protect one block.
 */
export const PLM = layout(32, { _0: reserved(20, 0), PLM: rw(31, 21) });

/** Meanings of `PLM`. */
export const PLMText: TextOf<typeof PLM> = {
  title: "Protected low memory base and limit",
  section: "§11.4.8.2",
  PLM: "First or last protected 2 MiB block",
};

/** Protected high memory base and limit, granularity 2 MiB as for `PLM`. */
export const PHM = layout(64, { _0: reserved(20, 0), PHM: rw(63, 21) });

/** Meanings of `PHM`. */
export const PHMText: TextOf<typeof PHM> = {
  title: "Protected high memory base and limit",
  section: "§11.4.8.4",
  PHM: "First or last protected 2 MiB block",
};

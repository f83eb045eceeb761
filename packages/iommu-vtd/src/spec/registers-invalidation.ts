/**
 * The invalidation registers: the register-based commands of legacy mode (§11.4.6) and the queue (§11.4.9).
 *
 * IVA and IOTLB lie at ECAP.IRO * 16. A command starts with the write that covers its top byte.
 */
import { layout, reserved, ro, ros, rw, rw1cs, type TextOf, wo } from "@iommu-kit/iommu-core";

/** Context command register: invalidates the context cache. */
export const CCMD = layout(64, {
  DID: rw(15, 0),
  SID: wo(31, 16),
  FM: wo(33, 32),
  _34: reserved(58, 34),
  CAIG: ro(60, 59),
  CIRG: rw(62, 61),
  ICC: rw(63),
});

/** Meanings of `CCMD`. */
export const CCMDText: TextOf<typeof CCMD> = {
  title: "Context command",
  section: "§11.4.6.1",
  DID: "Domain-id",
  SID: "Source-id",
  FM: "Source-id bits to ignore (FUNCTION_MASK)",
  CAIG: "Granularity that was done",
  CIRG: "Granularity asked for",
  ICC: "Start; 0 when done",
};

/** IOTLB invalidate register, at IRO + 8. */
export const IOTLB = layout(64, {
  _0: reserved(31, 0),
  DID: rw(47, 32),
  DW: rw(48),
  DR: rw(49),
  _50: reserved(56, 50),
  IAIG: ro(58, 57),
  _59: reserved(59),
  IIRG: rw(61, 60),
  _62: reserved(62),
  IVT: rw(63),
});

/** Meanings of `IOTLB`. */
export const IOTLBText: TextOf<typeof IOTLB> = {
  title: "IOTLB invalidate",
  section: "§11.4.6.3",
  DID: "Domain-id",
  DW: "Drain writes",
  DR: "Drain reads",
  IAIG: "Granularity that was done",
  IIRG: "Granularity asked for",
  IVT: "Start; 0 when done",
};

/** Invalidate address register, at IRO. */
export const IVA = layout(64, { AM: wo(5, 0), IH: wo(6), _7: reserved(11, 7), ADDR: wo(63, 12) });

/** Meanings of `IVA`. */
export const IVAText: TextOf<typeof IVA> = {
  title: "Invalidate address",
  section: "§11.4.6.4",
  AM: "log2 of the number of pages",
  IH: "Non-leaf entries did not change",
  ADDR: "Page frame; the low AM bits are ignored",
};

/** Queue head: byte offset / 16 of the next descriptor to fetch. */
export const IQH = layout(64, { _0: reserved(3, 0), QH: ro(18, 4), _19: reserved(63, 19) });

/** Meanings of `IQH`. */
export const IQHText: TextOf<typeof IQH> = {
  title: "Invalidation queue head",
  section: "§11.4.9.1",
  QH: "Next descriptor to fetch, offset / 16",
};

/** Queue tail: byte offset / 16 behind the last descriptor. */
export const IQT = layout(64, { _0: reserved(3, 0), QT: rw(18, 4), _19: reserved(63, 19) });

/** Meanings of `IQT`. */
export const IQTText: TextOf<typeof IQT> = {
  title: "Invalidation queue tail",
  section: "§11.4.9.2",
  QT: "Behind the last descriptor, offset / 16",
};

/** Queue address: 2^QS pages of 128-bit (DW = 0) or 256-bit descriptors. */
export const IQA = layout(64, { QS: rw(2, 0), _3: reserved(10, 3), DW: rw(11), IQA: rw(63, 12) });

/** Meanings of `IQA`. */
export const IQAText: TextOf<typeof IQA> = {
  title: "Invalidation queue address",
  section: "§11.4.9.3",
  QS: "log2 of the queue's pages",
  DW: "256-bit descriptors",
  IQA: "Queue, page frame",
};

/** Invalidation completion status. */
export const ICS = layout(32, { IWC: rw1cs(0), _1: reserved(31, 1) });

/** Meanings of `ICS`. */
export const ICSText: TextOf<typeof ICS> = {
  title: "Invalidation completion status",
  section: "§11.4.9.4",
  IWC: "A wait with interrupt completed",
};

/** Invalidation queue error record. Each field is valid while its FSTS bit is set. */
export const IQERCD = layout(64, {
  IQEI: ros(3, 0),
  _4: reserved(31, 4),
  ITESID: ros(47, 32),
  ICESID: ros(63, 48),
});

/** Meanings of `IQERCD`. */
export const IQERCDText: TextOf<typeof IQERCD> = {
  title: "Invalidation queue error record",
  section: "§11.4.9.9",
  IQEI: "Cause of the queue error",
  ITESID: "Requester that timed out",
  ICESID: "Requester of the unexpected completion",
};

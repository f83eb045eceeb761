/**
 * The registers that report to software: faults, page requests, and the message-signalled events of the unit
 * (§11.4.7, §11.4.9.4 to §11.4.9.8, §11.4.11).
 *
 * Fault, invalidation and page-request events have one control register and one message each, of the same shape.
 */
import { layout, reserved, ro, ros, rw, rw1cs, type TextOf } from "@iommu-kit/iommu-core";

/** Fault status register. */
export const FSTS = layout(32, {
  PFO: rw1cs(0),
  PPF: ros(1),
  _2: reserved(3, 2),
  IQE: rw1cs(4),
  ICE: rw1cs(5),
  ITE: rw1cs(6),
  _7: reserved(7),
  FRI: ros(15, 8),
  _16: reserved(31, 16),
});

/** Meanings of `FSTS`. */
export const FSTSText: TextOf<typeof FSTS> = {
  title: "Fault status",
  section: "§11.4.7.1",
  PFO: "A fault was lost: its record was in use",
  PPF: "Some record holds a fault",
  IQE: "Invalidation queue error",
  ICE: "Unexpected device-TLB completion",
  ITE: "Device-TLB invalidation timed out",
  FRI: "First record to read while PPF is set",
};

/** Event control: FECTL, IECTL, PECTL. Resets masked. */
export const EventControl = layout(32, { _0: reserved(29, 0), IP: ro(30), IM: rw(31, 31, 1) });

/** Meanings of `EventControl`. */
export const EventControlText: TextOf<typeof EventControl> = {
  title: "Event control",
  section: "§11.4.7.2",
  IP: "A message waits to be sent",
  IM: "Messages are masked",
};

/** Event message data: FEDATA, IEDATA, PEDATA. Hardware looks at the vector and the low bit of the delivery mode. */
export const EventData = layout(32, { IMD: rw(15, 0), _16: reserved(31, 16) });

/** Meanings of `EventData`. */
export const EventDataText: TextOf<typeof EventData> = {
  title: "Event data",
  section: "§11.4.7.3",
  IMD: "Message data",
};

/** Event message address: FEADDR, IEADDR, PEADDR. */
export const EventAddress = layout(32, { _0: reserved(1, 0), MA: rw(31, 2) });

/** Meanings of `EventAddress`. */
export const EventAddressText: TextOf<typeof EventAddress> = {
  title: "Event address",
  section: "§11.4.7.4",
  MA: "Message address / 4",
};

/** Event message upper address: FEUADDR, IEUADDR, PEUADDR. Holds destination bits 31:8 in its bits 31:8. */
export const EventUpperAddress = layout(32, { MUA: rw(31, 0) });

/** Meanings of `EventUpperAddress`. */
export const EventUpperAddressText: TextOf<typeof EventUpperAddress> = {
  title: "Event upper address",
  section: "§11.4.7.5",
  MUA: "Message address bits 63:32",
};

/** Fault recording register, 16 bytes, the first at CAP.FRO * 16. Only F can be written. */
export const FRCD = layout(128, {
  _0: reserved(11, 0),
  FI: ros(63, 12),
  SID: ros(79, 64),
  _80: reserved(91, 80),
  T2: ros(92),
  PRIV: ros(93),
  EXE: ros(94),
  PP: ros(95),
  FR: ros(103, 96),
  PV: ros(123, 104),
  AT: ros(125, 124),
  T1: ros(126),
  F: rw1cs(127),
});

/** Meanings of `FRCD`. */
export const FRCDText: TextOf<typeof FRCD> = {
  title: "Fault recording",
  section: "§11.4.7.6",
  FI: "Page frame of the request; interrupt index in its top 16 bits",
  SID: "Requester",
  T2: "Request type, low bit",
  PRIV: "Privileged request",
  EXE: "Execute request",
  PP: "The request has a PASID",
  FR: "Fault reason",
  PV: "PASID",
  AT: "Address type of the request",
  T1: "Request type, high bit",
  F: "The record is valid",
};

/** What {T1, T2} of a fault record say, as the number 2 * T1 + T2 (§11.4.7.6). */
export const FaultRequestType = { WRITE: 0, PAGE_REQUEST: 1, READ: 2, ATOMIC: 3 } as const;
/** A value of `FaultRequestType`. */
export type FaultRequestType = (typeof FaultRequestType)[keyof typeof FaultRequestType];

/**
 * The value of FRCD.FI for an interrupt fault: the index (0 to 65535) in address bits 63:48.
 * Reasons without a valid index record index 0.
 */
export function interruptFaultInformation(interruptIndex: number): number {
  return interruptIndex * 2 ** 36;
}

/** Page request queue head: byte offset / 32 of software's next descriptor. */
export const PQH = layout(64, { _0: reserved(4, 0), PQH: rw(18, 5), _19: reserved(63, 19) });

/** Meanings of `PQH`. */
export const PQHText: TextOf<typeof PQH> = {
  title: "Page request queue head",
  section: "§11.4.11.1",
  PQH: "Next descriptor to read, offset / 32",
};

/** Page request queue tail: byte offset / 32 behind the last descriptor. */
export const PQT = layout(64, { _0: reserved(4, 0), PQT: rw(18, 5), _19: reserved(63, 19) });

/** Meanings of `PQT`. */
export const PQTText: TextOf<typeof PQT> = {
  title: "Page request queue tail",
  section: "§11.4.11.2",
  PQT: "Behind the last descriptor, offset / 32",
};

/** Page request queue address: 2^PQS pages, so 2^(PQS + 7) descriptors. */
export const PQA = layout(64, { PQS: rw(2, 0), _3: reserved(11, 3), PQA: rw(63, 12) });

/** Meanings of `PQA`. */
export const PQAText: TextOf<typeof PQA> = {
  title: "Page request queue address",
  section: "§11.4.11.3",
  PQS: "log2 of the queue's pages",
  PQA: "Queue, page frame",
};

/** Page request status. */
export const PRS = layout(32, { PPR: rw1cs(0), PRO: rw1cs(1), _2: reserved(31, 2) });

/** Meanings of `PRS`. */
export const PRSText: TextOf<typeof PRS> = {
  title: "Page request status",
  section: "§11.4.11.4",
  PPR: "A page request was queued",
  PRO: "The queue was full",
};

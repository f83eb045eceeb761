/**
 * Why a request is refused: every condition of Table 30 (§7.1.3) and of interrupt remapping (§5.1.4.1).
 *
 * A reason is a number: its low 8 bits are the architected code that a fault record shows in FR, the bits above tell
 * conditions of one code apart (LCT.4.1, LCT.4.2 ...). Whether it is recorded, and what a translation request or a
 * translated request is answered, depend on the code alone.
 */

/** The conditions by mnemonic (`LRT_2` is LRT.2); the specification gives interrupt codes no mnemonic, so they are named here. */
export const FaultReason = {
  LRT_2: 0x01,
  LCT_2: 0x02,
  LCT_4_1: 0x103,
  LCT_4_2: 0x203,
  LCT_4_3: 0x303,
  LGN_1_1: 0x104,
  LGN_1_2: 0x204,
  LGN_1_3: 0x304,
  LGN_2: 0x05,
  LGN_3: 0x06,
  LSS_1: 0x07,
  LRT_1: 0x08,
  LCT_1: 0x09,
  LRT_3: 0x0a,
  LCT_3: 0x0b,
  LSS_2: 0x0c,
  LCT_5: 0x0d,
  LGN_4: 0x0e,
  INTERRUPT_REQUEST_RESERVED: 0x20,
  INTERRUPT_INDEX: 0x21,
  INTERRUPT_NOT_PRESENT: 0x22,
  INTERRUPT_ENTRY_ACCESS: 0x23,
  INTERRUPT_ENTRY_RESERVED: 0x24,
  INTERRUPT_COMPATIBILITY: 0x25,
  INTERRUPT_SOURCE: 0x26,
  INTERRUPT_POSTED_ACCESS: 0x27,
  INTERRUPT_POSTED_RESERVED: 0x28,
  INTERRUPT_MALFORMED: 0x29,
  INTERRUPT_EXTENDED_REQUIRED: 0x2a,
  INTERRUPT_REMAPPING_REQUIRED: 0x2b,
  RTA_1_1: 0x130,
  RTA_1_2: 0x230,
  RTA_1_3: 0x330,
  RTA_1_4: 0x430,
  RTA_2: 0x31,
  RTA_3: 0x32,
  RTA_4: 0x33,
  RTA_5: 0x34,
  SRT_1: 0x38,
  SRT_2: 0x39,
  SRT_3: 0x3a,
  SCT_1: 0x40,
  SCT_2: 0x41,
  SCT_3: 0x42,
  SCT_4_1: 0x143,
  SCT_4_2: 0x243,
  SCT_4_3: 0x343,
  SCT_5: 0x44,
  SCT_6: 0x45,
  SCT_7: 0x46,
  SCT_8: 0x47,
  SCT_9: 0x48,
  SCT_10: 0x49,
  SPD_1: 0x50,
  SPD_2: 0x51,
  SPD_3: 0x52,
  SPT_1: 0x58,
  SPT_2: 0x59,
  SPT_3: 0x5a,
  SPT_4_1: 0x15b,
  SPT_4_2: 0x25b,
  SPT_4_3: 0x35b,
  SPT_4_4: 0x45b,
  SPT_5: 0x5c,
  SPT_6: 0x5d,
  SPT_9: 0x60,
  SFS_1: 0x70,
  SFS_2: 0x71,
  SFS_3: 0x72,
  SFS_4: 0x73,
  SFS_5: 0x74,
  SFS_6: 0x75,
  SFS_7: 0x76,
  SFS_8: 0x77,
  SSS_1: 0x78,
  SSS_2: 0x79,
  SSS_3: 0x7a,
  SSS_4: 0x7b,
  SSS_5: 0x7c,
  SSS_6: 0x7d,
  SGN_1: 0x80,
  SGN_2: 0x81,
  SGN_3: 0x82,
  SGN_4_1: 0x183,
  SGN_4_2: 0x283,
  SGN_5: 0x84,
  SGN_6: 0x85,
  SGN_7: 0x86,
  SGN_8_1: 0x187,
  SGN_8_2: 0x287,
  SGN_8_3: 0x387,
  SGN_10: 0x89,
  SFS_9: 0x90,
  SFS_10: 0x91,
  HPT_1: 0xa0,
  HPT_2: 0xa1,
  HPT_3: 0xa2,
  HPT_4: 0xa3,
  HPT_5: 0xa4,
  HPT_6: 0xa5,
} as const;
/** A condition: one of the values of `FaultReason`. */
export type FaultReason = (typeof FaultReason)[keyof typeof FaultReason];

/** What the requester of a translation (AT = 1) or of a translated request (AT = 2) is answered (§7.1.3). */
export const FaultAnswer = {
  /** Completer abort; the fault is recorded. */
  COMPLETER_ABORT: 0,
  /** Unsupported request; the fault is recorded. */
  UNSUPPORTED_REQUEST: 1,
  /** Success without any permission; nothing is recorded, except for SFS.10. */
  NO_PERMISSION: 2,
  /** Success with the permissions that remain; nothing is recorded. */
  REMAINING_PERMISSIONS: 3,
} as const;
/** A value of `FaultAnswer`. */
export type FaultAnswer = (typeof FaultAnswer)[keyof typeof FaultAnswer];

// One byte per code: the answer to a translation request (bits 1:0), to a translated request (bit 2: completer abort),
// and whether the fault is recorded even where FPD is set (bit 3).
const traits = new Uint8Array(256);
const mark = (flag: number, ...codes: number[]): void => {
  for (const code of codes) traits[code] = (traits[code] ?? 0) | flag;
};
const UNQUALIFIED = 8;
const TRANSLATED_ABORT = 4;
mark(FaultAnswer.UNSUPPORTED_REQUEST, 0x01, 0x02, 0x0d, 0x31, 0x33, 0x34, 0x39, 0x41, 0x44, 0x45, 0x46, 0x48, 0x89);
mark(FaultAnswer.NO_PERMISSION, 0x04, 0x51, 0x59, 0x5c, 0x5d, 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x79);
mark(FaultAnswer.NO_PERMISSION, 0x80, 0x81, 0x82, 0x83, 0x84, 0x90, 0x91);
mark(FaultAnswer.REMAINING_PERMISSIONS, 0x05, 0x06, 0x85, 0x86);
mark(TRANSLATED_ABORT, 0x50, 0x52, 0x58, 0x5a, 0x5b, 0xa0, 0xa1, 0xa2);
mark(UNQUALIFIED, 0x01, 0x08, 0x09, 0x0a, 0x30, 0x31, 0x32, 0x33, 0x34, 0x38, 0x39, 0x3a, 0x40, 0x50, 0x58);
mark(UNQUALIFIED, 0x20, 0x21, 0x23, 0x25, 0x29, 0x2a, 0x2b);

/** The architected code of a reason, as FR of a fault record shows it (0 to 255). */
export function faultCode(reason: number): number {
  return reason & 0xff;
}

/** Whether FPD of an entry that was read on the way keeps the fault from being recorded (§7.1.3). */
export function isQualified(reason: number): boolean {
  return (traitsOf(reason) & UNQUALIFIED) === 0;
}

/** What a translation request is answered. */
export function answerToTranslationRequest(reason: number): FaultAnswer {
  return (traitsOf(reason) & 3) as FaultAnswer;
}

/** What a translated request is answered. */
export function answerToTranslatedRequest(reason: number): FaultAnswer {
  return traitsOf(reason) & TRANSLATED_ABORT ? FaultAnswer.COMPLETER_ABORT : FaultAnswer.UNSUPPORTED_REQUEST;
}

/** Whether a translation request that meets the condition goes unrecorded: the device can ask again (§7.1.3). */
export function isRecoverable(reason: number): boolean {
  return answerToTranslationRequest(reason) >= FaultAnswer.NO_PERMISSION && reason !== FaultReason.SFS_10;
}

function traitsOf(reason: number): number {
  return traits[faultCode(reason)] ?? 0;
}

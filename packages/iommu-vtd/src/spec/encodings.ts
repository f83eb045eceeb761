/**
 * Encodings that more than one structure uses. Values outside them are legal numbers that take the reserved path.
 */

/** Translation table mode, RTADDR.TTM (§11.4.5). 2 is reserved. */
export const TableMode = { LEGACY: 0, SCALABLE: 1, ABORT: 3 } as const;
/** A value of `TableMode`. */
export type TableMode = (typeof TableMode)[keyof typeof TableMode];

/** Translation type of a legacy context-entry, TT (§9.3). 3 is reserved. */
export const TranslationType = {
  /** Untranslated requests go through the second stage; others are blocked. */
  UNTRANSLATED: 0,
  /** The same, and device TLBs may ask and send translated requests. */
  DEVICE_TLB: 1,
  /** Untranslated requests pass; others are blocked. */
  PASS_THROUGH: 2,
} as const;
/** A value of `TranslationType`. */
export type TranslationType = (typeof TranslationType)[keyof typeof TranslationType];

/** Translation type of a PASID-table entry, PGTT (§9.6). 0 and 5 to 7 are reserved. */
export const PasidTranslationType = { FIRST_STAGE: 1, SECOND_STAGE: 2, NESTED: 3, PASS_THROUGH: 4 } as const;
/** A value of `PasidTranslationType`. */
export type PasidTranslationType = (typeof PasidTranslationType)[keyof typeof PasidTranslationType];

/** First-stage paging mode, FSPM (§9.6). 2 and 3 are reserved. */
export const FirstStageMode = { FOUR_LEVEL: 0, FIVE_LEVEL: 1 } as const;
/** A value of `FirstStageMode`. */
export type FirstStageMode = (typeof FirstStageMode)[keyof typeof FirstStageMode];

/** Address type of a request, AT (§11.4.7.6). 3 is malformed. */
export const AddressType = { UNTRANSLATED: 0, TRANSLATION_REQUEST: 1, TRANSLATED: 2 } as const;
/** A value of `AddressType`. */
export type AddressType = (typeof AddressType)[keyof typeof AddressType];

/** Levels of second-stage tables for an address width AW of 1, 2 or 3: 3, 4 or 5 (§9.3). */
export function levelsOf(aw: number): number {
  return aw + 2;
}

/** Input bits that second-stage tables of an address width AW of 1, 2 or 3 cover: 39, 48 or 57 (§9.3). */
export function addressBitsOf(aw: number): number {
  return 30 + 9 * aw;
}

/** Whether an address width AW (0 to 7) is legal for a unit with this CAP.SAGAW (§11.4.2). */
export function supportsAddressWidth(sagaw: number, aw: number): boolean {
  return aw >= 1 && aw <= 3 && (sagaw & (1 << aw)) !== 0;
}

/** The widest AW (1 to 3) that this CAP.SAGAW offers, 0 if none; pass-through context-entries must name it (§9.3). */
export function widestAddressWidth(sagaw: number): number {
  let aw = 3;
  while (aw > 0 && !supportsAddressWidth(sagaw, aw)) aw--;
  return aw;
}

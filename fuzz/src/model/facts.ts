/**
 * What the models know of a unit, and how they see memory. Bit numbers are written out in this folder once more, on purpose: it shares no code with the unit.
 */

import type { UnitPlan } from "../step.js";

/** The 64-bit word at a byte address, or `undefined` where there is no memory. */
export type Read = (gpa: bigint) => bigint | undefined;

/** What the driver has latched, and what the host has said. */
export interface Latched {
  readonly enabled: boolean;
  /** TTM: 0 legacy, 1 scalable, 2 reserved, 3 abort. */
  readonly mode: number;
  readonly rootPfn: number;
  /** [first frame, frames] that no request may reach. */
  readonly protected: readonly (readonly [number, number])[];
  /** [first frame, frames] that bypass maps onto itself. */
  readonly regions: readonly (readonly [number, number])[];
}

/** A request. */
export interface ModelRequest {
  readonly source: number;
  readonly pasid: number | undefined;
  readonly privileged: boolean;
  readonly pfn: bigint;
  /** 0: zero-length read. */
  readonly access: number;
}

/** Where it goes, or the architected code of the fault. */
export interface ModelAnswer {
  /** 0: translated. -6: protected memory, which has no code. */
  readonly code: number;
  readonly recorded: boolean;
  readonly gpaPfn: number;
  readonly access: number;
  /** Accessed and dirty flags that are set on the way: [byte address, word]. */
  readonly flags: readonly (readonly [bigint, bigint])[];
}

/** What the walks have in common. */
export interface ModelContext {
  readonly unit: UnitPlan;
  readonly read: Read;
  /** Whether accessed and dirty flags are kept. Not when the question is what a device can reach. */
  readonly flags: boolean;
}

/** A refusal on its way out. */
export class Refused extends Error {
  readonly code: number;
  /** Not recorded where the context says that faults are disabled. */
  readonly qualified: boolean;

  constructor(code: number, qualified = true) {
    super(`code ${code.toString(16)}`);
    this.code = code;
    this.qualified = qualified;
  }
}

/** Bits hi..lo. */
export const bits = (value: bigint, hi: number, lo: number): bigint =>
  (value >> BigInt(lo)) & ((1n << BigInt(hi - lo + 1)) - 1n);

/** One bit. */
export const one = (value: bigint, at: number): boolean => bits(value, at, at) === 1n;

/** Whether a frame lies in the interrupt window. */
export const inWindow = (pfn: bigint): boolean => pfn >= 0xfee00n && pfn < 0xfef00n;

/** Whether an address field reaches above the host address width. */
export const tooWide = (word: bigint, unit: UnitPlan): boolean => word >> BigInt(unit.hostBits) !== 0n;

/** Whether a second-stage entry has a bit set that must be 0. */
export function secondStageReserved(unit: UnitPlan, value: bigint, level: number, leaf: boolean): boolean {
  if (bits(value, 51, 12) >> BigInt(unit.hostBits - 12) !== 0n || one(value, 62)) return true;
  if (level > 3 && one(value, 7)) return true;
  if (one(value, 11) && !(leaf && unit.snoopControl)) return true;
  if (level === 2 && leaf) return !unit.superpages.includes("2M") || bits(value, 20, 12) !== 0n;
  return level === 3 && leaf && (!unit.superpages.includes("1G") || bits(value, 29, 12) !== 0n);
}

/** Whether a first-stage entry has a bit set that must be 0. */
export function firstStageReserved(unit: UnitPlan, value: bigint, level: number): boolean {
  if (bits(value, 51, 12) >> BigInt(unit.hostBits - 12) !== 0n) return true;
  if (!one(value, 7) || level === 1) return false;
  if (level > 3 || (level === 3 && !unit.firstStage1G)) return true;
  return level === 3 ? bits(value, 29, 13) !== 0n : bits(value, 20, 13) !== 0n;
}

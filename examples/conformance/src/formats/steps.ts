/**
 * The steps of the case files, as they stand in JSON: arrays whose first element says what they are.
 */

/** How a DMA request ended on the oracle. */
export interface DmaOutcome {
  /** Target byte address, offset included. */
  readonly gpa?: string;
  /** Page mask of the mapping. */
  readonly mask?: string;
  /** Refused, with this reason. */
  readonly fault?: number;
  /** Refused and not recorded. */
  readonly blocked?: string;
  /** Passed unchanged. */
  readonly untranslated?: number;
  /** A message write, and what left the unit. */
  readonly msi?: readonly [string, string] | null;
}

/** What left the unit for a message. */
export interface MessageOutcome {
  readonly msi: readonly [string, string] | null;
}

/** One step of a case. */
export type CaseStep =
  | readonly ["M", string, ...string[]]
  | readonly ["W", string, number, string]
  | readonly ["R", string, number, string]
  | readonly ["D", string, "r" | "w", string, number, DmaOutcome, string?]
  | readonly ["F", string, string, string]
  | readonly ["X", string, ...string[]]
  | readonly ["I", string, string, string, MessageOutcome]
  | readonly ["N", string, "m" | "u", string, string, string, number]
  | readonly ["U", string, string, string]
  | readonly ["L", string, "+" | "-", string, string]
  | readonly ["V", string, ...(readonly [string, string, string, number])[]];

/** One case: a line of a case file. */
export interface Case {
  readonly id: number;
  readonly k?: string;
  readonly t?: readonly string[];
  readonly s: readonly CaseStep[];
  readonly qemu_abort?: number;
}

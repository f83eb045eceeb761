/**
 * Mnemonics of fault reasons, for events and messages: `"LCT.4.1"`.
 */

import { FaultReason } from "../spec/fault-reasons.js";

const names = new Map<number, string>();

/** The mnemonic of a reason, finer than its code; the code in hexadecimal where there is none. */
export function faultName(reason: number): string {
  if (names.size === 0)
    for (const [name, value] of Object.entries(FaultReason)) names.set(value, name.replaceAll("_", "."));
  return names.get(reason) ?? `0x${reason.toString(16)}`;
}

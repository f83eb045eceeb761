/**
 * Mnemonics of fault reasons, for events and messages: `"LCT.4.1"`.
 */

import { FaultReason } from "../spec/fault-reasons.js";

const names: ReadonlyMap<number, string> = new Map(
  Object.entries(FaultReason).map(([name, reason]) => [reason, name.replaceAll("_", ".")]),
);

/** The mnemonic of a reason, finer than its code; the code in hexadecimal where there is none. */
export function faultName(reason: number): string {
  return names.get(reason) ?? `0x${reason.toString(16)}`;
}

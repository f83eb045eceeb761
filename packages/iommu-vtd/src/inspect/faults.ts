/**
 * Fault records with the names of their reasons. A code may stand for several conditions; a record cannot tell them apart, the `fault` event can.
 */

import { formatSourceId } from "@iommu-kit/iommu-core";
import { faultTable } from "../spec/fault-texts.js";
import { FRCD } from "../spec/registers-event.js";
import type { Unit } from "../unit.js";

/** One fault recording register that has been written. */
export interface FaultInspection {
  /** Number of the record. */
  readonly index: number;
  /** F: software has not cleared it. */
  readonly pending: boolean;
  /** Such as `00:03.0`. */
  readonly sourceId: string;
  /** `null`: a request without PASID. */
  readonly pasid: number | null;
  /** Architected code. */
  readonly code: number;
  /** The conditions of that code: `"LCT.4.1, LCT.4.2"`. */
  readonly names: string;
  /** What was wrong, as a sentence. */
  readonly meaning: string;
  /** What was asked for, such as `read`. */
  readonly request: string;
  /** Input address, hexadecimal; of an interrupt fault the index. */
  readonly where: string;
}

const REQUESTS = ["write", "page request", "read", "atomic operation"];
const ADDRESS_TYPES = ["", "translation request, ", "translated ", "malformed "];
/** Codes 20h to 2Fh belong to interrupt remapping. */
const INTERRUPT_CODES = 2;

/** The newest record is the one in front of `next`; they are in the order of the registers. */
export function inspectFaults({ file, config }: Unit, most: number): FaultInspection[] {
  return faultsOf(file.words, file.wordOf("FRCD"), Math.min(config.faultRecords, most));
}

/** The records that have been written among `count` from a word of the block on. */
export function faultsOf(words: Int32Array, firstWord: number, count: number): FaultInspection[] {
  const faults: FaultInspection[] = [];
  for (let index = 0; index < count; index++) {
    const at = firstWord + index * FRCD.wordCount;
    const get = (name: keyof typeof FRCD.fields): number => FRCD.fields[name].get(words, at);
    const code = get("FR");
    if (code === 0) continue;
    const rows = faultTable().filter((row) => row.code === code);
    const interrupt = code >> 4 === INTERRUPT_CODES;
    faults.push({
      index,
      pending: get("F") === 1,
      sourceId: formatSourceId(get("SID")),
      pasid: get("PP") === 1 ? get("PV") : null,
      code,
      names: rows.map(({ mnemonic }) => mnemonic).join(", ") || `${code.toString(16)}h`,
      meaning: [...new Set(rows.map(({ meaning }) => meaning))].join("; or: "),
      request: interrupt
        ? "interrupt"
        : `${ADDRESS_TYPES[get("AT")] ?? ""}${REQUESTS[get("T1") * 2 + get("T2")] ?? ""}`,
      where: interrupt ? `index ${Math.floor(get("FI") / 2 ** 36)}` : `0x${(BigInt(get("FI")) * 4096n).toString(16)}`,
    });
  }
  return faults;
}

/**
 * A register block without its unit: what a dump of a real machine, or of another emulator, says (§11.4).
 *
 * Which registers there are and where the fault records lie follows from the dump's own CAP and ECAP.
 */

import { CAP } from "../spec/registers-capability.js";
import { registerBlockBytes, registerMap } from "../spec/registers.js";
import { type FaultInspection, faultsOf } from "./faults.js";
import { type RegisterInspection, registersOf } from "./registers.js";

const CAP_WORD = 2;
const ECAP_WORD = 4;

/** JSON-safe. */
export interface RegisterBlockInspection {
  /** All that a unit with these capabilities has. */
  readonly registers: readonly RegisterInspection[];
  /** Fault records that have been written. */
  readonly faults: readonly FaultInspection[];
}

/**
 * Decodes a register block, any words of it: what is missing at its end reads 0.
 * @param words The block from its beginning, one 32-bit word for each four bytes; not changed.
 */
export function inspectRegisterBlock(words: Int32Array): RegisterBlockInspection {
  const capabilities = {
    cap: Int32Array.of(words[CAP_WORD] ?? 0, words[CAP_WORD + 1] ?? 0),
    ecap: Int32Array.of(words[ECAP_WORD] ?? 0, words[ECAP_WORD + 1] ?? 0),
  };
  const block = new Int32Array(registerBlockBytes(registerMap(capabilities.cap, capabilities.ecap)) / 4);
  block.set(words.subarray(0, block.length));
  const { FRO, NFR } = CAP.fields;
  return {
    registers: registersOf(capabilities, (word) => block[word] ?? 0),
    faults: faultsOf(block, FRO.get(capabilities.cap, 0) * 4, NFR.get(capabilities.cap, 0) + 1),
  };
}

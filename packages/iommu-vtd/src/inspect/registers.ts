/**
 * Registers field by field, as software reads them, with the texts of the specification's tables.
 */

import { describeFields, type FieldText } from "@iommu-kit/iommu-core";
import { registerMap } from "../spec/registers.js";
import type { Unit } from "../unit.js";
import { hexWords } from "./hex-text.js";
import { registerTexts } from "./register-texts.js";

/** One register. */
export interface RegisterInspection {
  /** The mnemonic of the specification. */
  readonly name: string;
  /** What the register is, in a line. */
  readonly title: string;
  /** Of the specification. */
  readonly section: string;
  /** From the start of the block. */
  readonly offsetBytes: number;
  /** Hexadecimal. */
  readonly value: string;
  /** Every field, with its value and meaning. */
  readonly fields: readonly FieldText[];
}

/** Every register that the unit has, by offset. Fault records are in `faults`. */
export function inspectRegisters({ file, config }: Unit): RegisterInspection[] {
  return registersOf(config.capabilities, (word) => file.read(word));
}

/** The registers that a unit with these capabilities has; `read` answers the words of its block. */
export function registersOf(
  { cap, ecap }: { readonly cap: Int32Array; readonly ecap: Int32Array },
  read: (word: number) => number,
): RegisterInspection[] {
  const shown: RegisterInspection[] = [];
  for (const { name, offsetBytes, layout } of registerMap(cap, ecap)) {
    if (name === "FRCD") continue;
    const text = registerTexts[name];
    const words = Int32Array.from({ length: layout.wordCount }, (_, word) => read(offsetBytes / 4 + word));
    shown.push({
      name,
      title: text.title,
      section: text.section,
      offsetBytes,
      value: hexWords(words),
      fields: describeFields(layout, words, 0, text),
    });
  }
  return shown;
}

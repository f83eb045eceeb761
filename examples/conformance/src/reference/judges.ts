/**
 * The two reference units of a case, side by side: one is the architecture, the other the recorded system.
 */

import { ARCHITECTURE, type DeviationName, QEMU } from "../deviations.js";
import type { Header } from "../files/header.js";
import { highWord, lowWord } from "../files/numbers.js";
import { ReferenceUnit } from "./reference-unit.js";

/** See the file's header. */
export class Judges {
  readonly architecture: ReferenceUnit;
  readonly oracle: ReferenceUnit;
  readonly #recordOffset: number;

  constructor(header: Header, recordOffset: number) {
    this.architecture = new ReferenceUnit(header, ARCHITECTURE);
    this.oracle = new ReferenceUnit(header, QEMU);
    this.#recordOffset = recordOffset;
  }

  store(gpa: number, texts: readonly string[], from: number): void {
    for (const { memory } of [this.architecture, this.oracle]) {
      for (let index = from; index < texts.length; index++) {
        const text = texts[index] ?? "0";
        memory.writeWord(gpa + (index - from) * 8, lowWord(text));
        memory.writeWord(gpa + (index - from) * 8 + 4, highWord(text));
      }
    }
  }

  write(offset: number, size: number, text: string): void {
    for (const unit of [this.architecture, this.oracle]) {
      unit.write(offset, lowWord(text), this.#recordOffset);
      if (size === 8) unit.write(offset + 4, highWord(text), this.#recordOffset);
    }
  }

  /** The deviation that explains a register, or `undefined`. */
  register(offset: number, ours: number, theirs: number): DeviationName | undefined {
    const here = this.architecture.read(offset);
    const there = this.oracle.read(offset);
    return here?.value === ours && there?.value === theirs ? there.cause : undefined;
  }
}

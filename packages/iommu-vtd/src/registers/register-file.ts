/**
 * The register block as words with access masks (§11.2): what software may write, clear and read.
 *
 * Nothing here knows what a register does. Hardware's side of a register goes through `get` and `set`, which ignore the masks.
 */

import type { Field } from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "../spec/capabilities.js";
import {
  registerBlockBytes,
  registerMap,
  type RegisterMasks,
  registerMasks,
  type RegisterName,
} from "../spec/registers.js";
import { wordAt } from "../spec/word.js";

/** The registers of one unit. */
export class RegisterFile {
  readonly words: Int32Array;
  /** Size of the block in bytes: 4096 or a larger power of two. */
  readonly byteLength: number;
  readonly #masks: RegisterMasks;
  readonly #places = new Map<string, number>();

  constructor(capabilities: UnitCapabilities, ver: Int32Array) {
    const map = registerMap(capabilities.cap, capabilities.ecap);
    this.byteLength = registerBlockBytes(map);
    this.#masks = registerMasks(map, this.byteLength);
    for (const { name, index, offsetBytes } of map) if (index === 0) this.#places.set(name, offsetBytes / 4);
    this.#masks.reset.set(ver, this.wordOf("VER"));
    this.#masks.reset.set(capabilities.cap, this.wordOf("CAP"));
    this.#masks.reset.set(capabilities.ecap, this.wordOf("ECAP"));
    this.words = this.#masks.reset.slice();
  }

  /** Index of the register's first word, -1 if the unit lacks it. For FRCD: of record 0. */
  wordOf(name: RegisterName): number {
    return this.#places.get(name) ?? -1;
  }

  /** The bits of a one-word register that software may write; 0 if the unit lacks it. */
  writableBits(name: RegisterName): number {
    return wordAt(this.#masks.writable, this.wordOf(name));
  }

  /** What software reads at a word. */
  read(word: number): number {
    return (this.words[word] ?? 0) & (this.#masks.readable[word] ?? 0);
  }

  /** Software writes a word. */
  write(word: number, value: number): void {
    const { writable, writeOneToClear } = this.#masks;
    const mask = writable[word] ?? 0;
    const kept = ((this.words[word] ?? 0) & ~mask) | (value & mask);
    this.words[word] = kept & ~(value & (writeOneToClear[word] ?? 0));
  }

  /** A field's value, for hardware. 0 if the unit lacks the register. */
  get(name: RegisterName, field: Field): number {
    const word = this.#places.get(name);
    return word === undefined ? 0 : field.get(this.words, word);
  }

  /** Hardware sets a field. No effect if the unit lacks the register. */
  set(name: RegisterName, field: Field, value: number): void {
    const word = this.#places.get(name);
    if (word !== undefined) field.set(this.words, word, value);
  }

  /** Back to power-on values. A warm reset leaves sticky bits (fault records and status). */
  reset(warm: boolean): void {
    const { reset, sticky } = this.#masks;
    for (let i = 0; i < reset.length; i++) {
      const keep = warm ? wordAt(sticky, i) : 0;
      this.words[i] = (wordAt(reset, i) & ~keep) | (wordAt(this.words, i) & keep);
    }
  }
}

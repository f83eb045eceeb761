/**
 * The words of a table for a scan: guest memory seen directly where the host allows it and no other thread can write it, else a copy of whole entries.
 */

import { type GuestMemory, PAGE_BYTES } from "@iommu-kit/iommu-core";
import { EntryReader } from "../translate/entry-reader.js";

const WORDS = 1024;
const HIGHEST_LEVEL = 5;
/** From here on in a window, 8 GiB, indices of words are no 32-bit integers. */
const FAR_FRAME = 2 ** 31 / WORDS;

/** One for each scanner: a scan holds at most one table of a level at a time. */
export class TableReader {
  /** Where the table that was read last begins in its words. */
  firstWord = 0;
  readonly #memory: GuestMemory;
  readonly #reader: EntryReader;
  readonly #copies = Array.from({ length: HIGHEST_LEVEL + 1 }, () => new BigInt64Array(WORDS / 2));
  readonly #words: readonly Int32Array[] = this.#copies.map(({ buffer }) => new Int32Array(buffer));
  readonly #single = new Int32Array(2);

  constructor(memory: GuestMemory) {
    this.#memory = memory;
    this.#reader = new EntryReader(memory);
  }

  /** A number that a change of the frame changes, to be asked for before it is read; -1 where the host does not say. */
  generationOf(pfn: number): number {
    return this.#memory.generation?.(pfn) ?? -1;
  }

  /** Entries `from` to `to - 1` of a table, at their places from `firstWord` on: one alone, or all of them in one access. `undefined`: there is no memory. */
  read(tablePfn: number, level: number, from: number, to: number): Int32Array | undefined {
    const window = this.#reader.windowOf(tablePfn);
    const entries = window && this.#reader.entriesOf(window);
    this.firstWord = 0;
    if (window !== undefined && entries === undefined) {
      const frame = tablePfn - window.firstPfn;
      // Integers all the way: an index that may be a double makes each access a conversion (bench: domain flush).
      if (frame >= FAR_FRAME) return window.words.subarray(frame * WORDS, (frame + 1) * WORDS);
      this.firstWord = (frame | 0) * WORDS;
      return window.words;
    }
    const copy = this.#copies[level];
    const words = this.#words[level];
    if (copy === undefined || words === undefined) return undefined;
    if (window !== undefined && entries !== undefined) {
      const first = (tablePfn - window.firstPfn) * (WORDS / 2);
      for (let i = from; i < to; i++) copy[i] = entries[first + i] as bigint;
      return words;
    }
    const gpa = tablePfn * PAGE_BYTES;
    if (to - from > 1) return this.#memory.fetch(gpa, words) ? words : undefined;
    if (!this.#memory.fetch(gpa + from * 8, this.#single)) return undefined;
    words.set(this.#single, from * 2);
    return words;
  }
}

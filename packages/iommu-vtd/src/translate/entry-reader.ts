/**
 * Fetches 64-bit table entries, straight from RAM where the host allows it.
 *
 * Each fetch reads an entry once; callers decide on the words they got, whatever the guest writes meanwhile.
 */

import { type GuestMemory, PAGE_BYTES, type RamWindow } from "@iommu-kit/iommu-core";

/** A reader of the entries of tables. */
export class EntryReader {
  /** The entry fetched last. */
  low = 0;
  high = 0;
  readonly #memory: GuestMemory;
  /** For memory that the host does not show: one entry, which no frame lies in. */
  readonly #single: RamWindow = { firstPfn: 0, pageCount: 0, words: new Int32Array(2) };
  #window = this.#single;
  // Where the window lies, kept beside it: one look less at each level of a walk (bench translate).
  #firstPfn = 0;
  #pageCount = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** The words that hold the entry located last. Read them at once: the guest may change them. */
  get words(): Int32Array {
    return this.#window.words;
  }

  /** Where in `words` entry `index` (0 to 511) of the table at a frame is: its low word; the high word follows. -1: there is no memory. */
  locate(tablePfn: number, index: number): number {
    const frame = tablePfn - this.#firstPfn;
    if (frame < 0 || frame >= this.#pageCount || this.words.length === 0) return this.#locateElsewhere(tablePfn, index);
    return frame * 1024 + index * 2;
  }

  /**
   * The same for the table that an entry points to, given by the entry's two words (bits 51:12). Below 4 GiB the place follows from the low word by integer
   * operations alone: the loads of a walk depend on each other, and a frame number on the way, which may need a double, made each step a third longer.
   */
  follow(low: number, high: number, index: number): number {
    const frame = (low >>> 12) - this.#firstPfn;
    if ((high & 0xfffff) !== 0 || frame < 0 || frame >= this.#pageCount || this.words.length === 0)
      return this.locate((high & 0xfffff) * 0x100000 + (low >>> 12), index);
    return (frame << 10) + (index << 1);
  }

  /** Fetches entry `index` (0 to 511) of the table at a frame. `false`: there is no memory. */
  fetch(tablePfn: number, index: number): boolean {
    const at = this.locate(tablePfn, index);
    if (at < 0) return false;
    this.low = this.words[at] ?? 0;
    this.high = this.words[at + 1] ?? 0;
    return true;
  }

  /** The window that holds a frame, if the host shows one: read-only here, valid until `words.length` is 0. */
  windowOf(pfn: number): RamWindow | undefined {
    const frame = pfn - this.#firstPfn;
    if (frame >= 0 && frame < this.#pageCount && this.words.length > 0) return this.#window;
    const found = this.#memory.window?.(pfn);
    if (found === undefined || found.words.length === 0) return undefined;
    this.#use(found);
    return found;
  }

  #locateElsewhere(tablePfn: number, index: number): number {
    if (this.windowOf(tablePfn) !== undefined) return this.locate(tablePfn, index);
    this.#use(this.#single);
    return this.#memory.fetch(tablePfn * PAGE_BYTES + index * 8, this.words) ? 0 : -1;
  }

  #use(window: RamWindow): void {
    this.#window = window;
    this.#firstPfn = window.firstPfn;
    this.#pageCount = window.pageCount;
  }
}

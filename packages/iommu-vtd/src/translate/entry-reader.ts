/**
 * Fetches 64-bit table entries, straight from RAM where the host allows it.
 *
 * Each fetch reads an entry once; callers decide on the words they got, whatever the guest writes meanwhile.
 */

import { type GuestMemory, PAGE_BYTES, type RamWindow } from "@iommu-kit/iommu-core";

const NO_WINDOW: RamWindow = { firstPfn: 0, pageCount: 0, words: new Int32Array(0) };

/** A reader with the words of the entry fetched last. */
export class EntryReader {
  low = 0;
  high = 0;
  readonly #memory: GuestMemory;
  readonly #entry = new Int32Array(2);
  #window = NO_WINDOW;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Fetches entry `index` (0 to 511) of the table at a frame. `false`: there is no memory. */
  fetch(tablePfn: number, index: number): boolean {
    const window = this.#window;
    const frame = tablePfn - window.firstPfn;
    if (frame >= 0 && frame < window.pageCount && window.words.length > 0) {
      const at = frame * 1024 + index * 2;
      this.low = window.words[at] ?? 0;
      this.high = window.words[at + 1] ?? 0;
      return true;
    }
    return this.#fetchElsewhere(tablePfn, index);
  }

  /** The window that holds a frame: read-only here, valid until `words.length` is 0. */
  windowOf(pfn: number): RamWindow | undefined {
    const window = this.#window;
    if (pfn >= window.firstPfn && pfn < window.firstPfn + window.pageCount && window.words.length > 0) return window;
    const found = this.#memory.window?.(pfn);
    if (found !== undefined && found.words.length > 0) this.#window = found;
    return found;
  }

  #fetchElsewhere(tablePfn: number, index: number): boolean {
    if (this.windowOf(tablePfn) !== undefined) return this.fetch(tablePfn, index);
    if (!this.#memory.fetch(tablePfn * PAGE_BYTES + index * 8, this.#entry)) return false;
    this.low = this.#entry[0] ?? 0;
    this.high = this.#entry[1] ?? 0;
    return true;
  }
}

/**
 * Fetches 64-bit table entries, straight from RAM where the host allows it.
 *
 * Each fetch reads an entry once; callers decide on the words they got, whatever the guest writes meanwhile. From RAM that is shared with other threads an entry is
 * copied out whole first: at each level a call and a copy more, which walks of other RAM do not pay.
 */

import { contains, type GuestMemory, PAGE_BYTES, type RamWindow, sharedEntries } from "@iommu-kit/iommu-core";

/** How many windows of shared RAM are kept: hosts have one or two. */
const SHARED_WINDOWS = 4;

interface SharedWindow {
  readonly window: RamWindow;
  readonly entries: BigInt64Array;
}

/** A reader of the entries of tables. */
export class EntryReader {
  /** The entry fetched last. */
  low = 0;
  high = 0;
  readonly #memory: GuestMemory;
  /** For memory that the host does not show, or shares: one entry, which no frame lies in. */
  readonly #copied = new BigInt64Array(1);
  readonly #single: RamWindow = { firstPfn: 0, pageCount: 0, words: new Int32Array(this.#copied.buffer) };
  #window = this.#single;
  /** The window before it: hosts have two as a rule, below and above 4 GiB, and tables lie in both. */
  #other = this.#single;
  /** Windows of shared RAM found last, and which of them holds the frame asked for last. */
  readonly #shared: SharedWindow[] = [];
  #current: SharedWindow | undefined;
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
    const other = this.#other;
    if (holds(other, pfn)) {
      this.#use(other);
      return other;
    }
    for (const shared of this.#shared) {
      if (!holds(shared.window, pfn)) continue;
      this.#current = shared;
      return shared.window;
    }
    this.#current = undefined;
    const found = this.#memory.window?.(pfn);
    if (found === undefined || found.words.length === 0) return undefined;
    const entries = sharedEntries(found.words);
    if (entries === undefined) this.#use(found);
    else {
      this.#current = { window: found, entries };
      this.#shared.unshift(this.#current);
      this.#shared.length = Math.min(this.#shared.length, SHARED_WINDOWS);
    }
    return found;
  }

  /** The entries of what `windowOf` answered last, if other threads may write them: to be copied out whole. Else its words may be read where they are. */
  entriesOf(window: RamWindow): BigInt64Array | undefined {
    return window === this.#current?.window ? this.#current.entries : undefined;
  }

  #locateElsewhere(tablePfn: number, index: number): number {
    let shared = this.#current;
    if (shared === undefined || !holds(shared.window, tablePfn)) {
      const window = this.windowOf(tablePfn);
      shared = this.#current;
      if (window !== shared?.window) return this.locate(tablePfn, index);
      if (shared === undefined) return this.#fetch(tablePfn, index);
    }
    if (this.#pageCount > 0) this.#use(this.#single);
    this.#copied[0] = shared.entries[(tablePfn - shared.window.firstPfn) * 512 + index] as bigint;
    return 0;
  }

  #fetch(tablePfn: number, index: number): number {
    this.#use(this.#single);
    return this.#memory.fetch(tablePfn * PAGE_BYTES + index * 8, this.words) ? 0 : -1;
  }

  #use(window: RamWindow): void {
    if (this.#pageCount > 0) this.#other = this.#window;
    this.#window = window;
    this.#firstPfn = window.firstPfn;
    this.#pageCount = window.pageCount;
  }
}

function holds(window: RamWindow, pfn: number): boolean {
  return contains(window, pfn) && window.words.length > 0;
}

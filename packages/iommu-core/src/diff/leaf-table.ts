/**
 * A table of 512 entries for single frames, as a scan hands it to a sink: raw words, and what they mean.
 *
 * The hub keeps the words that it saw and compares the next time: equal words in the same format need no second look (design D4).
 */

import { type Access, accessOf } from "../access.js";
import { endOf, type FrameRange, intersect } from "../range.js";
import { FANOUT, slotTarget } from "./slot.js";

/** What entries mean. The same object promises that the same words decode alike, so a backend makes a new one when its rules change. */
export interface EntryFormat {
  /**
   * Rewrites `count` entries in place, from the start of `words`, each a low and a high word: R in bit 0, W in bit 1, the frame in bits 51:12, other bits as they were; both words 0 when
   * the entry maps nothing. Two zero words map nothing in every format, and decoding twice is decoding once.
   */
  decode(words: Int32Array, count: number): void;
}

/** Entries that need no decoding. */
export const DECODED: EntryFormat = { decode: () => undefined };

const NO_WORDS = new Int32Array(0);

/** Filled in and reused by who scans; valid during the call that hands it over. */
export class LeafTable {
  /** Entry `i` is the pair of words from `firstWord + 2 * i` on. May be guest memory seen directly: whoever decides on an entry reads it once. */
  words: Int32Array = NO_WORDS;
  /** Index in `words` of the low word of the first entry. */
  firstWord = 0;
  /** What the words mean. */
  format: EntryFormat = DECODED;
  /** The frame that the table lies in; -1 for a table that is in none. */
  pfn = -1;
  /** `GuestMemory.generation` of that frame, from before the words were read; -1 where the host has none. */
  generation = -1;
  readonly #entry = new Int32Array(2);

  /** Visits what the table maps in `range`, frame by frame; its first entry maps `firstPfn`. `false` from `visit` ends it, and is the answer. */
  visit(
    firstPfn: number,
    range: FrameRange,
    visit: (iovaPfn: number, pageCount: 1, gpaPfn: number, access: Access) => boolean,
  ): boolean {
    const part = intersect({ firstPfn, pageCount: FANOUT }, range);
    const entry = this.#entry;
    for (let pfn = part.firstPfn; pfn < endOf(part); pfn++) {
      const at = this.firstWord + (pfn - firstPfn) * 2;
      entry[0] = this.words[at] ?? 0;
      entry[1] = this.words[at + 1] ?? 0;
      this.format.decode(entry, 1);
      const low = entry[0];
      if (accessOf(low) !== 0 && !visit(pfn, 1, slotTarget(low, entry[1]), accessOf(low))) return false;
    }
    return true;
  }
}

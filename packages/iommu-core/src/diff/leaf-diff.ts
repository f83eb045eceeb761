/**
 * One leaf table compared with what was announced for it: the entries that differ, and how.
 *
 * Each entry is read once. What has been read is what is decided on, recorded and told, whatever the guest writes meanwhile.
 */

import type { LeafTable } from "./leaf-table.js";
import { FANOUT, SLOT_HIGH, SLOT_LOW, slotTarget } from "./slot.js";

// Of this module: V8 folds it into the loop, and does not do so with a constant that is imported (0.87 against 1.29 ns for each entry compared in the caches).
const TABLE_WORDS = FANOUT * 2;
/** The bits of an index at which tables begin that lie one behind the other in the first 8 GiB of a window. */
const TABLE_BITS = 0x7ffffc00;

/** Where 512 pairs of words are: from `firstWord`, a multiple of 1024, on. */
export interface LeafWords {
  readonly words: Int32Array;
  readonly firstWord: number;
}

/** How an entry differs. `SAME`: only in bits that map nothing. A bit each, so that a set of them is a number. */
export const Difference = { SAME: 0, REMOVED: 1, CHANGED: 2, ADDED: 4 } as const;

/** Work space for one table at a time: used inside a call only. */
export class LeafDiff {
  /** Indices of the entries that differ, ascending. */
  readonly index = new Int32Array(FANOUT);
  /** What was announced for them, and what they are to say: pairs of words. */
  readonly old = new Int32Array(FANOUT * 2);
  readonly next = new Int32Array(FANOUT * 2);
  readonly kinds = new Uint8Array(FANOUT);
  count = 0;

  /** Compares entries `from` to `to - 1` with what was announced; `all` lists every one of them. */
  compare(announced: LeafWords, table: LeafTable, from: number, to: number, all: boolean): void {
    const whole = (table.firstWord & TABLE_BITS) === table.firstWord;
    const words = whole ? table.words : table.words.subarray(table.firstWord);
    const firstWord = whole ? table.firstWord & TABLE_BITS : 0;
    const { words: before, firstWord: first } = announced;
    const { index, old, next } = this;
    let at = from;
    let k = 0;
    // A table as announced is nearly all that is ever seen. What counts of the entries from the first difference on is the second reading.
    if (!all && to - from === FANOUT) at = firstDifference(before, first, words, firstWord);
    for (; at < to; at++) {
      const low = words[firstWord + at * 2] ?? 0;
      const high = words[firstWord + at * 2 + 1] ?? 0;
      const oldLow = before[first + at * 2] ?? 0;
      const oldHigh = before[first + at * 2 + 1] ?? 0;
      if (!all && low === oldLow && high === oldHigh) continue;
      index[k] = at;
      old[k * 2] = oldLow;
      old[k * 2 + 1] = oldHigh;
      next[k * 2] = low;
      next[k * 2 + 1] = high;
      k += 1;
    }
    this.count = k;
    if (k > 0) table.format.decode(next, k);
  }

  /** Frames `from` to `to - 1` are not to be announced, whatever their entries say. */
  blank(from: number, to: number): void {
    for (let k = 0; k < this.count; k++) {
      const at = this.index[k] ?? 0;
      if (at >= from && at < to) this.next.fill(0, k * 2, k * 2 + 2);
    }
  }

  /** Finds out how each entry differs; answers the set of kinds. */
  classify(): number {
    const { old, next, kinds, count } = this;
    let found = 0;
    for (let k = 0; k < count; k++) {
      const oldLow = old[k * 2] ?? 0;
      const low = next[k * 2] ?? 0;
      let kind: number = Difference.SAME;
      if ((oldLow & 3) === 0) {
        if ((low & 3) !== 0) kind = Difference.ADDED;
      } else if ((low & 3) === 0) kind = Difference.REMOVED;
      else if ((((low ^ oldLow) & SLOT_LOW) | (((next[k * 2 + 1] ?? 0) ^ (old[k * 2 + 1] ?? 0)) & SLOT_HIGH)) !== 0)
        kind = Difference.CHANGED;
      kinds[k] = kind;
      found |= kind;
    }
    return found;
  }

  /** How many entries from `k` on are told at once: one kind, consecutive frames, and for what is mapped consecutive targets and equal rights. `starts` marks where runs begin. */
  runLength(k: number, starts: Uint8Array | undefined): number {
    const kind = this.kinds[k];
    const removed = kind === Difference.REMOVED;
    let length = 1;
    for (let j = k + 1; j < this.count && this.kinds[j] === kind; j++, length++) {
      const at = this.index[j] ?? 0;
      if (at !== (this.index[k] ?? 0) + length || starts?.[at] === 1) break;
      if (!removed && !this.#continues(this.next, k, j)) break;
    }
    return length;
  }

  /** The same for what was announced: consecutive targets and equal rights among the `most` entries from `k` on. */
  oldRunLength(k: number, most: number): number {
    let length = 1;
    while (length < most && this.#continues(this.old, k, k + length)) length += 1;
    return length;
  }

  #continues(words: Int32Array, k: number, j: number): boolean {
    const low = words[k * 2] ?? 0;
    const next = words[j * 2] ?? 0;
    // Scattered pages, by integers: frames that continue do so in the low word, whatever is carried.
    if ((((low + ((j - k) << 12)) ^ next) & SLOT_LOW) !== 0) return false;
    return slotTarget(next, words[j * 2 + 1] ?? 0) === slotTarget(low, words[k * 2 + 1] ?? 0) + (j - k);
  }
}

/**
 * The first of the eight entries among which a table first differs from what was announced; 512 if it does not. Its own function, without calls: it keeps up with the memory.
 *
 * Measured in the caches (bench: domain flush), for each entry: 0.98 ns; with eight comparisons for one way out 1.17; without the masks, which tell the compiler that no
 * sum overflows, 1.4; with indices that may be doubles 1.8; gathering differences without a way out 1.75.
 */
function firstDifference(before: Int32Array, first: number, words: Int32Array, firstWord: number): number {
  const ours = first & TABLE_BITS;
  const theirs = firstWord & TABLE_BITS;
  for (let i = 0; i < TABLE_WORDS; i += 16) {
    const one = ours + i;
    const other = theirs + i;
    if (
      words[other] !== before[one] ||
      words[other + 1] !== before[one + 1] ||
      words[other + 2] !== before[one + 2] ||
      words[other + 3] !== before[one + 3] ||
      words[other + 4] !== before[one + 4] ||
      words[other + 5] !== before[one + 5] ||
      words[other + 6] !== before[one + 6] ||
      words[other + 7] !== before[one + 7] ||
      words[other + 8] !== before[one + 8] ||
      words[other + 9] !== before[one + 9] ||
      words[other + 10] !== before[one + 10] ||
      words[other + 11] !== before[one + 11] ||
      words[other + 12] !== before[one + 12] ||
      words[other + 13] !== before[one + 13] ||
      words[other + 14] !== before[one + 14] ||
      words[other + 15] !== before[one + 15]
    )
      return i / 2;
  }
  return FANOUT;
}

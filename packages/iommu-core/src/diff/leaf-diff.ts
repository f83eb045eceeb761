/**
 * One leaf table compared with what was announced for it: the entries that differ, and how.
 *
 * Each entry is read once. What has been read is what is decided on, recorded and told, whatever the guest writes meanwhile.
 */

import type { LeafTable } from "./leaf-table.js";
import { FANOUT, SLOT_HIGH, SLOT_LOW, slotTarget } from "./slot.js";

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
  compare(announced: Int32Array, table: LeafTable, from: number, to: number, all: boolean): void {
    const { words, firstWord } = table;
    this.count = 0;
    // A table that has changed is read again: what counts is the second reading, all of it.
    if (!all && to - from === FANOUT && isEqual(announced, words, firstWord)) return;
    for (let i = from * 2; i < to * 2; i += 2)
      this.#note(announced, i, words[firstWord + i] ?? 0, words[firstWord + i + 1] ?? 0, all);
    if (this.count > 0) table.format.decode(this.next, this.count);
  }

  /** Lists the entry at word `i` if it differs, or in any case. */
  #note(announced: Int32Array, i: number, low: number, high: number, anyway: boolean): void {
    const oldLow = announced[i] ?? 0;
    const oldHigh = announced[i + 1] ?? 0;
    if (!anyway && low === oldLow && high === oldHigh) return;
    const k = this.count;
    this.count = k + 1;
    this.index[k] = i >> 1;
    this.old[k * 2] = oldLow;
    this.old[k * 2 + 1] = oldHigh;
    this.next[k * 2] = low;
    this.next[k * 2 + 1] = high;
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
    return (
      ((low ^ next) & 3) === 0 &&
      slotTarget(next, words[j * 2 + 1] ?? 0) === slotTarget(low, words[k * 2 + 1] ?? 0) + (j - k)
    );
  }
}

/** Whether a whole table reads as announced. Its own function, without calls and without a way out: it keeps up with the memory (bench: domain flush). */
function isEqual(announced: Int32Array, words: Int32Array, firstWord: number): boolean {
  let difference = 0;
  for (let i = 0; i < FANOUT * 2; i += 4) {
    const at = firstWord + i;
    const first = (words[at] as number) ^ (announced[i] as number);
    const second = (words[at + 1] as number) ^ (announced[i + 1] as number);
    const third = (words[at + 2] as number) ^ (announced[i + 2] as number);
    const fourth = (words[at + 3] as number) ^ (announced[i + 3] as number);
    difference |= first | second | third | fourth;
  }
  return difference === 0;
}

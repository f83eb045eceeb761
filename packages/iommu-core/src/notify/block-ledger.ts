/**
 * Which blocks a `block` consumer holds, so that it is only ever asked to unmap a whole one (design D6).
 *
 * Blocks are naturally aligned powers of two. One byte a frame, at the block's first frame: 0, or 1 + log2 of its pages. Leaves of 512 bytes exist only where blocks start.
 */

import { FANOUT } from "../diff/slot.js";

interface Leaf {
  readonly codes: Uint8Array;
  used: number;
}

/** A set of disjoint, naturally aligned blocks. */
export class BlockLedger {
  readonly #leaves = new Map<number, Leaf>();
  #largest = 0;
  #blockCount = 0;

  /** Blocks held. */
  get blockCount(): number {
    return this.#blockCount;
  }

  /** Adds a block: `pageCount` is a power of two, `firstPfn` a multiple of it, and no frame of it is held. */
  add(firstPfn: number, pageCount: number): void {
    const index = Math.floor(firstPfn / FANOUT);
    let leaf = this.#leaves.get(index);
    if (leaf === undefined) {
      leaf = { codes: new Uint8Array(FANOUT), used: 0 };
      this.#leaves.set(index, leaf);
    }
    const order = Math.log2(pageCount);
    leaf.codes[firstPfn % FANOUT] = order + 1;
    leaf.used += 1;
    this.#blockCount += 1;
    this.#largest = Math.max(this.#largest, order);
  }

  /** Removes the block that starts at `firstPfn`. */
  remove(firstPfn: number): void {
    const index = Math.floor(firstPfn / FANOUT);
    const leaf = this.#leaves.get(index);
    if (leaf === undefined || leaf.codes[firstPfn % FANOUT] === 0) return;
    leaf.codes[firstPfn % FANOUT] = 0;
    leaf.used -= 1;
    this.#blockCount -= 1;
    if (leaf.used === 0) this.#leaves.delete(index);
  }

  /** Pages of the block that contains `pfn`, which then starts at `pfn - pfn % pages`; 0 when none does. */
  pagesAt(pfn: number): number {
    let pages = 1;
    for (let order = 0; order <= this.#largest; order++) {
      const first = pfn - (pfn % pages);
      if (this.#leaves.get(Math.floor(first / FANOUT))?.codes[first % FANOUT] === order + 1) return pages;
      pages *= 2;
    }
    return 0;
  }

  /** First frames of the blocks that touch these frames, ascending. */
  touching(firstPfn: number, pageCount: number): number[] {
    return [...this.#starts(firstPfn, firstPfn + pageCount)];
  }

  /** How many of these frames, from the first one on, are touched by no more than `most` blocks, at least 1. */
  framesOf(firstPfn: number, pageCount: number, most: number): number {
    let left = most;
    for (const start of this.#starts(firstPfn, firstPfn + pageCount)) {
      if (left === 0) return start - firstPfn;
      left -= 1;
    }
    return pageCount;
  }

  /** Forgets everything. */
  clear(): void {
    this.#leaves.clear();
    this.#largest = 0;
    this.#blockCount = 0;
  }

  *#starts(firstPfn: number, end: number): Generator<number, void, void> {
    const pages = this.pagesAt(firstPfn);
    if (pages > 0) yield firstPfn - (firstPfn % pages);
    // The block that holds the first frame is the only one that starts there or before.
    const from = firstPfn + 1;
    for (const index of this.#leavesIn(from, end)) {
      const codes = this.#leaves.get(index)?.codes;
      const base = index * FANOUT;
      for (let pfn = Math.max(from, base); pfn < Math.min(end, base + FANOUT); pfn++)
        if (codes?.[pfn - base]) yield pfn;
    }
  }

  /** Indices of leaves, ascending, at least those in a range. It may be far larger than all that is held. */
  #leavesIn(from: number, end: number): number[] {
    const first = Math.floor(from / FANOUT);
    const last = Math.ceil(end / FANOUT);
    if (last - first > this.#leaves.size) return [...this.#leaves.keys()].sort((a, b) => a - b);
    return Array.from({ length: last - first }, (_, index) => first + index);
  }
}

/** The largest power of two that starts at `firstPfn`, fits into `pageCount` frames and does not exceed `limit` (a power of two). */
export function alignedBlock(firstPfn: number, pageCount: number, limit: number): number {
  let pages = limit;
  while (pages > pageCount || firstPfn % pages !== 0) pages /= 2;
  return pages;
}

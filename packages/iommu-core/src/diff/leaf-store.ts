/**
 * The words of a tree's leaves: 32 leaves beside each other in one array.
 *
 * A look-up of a random page then misses the caches once, for the slot: the arrays are few, and so are their headers (bench: IOVA tree, domain flush).
 */

import { type Access, accessOf } from "../access.js";
import type { Mapping } from "./mapping.js";
import { FANOUT, fillSlots, slotTarget } from "./slot.js";

const LEAF_WORDS = FANOUT * 2;
/** Leaves of an array: a bit each of a word. */
const CHUNK_LEAVES = 32;
const ALL_FREE = -1;
const NO_WORDS = new Int32Array(0);

/** Slots of one leaf by index, and what each is to say: pairs of words. */
export interface WrittenSlots {
  readonly index: Int32Array;
  readonly next: Int32Array;
  readonly count: number;
}

/** Where the leaf at a place begins in its array. */
export function firstWordOf(place: number): number {
  return (place & (CHUNK_LEAVES - 1)) * LEAF_WORDS;
}

/** The leaves of one tree, by place: a number above 0. */
export class LeafStore {
  /** The first one stays empty: no leaf is at place 0. */
  readonly #chunks: Int32Array[] = [NO_WORDS];
  /** A bit for each leaf that a chunk has room for. */
  readonly #free: number[] = [0];
  /** Chunks with room. */
  readonly #roomy: number[] = [];
  /** A chunk that became empty keeps its array until another one does: a leaf that comes and goes is no allocation each time. */
  #spare = 0;
  #used = 0;
  #byteLength = 0;

  /** Bytes of the arrays. */
  get byteLength(): number {
    return this.#byteLength;
  }

  /** The array that the leaf at a place lies in, until the next `take`. */
  wordsOf(place: number): Int32Array {
    return this.#chunks[place >>> 5] ?? NO_WORDS;
  }

  /** A place for a leaf; its words are 0. */
  take(): number {
    const chunk = this.#roomy.at(-1) ?? this.#addChunk();
    const free = this.#free[chunk] ?? 0;
    const rest = free & (free - 1);
    this.#free[chunk] = rest;
    if (rest === 0) this.#roomy.pop();
    this.#used += 1;
    const place = chunk * CHUNK_LEAVES + 31 - Math.clz32(free & -free);
    this.#makeRoom(chunk, firstWordOf(place) + LEAF_WORDS);
    return place;
  }

  /** Frees a place. */
  release(place: number): void {
    const chunk = place >>> 5;
    const first = firstWordOf(place);
    this.wordsOf(place).fill(0, first, first + LEAF_WORDS);
    const free = this.#free[chunk] ?? 0;
    if (free === 0) this.#roomy.push(chunk);
    this.#free[chunk] = free | (1 << (place & (CHUNK_LEAVES - 1)));
    this.#used -= 1;
    if (this.#used === 0) this.clear();
    else if (this.#free[chunk] === ALL_FREE && chunk !== this.#spare) {
      if (this.#free[this.#spare] === ALL_FREE) this.#resize(this.#spare, NO_WORDS);
      this.#spare = chunk;
    }
  }

  /** Frees every place. */
  clear(): void {
    this.#chunks.length = 1;
    this.#free.length = 1;
    this.#roomy.length = 0;
    this.#spare = 0;
    this.#used = 0;
    this.#byteLength = 0;
  }

  /** Reads the slot of frame `pfn`. `false`, with `out` unchanged, when it is free. */
  read(place: number, pfn: number, out: Mapping): boolean {
    const words = this.wordsOf(place);
    const at = firstWordOf(place) + (pfn % FANOUT) * 2;
    const low = words[at] ?? 0;
    const access = accessOf(low);
    if (access === 0) return false;
    out.firstPfn = pfn;
    out.pageCount = 1;
    out.gpaPfn = slotTarget(low, words[at + 1] ?? 0);
    out.access = access;
    return true;
  }

  /** Reads the first slot in use from `index` on, of the leaf whose first frame is `firstPfn`. `false` when there is none. */
  seek(place: number, index: number, firstPfn: number, out: Mapping): boolean {
    for (let i = index; i < FANOUT; i++) if (this.read(place, firstPfn + i, out)) return true;
    return false;
  }

  /** Makes `count` slots from `index` on map consecutive targets; answers how many more are in use. */
  fill(place: number, index: number, count: number, gpaPfn: number, access: Access): number {
    const words = this.wordsOf(place);
    const first = firstWordOf(place) + index * 2;
    let more = count;
    for (let at = first; at < first + count * 2; at += 2) if (((words[at] ?? 0) & 3) !== 0) more -= 1;
    fillSlots(words, first / 2, count, gpaPfn, access);
    return more;
  }

  /** Frees `count` slots from `index` on; answers how many were in use. */
  clearSlots(place: number, index: number, count: number): number {
    const words = this.wordsOf(place);
    const first = firstWordOf(place) + index * 2;
    let less = 0;
    for (let at = first; at < first + count * 2; at += 2) {
      if (((words[at] ?? 0) & 3) !== 0) less += 1;
      words[at] = 0;
      words[at + 1] = 0;
    }
    return less;
  }

  /** Writes slots: `index[k]` gets the pair of words at `2 * k`. Answers how many more are in use. */
  write(place: number, { index, next, count }: WrittenSlots): number {
    const words = this.wordsOf(place);
    const first = firstWordOf(place);
    let more = 0;
    for (let k = 0; k < count; k++) {
      const at = first + (index[k] ?? 0) * 2;
      const low = next[k * 2] ?? 0;
      if ((low & 3) !== 0) more += 1;
      if (((words[at] ?? 0) & 3) !== 0) more -= 1;
      words[at] = low;
      words[at + 1] = next[k * 2 + 1] ?? 0;
    }
    return more;
  }

  #addChunk(): number {
    const chunk = this.#chunks.push(NO_WORDS) - 1;
    this.#free.push(ALL_FREE);
    this.#roomy.push(chunk);
    return chunk;
  }

  /** The first chunk grows by doubling, so that a tree of few leaves stays small; any other one is made whole. */
  #makeRoom(chunk: number, length: number): void {
    const words = this.#chunks[chunk] ?? NO_WORDS;
    if (words.length >= length) return;
    const larger = new Int32Array(chunk > 1 ? CHUNK_LEAVES * LEAF_WORDS : Math.max(LEAF_WORDS, words.length * 2));
    larger.set(words);
    this.#resize(chunk, larger);
  }

  #resize(chunk: number, words: Int32Array): void {
    this.#byteLength += words.byteLength - (this.#chunks[chunk]?.byteLength ?? 0);
    this.#chunks[chunk] = words;
  }
}

/**
 * A sparse set of page frames: bitmaps of 4096 frames, made when one of their frames is added. Memory follows what is in the set, 512 bytes for each 16 MiB touched.
 */

/** Told a run of consecutive frames. */
export type FrameVisitor = (firstPfn: number, pageCount: number) => void;

const CHUNK_FRAMES = 4096;
const WORD_BITS = 32;

/** Frames are added in any order, and taken out in runs, ascending. */
export class FrameSet {
  readonly #chunks = new Map<number, Int32Array>();

  /** Whether it has no frame. */
  get empty(): boolean {
    return this.#chunks.size === 0;
  }

  /** Adds `pageCount` frames from `firstPfn` on. */
  add(firstPfn: number, pageCount: number): void {
    const end = firstPfn + pageCount;
    for (let at = firstPfn; at < end;) {
      const key = Math.floor(at / CHUNK_FRAMES);
      const base = key * CHUNK_FRAMES;
      const stop = Math.min(end, base + CHUNK_FRAMES);
      let chunk = this.#chunks.get(key);
      if (chunk === undefined) {
        chunk = new Int32Array(CHUNK_FRAMES / WORD_BITS);
        this.#chunks.set(key, chunk);
      }
      for (let bit = at - base; bit < stop - base; bit++) chunk[bit >> 5] = (chunk[bit >> 5] ?? 0) | (1 << (bit & 31));
      at = stop;
    }
  }

  /** Takes every frame out and tells the runs, ascending. What is added meanwhile stays for the next time. */
  takeRuns(visit: FrameVisitor): void {
    const chunks = [...this.#chunks].sort(([a], [b]) => a - b);
    this.#chunks.clear();
    let first = -1;
    let count = 0;
    for (const [key, chunk] of chunks) {
      for (let bit = 0; bit < CHUNK_FRAMES; bit++) {
        const word = chunk[bit >> 5] ?? 0;
        if (word === 0) bit += WORD_BITS - 1;
        if ((word & (1 << (bit & 31))) === 0) continue;
        const pfn = key * CHUNK_FRAMES + bit;
        if (pfn === first + count) {
          count += 1;
          continue;
        }
        if (count > 0) visit(first, count);
        first = pfn;
        count = 1;
      }
    }
    if (count > 0) visit(first, count);
  }

  /** Forgets everything. */
  clear(): void {
    this.#chunks.clear();
  }
}

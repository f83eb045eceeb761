/**
 * A sparse set of frames: those that devices wrote since they were last reported. Memory follows what was written, 512
 * bytes for each touched run of 4096 frames (16 MiB of address space).
 */

const FRAMES_PER_CHUNK = 4096;

/** The frames that were written. */
export class DirtyPages {
  readonly #chunks = new Map<number, Uint8Array>();

  /** Adds one frame. */
  add(pfn: number): void {
    const key = Math.floor(pfn / FRAMES_PER_CHUNK);
    let chunk = this.#chunks.get(key);
    if (chunk === undefined) {
      chunk = new Uint8Array(FRAMES_PER_CHUNK / 8);
      this.#chunks.set(key, chunk);
    }
    setBits(chunk, pfn - key * FRAMES_PER_CHUNK, 1);
  }

  /** Takes the frames of a range out of the set and sets their bits in `bitmap`; bit 0 is `firstPfn`. */
  takeInto(firstPfn: number, pageCount: number, bitmap: Uint8Array): void {
    this.#take(firstPfn, firstPfn + pageCount, (pfn) => setBits(bitmap, pfn - firstPfn, 1));
  }

  /** Takes every frame out, ascending, and calls `visit` for each. */
  takeAll(visit: (pfn: number) => void): void {
    for (const key of [...this.#chunks.keys()].sort((a, b) => a - b)) this.#takeChunk(key, 0, Infinity, visit);
  }

  /** Forgets everything. */
  clear(): void {
    this.#chunks.clear();
  }

  #take(firstPfn: number, endPfn: number, visit: (pfn: number) => void): void {
    const firstKey = Math.floor(firstPfn / FRAMES_PER_CHUNK);
    const lastKey = Math.ceil(endPfn / FRAMES_PER_CHUNK) - 1;
    // Whichever is less: the keys of the range, or those of the set.
    if (lastKey - firstKey < this.#chunks.size) {
      for (let key = firstKey; key <= lastKey; key++) this.#takeChunk(key, firstPfn, endPfn, visit);
      return;
    }
    for (const key of this.#chunks.keys()) {
      if (key >= firstKey && key <= lastKey) this.#takeChunk(key, firstPfn, endPfn, visit);
    }
  }

  #takeChunk(key: number, firstPfn: number, endPfn: number, visit: (pfn: number) => void): void {
    const chunk = this.#chunks.get(key);
    if (chunk === undefined) return;
    const basePfn = key * FRAMES_PER_CHUNK;
    let left = 0;
    for (let byte = 0; byte < chunk.length; byte++) {
      let bits = chunk[byte] ?? 0;
      for (let bit = 0; bits >> bit !== 0; bit++) {
        const pfn = basePfn + byte * 8 + bit;
        if ((bits & (1 << bit)) === 0 || pfn < firstPfn || pfn >= endPfn) continue;
        bits &= ~(1 << bit);
        visit(pfn);
      }
      chunk[byte] = bits;
      left |= bits;
    }
    if (left === 0) this.#chunks.delete(key);
  }
}

/** Sets a run of bits of a bitmap; bit `n` is bit `n & 7` of byte `n >> 3`. */
export function setBits(bitmap: Uint8Array, firstBit: number, bitCount: number): void {
  for (let bit = firstBit; bit < firstBit + bitCount; bit++) {
    const byte = Math.floor(bit / 8);
    bitmap[byte] = (bitmap[byte] ?? 0) | (1 << (bit % 8));
  }
}

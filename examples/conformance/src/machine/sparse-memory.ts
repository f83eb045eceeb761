/**
 * Guest memory of which most is never touched: frames come into being when they are written, and read as 0 before.
 *
 * What is not RAM by the file's header does not exist: accesses to it answer `false`.
 */

import type { FrameRange, GuestMemory } from "@iommu-kit/iommu-core";

interface Frame {
  readonly words: Int32Array;
  readonly bytes: Uint8Array;
}

/** See the file's header. */
export class SparseMemory implements GuestMemory {
  readonly ram: readonly FrameRange[];
  readonly #frames = new Map<number, Frame>();
  // Accesses come in runs to one frame: one comparison instead of a map lookup.
  #lastPfn = -1;
  #last: Frame | undefined;

  constructor(ram: readonly FrameRange[]) {
    this.ram = ram;
  }

  read(gpa: number, into: Uint8Array): boolean {
    return this.#pieces(gpa, into.length, (pfn, offset, length, at) => {
      const frame = this.#find(pfn);
      if (frame === undefined) into.fill(0, at, at + length);
      else into.set(frame.bytes.subarray(offset, offset + length), at);
    });
  }

  write(gpa: number, from: Uint8Array): boolean {
    return this.#pieces(gpa, from.length, (pfn, offset, length, at) => {
      this.#make(pfn).bytes.set(from.subarray(at, at + length), offset);
    });
  }

  fetch(gpa: number, into: Int32Array): boolean {
    const pfn = Math.floor(gpa / 4096);
    if (!this.#isRam(pfn)) return false;
    const frame = this.#find(pfn);
    const first = (gpa % 4096) / 4;
    if (frame === undefined) into.fill(0);
    else for (let index = 0; index < into.length; index++) into[index] = frame.words[first + index] ?? 0;
    return true;
  }

  writeWord(gpa: number, word: number): boolean {
    const pfn = Math.floor(gpa / 4096);
    if (!this.#isRam(pfn)) return false;
    this.#make(pfn).words[(gpa % 4096) / 4] = word;
    return true;
  }

  compareExchange(gpa: number, expected: number, replacement: number): boolean {
    const pfn = Math.floor(gpa / 4096);
    if (!this.#isRam(pfn) || (this.#find(pfn)?.words[(gpa % 4096) / 4] ?? 0) !== (expected | 0)) return false;
    return this.writeWord(gpa, replacement);
  }

  /** The word at `gpa`, a multiple of 4, unsigned; 0 where there is no RAM. */
  wordAt(gpa: number): number {
    const pfn = Math.floor(gpa / 4096);
    return (this.#find(pfn)?.words[(gpa % 4096) / 4] ?? 0) >>> 0;
  }

  #pieces(
    gpa: number,
    byteLength: number,
    each: (pfn: number, offset: number, length: number, at: number) => void,
  ): boolean {
    for (let at = 0; at < byteLength;) {
      const pfn = Math.floor((gpa + at) / 4096);
      const offset = (gpa + at) % 4096;
      const length = Math.min(byteLength - at, 4096 - offset);
      if (!this.#isRam(pfn)) return false;
      each(pfn, offset, length, at);
      at += length;
    }
    return true;
  }

  #isRam(pfn: number): boolean {
    for (const { firstPfn, pageCount } of this.ram) if (pfn >= firstPfn && pfn < firstPfn + pageCount) return true;
    return false;
  }

  #find(pfn: number): Frame | undefined {
    if (pfn !== this.#lastPfn) {
      this.#last = this.#frames.get(pfn);
      this.#lastPfn = pfn;
    }
    return this.#last;
  }

  #make(pfn: number): Frame {
    const known = this.#find(pfn);
    if (known !== undefined) return known;
    const words = new Int32Array(1024);
    const frame = { words, bytes: new Uint8Array(words.buffer) };
    this.#frames.set(pfn, frame);
    this.#last = frame;
    return frame;
  }
}

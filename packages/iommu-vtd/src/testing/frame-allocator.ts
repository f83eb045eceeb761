/**
 * Hands out zeroed frames for a test guest's structures, upwards from a first frame.
 */

import type { FakeMemory } from "@iommu-kit/iommu-core/testing";

/** Frames come in ascending order and never back. */
export class FrameAllocator {
  readonly #memory: FakeMemory;
  #nextPfn: number;

  constructor(memory: FakeMemory, firstPfn: number) {
    this.#memory = memory;
    this.#nextPfn = firstPfn;
  }

  /** The first of `pageCount` zeroed frames. */
  take(pageCount = 1): number {
    const pfn = this.#nextPfn;
    this.#nextPfn += pageCount;
    this.#memory.clear(pfn, pageCount);
    return pfn;
  }

  /** Frames set aside without being cleared: for builders that clear what they use. */
  reserve(pageCount: number): number {
    const pfn = this.#nextPfn;
    this.#nextPfn += pageCount;
    return pfn;
  }
}

/** Writes the words of a structure to a byte address, as the guest does. */
export function pokeWords(memory: FakeMemory, gpa: number, words: Int32Array): void {
  words.forEach((word, index) => memory.poke(gpa + index * 4, word));
}

/**
 * Guest memory of a recorded machine: gigabytes of address space, of which only the pages that were written take room. Everything else reads 0.
 */

import { contains, endOf, type FrameRange, type GuestMemory, PAGE_BYTES, type RamWindow } from "@iommu-kit/iommu-core";

const PAGE_WORDS = PAGE_BYTES / 4;

/** See the file's header. */
export class SparseMemory implements GuestMemory {
  readonly ram: readonly FrameRange[];
  readonly #pages = new Map<number, RamWindow>();

  /** @param ram Ascending and disjoint. */
  constructor(ram: readonly FrameRange[]) {
    this.ram = ram;
  }

  read(gpa: number, into: Uint8Array): boolean {
    if (!this.#isRam(gpa, into.length)) return false;
    for (let at = 0; at < into.length; at++) {
      const page = this.#pages.get(Math.floor((gpa + at) / PAGE_BYTES));
      into[at] = page === undefined ? 0 : (new Uint8Array(page.words.buffer)[(gpa + at) % PAGE_BYTES] ?? 0);
    }
    return true;
  }

  write(gpa: number, from: Uint8Array): boolean {
    if (!this.#isRam(gpa, from.length)) return false;
    for (const [at, byte] of from.entries()) {
      const page = this.#page(Math.floor((gpa + at) / PAGE_BYTES));
      new Uint8Array(page.words.buffer)[(gpa + at) % PAGE_BYTES] = byte;
    }
    return true;
  }

  fetch(gpa: number, into: Int32Array): boolean {
    if (!this.#isRam(gpa, into.length * 4)) return false;
    for (let i = 0; i < into.length; i++) into[i] = this.word(gpa + i * 4);
    return true;
  }

  writeWord(gpa: number, word: number): boolean {
    if (!this.#isRam(gpa, 4)) return false;
    this.#page(Math.floor(gpa / PAGE_BYTES)).words[(gpa % PAGE_BYTES) / 4] = word;
    return true;
  }

  compareExchange(gpa: number, expected: number, replacement: number): boolean {
    return this.word(gpa) === (expected | 0) && this.writeWord(gpa, replacement);
  }

  /** One page: what reads whole tables reads them here without a copy. */
  window(pfn: number): RamWindow | undefined {
    return this.#isRam(pfn * PAGE_BYTES, PAGE_BYTES) ? this.#page(pfn) : undefined;
  }

  /** The word at a multiple of 4, as a signed number; 0 where nothing was written. */
  word(gpa: number): number {
    return this.#pages.get(Math.floor(gpa / PAGE_BYTES))?.words[(gpa % PAGE_BYTES) / 4] ?? 0;
  }

  /** Writes words from a multiple of 4 on. `false` if any of them is not RAM. */
  writeWords(gpa: number, words: Int32Array): boolean {
    for (let i = 0; i < words.length; i++) if (!this.writeWord(gpa + i * 4, words[i] ?? 0)) return false;
    return true;
  }

  #page(pfn: number): RamWindow {
    const known = this.#pages.get(pfn);
    if (known !== undefined) return known;
    const page: RamWindow = { firstPfn: pfn, pageCount: 1, words: new Int32Array(PAGE_WORDS) };
    this.#pages.set(pfn, page);
    return page;
  }

  #isRam(gpa: number, byteLength: number): boolean {
    const firstPfn = Math.floor(gpa / PAGE_BYTES);
    const endPfn = Math.ceil((gpa + byteLength) / PAGE_BYTES);
    return this.ram.some((range) => contains(range, firstPfn) && endPfn <= endOf(range));
  }
}

/**
 * Guest memory for tests: sparse RAM, holes between its ranges, pages that can be made to fail, and counters.
 *
 * Address space costs nothing: storage exists only for chunks that were written. `windows` and `generations` add the optional methods of `GuestMemory`, so the
 * same test can run against hosts that have them and hosts that do not.
 */

import { PAGE_BYTES } from "../address.js";
import { IommuError } from "../errors.js";
import type { GuestMemory, RamWindow } from "../ports.js";
import { checkRange, contains, type FrameRange } from "../range.js";

/** What a `FakeMemory` is like. */
export interface FakeMemoryOptions {
  /** RAM, ascending and disjoint. Default: 256 MiB from 0 on. */
  readonly ram?: readonly FrameRange[];
  /** Whether `window` exists. Default: it does not. */
  readonly windows?: boolean;
  /** Whether `generation` exists. Default: it does not. */
  readonly generations?: boolean;
}

/** How often memory was reached. Accesses that were refused count as well. */
export interface MemoryCounters {
  /** Calls of `read`. */
  reads: number;
  /** Calls of `write` and `writeWord`. */
  writes: number;
  /** Calls of `fetch`. */
  fetches: number;
  /** 32-bit words asked for by `fetch`. */
  fetchedWords: number;
  /** Calls of `compareExchange`. */
  compareExchanges: number;
}

const PAGE_WORDS = PAGE_BYTES / 4;
/** Frames in one piece of storage, and in one window. */
const CHUNK_PAGES = 16;

/** A run of frames with storage. The window handed out *is* this object: emptying `words` tells its holders that it is over. */
class Chunk implements RamWindow {
  readonly firstPfn: number;
  readonly pageCount = CHUNK_PAGES;
  words = new Int32Array(CHUNK_PAGES * PAGE_WORDS);
  constructor(firstPfn: number) {
    this.firstPfn = firstPfn;
  }
}

/** Memory for tests: `poke` and `peek` are the guest's, `counters` say what others read and wrote, `poison` makes a frame fail until `heal`. Whatever is not written reads 0. */
export class FakeMemory implements GuestMemory {
  readonly counters: MemoryCounters = { reads: 0, writes: 0, fetches: 0, fetchedWords: 0, compareExchanges: 0 };
  readonly window?: (pfn: number) => RamWindow | undefined;
  readonly generation?: (pfn: number) => number;
  readonly #chunks = new Map<number, Chunk>();
  readonly #poisoned = new Set<number>();
  readonly #generations = new Map<number, number>();
  #ram: readonly FrameRange[];
  #plugs = 0;

  constructor(options: FakeMemoryOptions = {}) {
    this.#ram = checkedRam(options.ram ?? [{ firstPfn: 0, pageCount: 65_536 }]);
    if (options.windows === true) this.window = (pfn) => this.#windowOf(pfn);
    if (options.generations === true) this.generation = (pfn) => (this.#generations.get(pfn) ?? 0) + this.#plugs;
  }

  get ram(): readonly FrameRange[] {
    return this.#ram;
  }

  /**
   * Plugs or unplugs RAM. Contents of frames that stay are kept; windows over frames that go are over, and all generations grow.
   * @throws {IommuError} `bad-range` unless the ranges are ascending and disjoint.
   */
  setRam(ram: readonly FrameRange[]): void {
    this.#ram = checkedRam(ram);
    this.#plugs += 1;
    for (const chunk of this.#chunks.values()) if (!this.#chunkIsRam(chunk.firstPfn)) this.#retire(chunk);
  }

  /** Makes every access to this frame fail, as a host does that has lost the page. Its generation grows. */
  poison(pfn: number): void {
    this.#poisoned.add(pfn);
    this.#touched(pfn * PAGE_BYTES, 1);
    const chunk = this.#chunks.get(Math.floor(pfn / CHUNK_PAGES));
    if (chunk !== undefined) this.#retire(chunk);
  }

  /** Ends `poison`; the contents are what they were. The frame's generation grows. */
  heal(pfn: number): void {
    this.#poisoned.delete(pfn);
    this.#touched(pfn * PAGE_BYTES, 1);
  }

  /** Sets all counters to 0. */
  resetCounters(): void {
    Object.assign(this.counters, { reads: 0, writes: 0, fetches: 0, fetchedWords: 0, compareExchanges: 0 });
  }

  read(gpa: number, into: Uint8Array): boolean {
    this.counters.reads += 1;
    return this.#pieces(gpa, into.length, (bytes, at) => into.set(bytes, at));
  }

  write(gpa: number, from: Uint8Array): boolean {
    this.counters.writes += 1;
    const done = this.#pieces(gpa, from.length, (bytes, at) => bytes.set(from.subarray(at, at + bytes.length)));
    this.#touched(gpa, from.length);
    return done;
  }

  fetch(gpa: number, into: Int32Array): boolean {
    this.counters.fetches += 1;
    this.counters.fetchedWords += into.length;
    for (let i = 0; i < into.length; i++) {
      const at = gpa + i * 4;
      if (!this.#usable(Math.floor(at / PAGE_BYTES))) return false;
      into[i] = this.peek(at);
    }
    return true;
  }

  writeWord(gpa: number, word: number): boolean {
    this.counters.writes += 1;
    if (!this.#usable(Math.floor(gpa / PAGE_BYTES))) return false;
    this.poke(gpa, word);
    return true;
  }

  compareExchange(gpa: number, expected: number, replacement: number): boolean {
    this.counters.compareExchanges += 1;
    if (!this.#usable(Math.floor(gpa / PAGE_BYTES)) || this.peek(gpa) !== (expected | 0)) return false;
    this.poke(gpa, replacement);
    return true;
  }

  /** The signed 32-bit word at a multiple of 4: not counted, poison does not matter. */
  peek(gpa: number): number {
    const pfn = Math.floor(gpa / PAGE_BYTES);
    return this.#chunks.get(Math.floor(pfn / CHUNK_PAGES))?.words[wordIndex(gpa)] ?? 0;
  }

  /** Writes a word as the guest does: not counted, poison does not matter. */
  poke(gpa: number, word: number): void {
    this.#chunkFor(Math.floor(gpa / PAGE_BYTES)).words[wordIndex(gpa)] = word;
    this.#touched(gpa, 4);
  }

  /** Writes a 64-bit entry, low word first. */
  pokeEntry(gpa: number, low: number, high: number): void {
    this.poke(gpa, low);
    this.poke(gpa + 4, high);
  }

  /** Fills frames with zeros as the guest does. */
  clear(firstPfn: number, pageCount = 1): void {
    for (let pfn = firstPfn; pfn < firstPfn + pageCount; pfn++) {
      const chunk = this.#chunks.get(Math.floor(pfn / CHUNK_PAGES));
      const first = (pfn % CHUNK_PAGES) * PAGE_WORDS;
      chunk?.words.fill(0, first, first + PAGE_WORDS);
      this.#touched(pfn * PAGE_BYTES, 1);
    }
  }

  #usable(pfn: number): boolean {
    return !this.#poisoned.has(pfn) && this.#ram.some((range) => contains(range, pfn));
  }

  #chunkFor(pfn: number): Chunk {
    const index = Math.floor(pfn / CHUNK_PAGES);
    let chunk = this.#chunks.get(index);
    if (chunk === undefined) {
      chunk = new Chunk(index * CHUNK_PAGES);
      this.#chunks.set(index, chunk);
    }
    return chunk;
  }

  /** A window over any frame that is not RAM, or poisoned, would let its holder read what `fetch` refuses. */
  #chunkIsRam(firstPfn: number): boolean {
    for (let pfn = firstPfn; pfn < firstPfn + CHUNK_PAGES; pfn++) if (!this.#usable(pfn)) return false;
    return true;
  }

  #windowOf(pfn: number): RamWindow | undefined {
    const firstPfn = pfn - (pfn % CHUNK_PAGES);
    return this.#chunkIsRam(firstPfn) ? this.#chunkFor(pfn) : undefined;
  }

  #retire(chunk: Chunk): void {
    const next = new Chunk(chunk.firstPfn);
    next.words = chunk.words;
    chunk.words = new Int32Array(0);
    this.#chunks.set(Math.floor(chunk.firstPfn / CHUNK_PAGES), next);
  }

  #touched(gpa: number, byteLength: number): void {
    if (this.generation === undefined) return;
    for (let pfn = Math.floor(gpa / PAGE_BYTES); pfn * PAGE_BYTES < gpa + byteLength; pfn++) {
      this.#generations.set(pfn, (this.#generations.get(pfn) ?? 0) + 1);
    }
  }

  #pieces(gpa: number, byteLength: number, visit: (bytes: Uint8Array, at: number) => void): boolean {
    for (let at = 0; at < byteLength;) {
      const pfn = Math.floor((gpa + at) / PAGE_BYTES);
      if (!this.#usable(pfn)) return false;
      const { words } = this.#chunkFor(pfn);
      const offset = (gpa + at) % PAGE_BYTES;
      const count = Math.min(byteLength - at, PAGE_BYTES - offset);
      visit(new Uint8Array(words.buffer, (pfn % CHUNK_PAGES) * PAGE_BYTES + offset, count), at);
      at += count;
    }
    return true;
  }
}

function wordIndex(gpa: number): number {
  return Math.floor((gpa % (CHUNK_PAGES * PAGE_BYTES)) / 4);
}

function checkedRam(ram: readonly FrameRange[]): readonly FrameRange[] {
  let end = 0;
  for (const range of ram) {
    checkRange(range, "FakeMemory.ram");
    if (range.firstPfn < end) {
      throw new IommuError(
        "bad-range",
        `FakeMemory.ram: expected ascending, disjoint ranges, got ${range.firstPfn} below ${end}`,
        {
          hint: "sort and merge them",
        },
      );
    }
    end = range.firstPfn + range.pageCount;
  }
  return ram;
}

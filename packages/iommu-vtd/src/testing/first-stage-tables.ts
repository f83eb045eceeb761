/**
 * Builds first-stage tables (§9.7) in guest memory, entry by entry, as an operating system would.
 *
 * Nested, the frames named in entries are guest-physical; the builder writes tables at the frames it names, so the second stage of such a test maps them onto themselves.
 */

import type { FakeMemory } from "@iommu-kit/iommu-core/testing";
import { FirstStageBits } from "../spec/first-stage.js";
import { tableIndex } from "../translate/table-index.js";
import type { FrameAllocator } from "./frame-allocator.js";

const { PRESENT, WRITE, USER, PAGE_SIZE } = FirstStageBits;

/** How a first-stage leaf is written. */
export interface FirstStageLeafOptions {
  /** Default true. */
  readonly writable?: boolean;
  /** Default true. */
  readonly user?: boolean;
  /** Pages of a leaf: 1 (default), 512 or 2^18. */
  readonly leafPages?: number;
}

/** One tree of first-stage tables. */
export class FirstStageTables {
  /** Frame of the top table. */
  readonly rootPfn: number;
  /** 4 or 5. */
  readonly levels: number;
  readonly #memory: FakeMemory;
  readonly #frames: FrameAllocator;

  /** `levels` is 4 or 5. */
  constructor(memory: FakeMemory, frames: FrameAllocator, levels = 4) {
    this.#memory = memory;
    this.#frames = frames;
    this.levels = levels;
    this.rootPfn = frames.take();
  }

  /** Maps `pageCount` frames to consecutive targets. */
  map(iovaPfn: number, pageCount: number, gpaPfn: number, options: FirstStageLeafOptions = {}): void {
    const { writable = true, user = true, leafPages = 1 } = options;
    const level = leafPages === 1 ? 1 : leafPages === 512 ? 2 : 3;
    const flags = PRESENT | (writable ? WRITE : 0) | (user ? USER : 0) | (level > 1 ? PAGE_SIZE : 0);
    for (let done = 0; done < pageCount; done += leafPages) {
      this.#poke(this.entryGpa(iovaPfn + done, level), gpaPfn + done, flags);
    }
  }

  /** Clears leaf entries of 4 KiB pages. */
  unmap(iovaPfn: number, pageCount = 1): void {
    for (let pfn = iovaPfn; pfn < iovaPfn + pageCount; pfn++) this.#memory.pokeEntry(this.entryGpa(pfn, 1), 0, 0);
  }

  /** Byte address of the entry at `level` on the way to this frame; tables above it are made as needed. */
  entryGpa(iovaPfn: number, level: number): number {
    let tablePfn = this.rootPfn;
    for (let at = this.levels; at > level; at--) {
      const gpa = tablePfn * 4096 + tableIndex(iovaPfn, at) * 8;
      const low = this.#memory.peek(gpa);
      if ((low & PRESENT) !== 0 && (low & PAGE_SIZE) === 0) {
        tablePfn = (this.#memory.peek(gpa + 4) & 0xfffff) * 0x100000 + (low >>> 12);
        continue;
      }
      const child = this.#frames.take();
      this.#poke(gpa, child, PRESENT | WRITE | USER);
      tablePfn = child;
    }
    return tablePfn * 4096 + tableIndex(iovaPfn, level) * 8;
  }

  #poke(gpa: number, pfn: number, flags: number): void {
    this.#memory.pokeEntry(gpa, ((pfn % 0x100000) << 12) | flags, Math.floor(pfn / 0x100000));
  }
}

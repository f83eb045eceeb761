/**
 * Builds page tables in guest memory, as a guest's driver would: 512 64-bit entries a table, R in bit 0, W in bit 1, a large page in bit 7, the frame in bits 51:12.
 *
 * That is the shape of second-stage tables and of the IOVA tree's slots. Tables are edited in place, entry by entry, so a test can stop half-way and
 * scan. What points to the root (root-entries, context-entries) belongs to an architecture.
 */

import type { Access } from "../access.js";
import { PAGE_BYTES } from "../address.js";
import { IommuError } from "../errors.js";
import { FANOUT, slotHigh, slotLow, slotSpan, slotTarget } from "../diff/slot.js";
import type { FakeMemory } from "./fake-memory.js";

/** Bit 7: the entry maps a large page. */
const LARGE = 0x80;

/** What `PageTables` is like. */
export interface PageTablesOptions {
  /** 2 to 5. Default 4: 48-bit input addresses. */
  readonly levels?: number;
  /** Where tables are put, growing upwards. Default: frame 0x1000 (16 MiB). */
  readonly firstTablePfn?: number;
}

/** One tree of tables. */
export class PageTables {
  /** Where the tables lie. */
  readonly memory: FakeMemory;
  /** 3 to 5. */
  readonly levels: number;
  /** Frame of the top table. */
  readonly rootPfn: number;
  #nextPfn: number;

  /** Allocates the root. */
  constructor(memory: FakeMemory, options: PageTablesOptions = {}) {
    this.memory = memory;
    this.levels = options.levels ?? 4;
    this.#nextPfn = options.firstTablePfn ?? 0x1000;
    this.rootPfn = this.#allocate();
  }

  /** Frames used by tables so far: they lie at `rootPfn` and above. */
  get tableCount(): number {
    return this.#nextPfn - this.rootPfn;
  }

  /**
   * Maps `pageCount` frames to consecutive targets. `leafPages` is the size of the leaves: 1, 512 (2 MiB) or 2^18 (1 GiB); the range must be a multiple of it and
   * both ends aligned. A large page on the way is split into 512 equal ones; tables below a new large page are forgotten.
   */
  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access = 3, leafPages = 1): void {
    checkAligned(leafPages, iovaPfn, pageCount, gpaPfn);
    const level = levelOf(leafPages);
    for (let done = 0; done < pageCount; done += leafPages) {
      const large = level > 1 ? LARGE : 0;
      const target = gpaPfn + done;
      this.memory.pokeEntry(this.entryGpa(iovaPfn + done, level), slotLow(target, access) | large, slotHigh(target));
    }
  }

  /** Clears the leaf entries of these frames. Large pages that reach beyond the range are split first; empty tables stay. */
  unmap(iovaPfn: number, pageCount: number): void {
    for (let at = iovaPfn; at < iovaPfn + pageCount;) {
      let level = this.leafLevel(at);
      let span = slotSpan(level);
      while (level > 1 && (at % span !== 0 || at + span > iovaPfn + pageCount) && this.#present(at, level)) {
        level -= 1;
        span = slotSpan(level);
        this.entryGpa(at, level);
      }
      if (this.#present(at, level)) this.memory.pokeEntry(this.entryGpa(at, level), 0, 0);
      at = at - (at % span) + span;
    }
  }

  /** Rewrites the leaf that maps this frame as 512 leaves one level down that say the same. */
  split(iovaPfn: number): void {
    const level = this.leafLevel(iovaPfn);
    if (level > 1) this.entryGpa(iovaPfn, level - 1);
  }

  /**
   * Byte address of the entry at `level` on the way to this frame. Tables above it are made, and large pages split, as needed: a split large page keeps
   * its mapping.
   */
  entryGpa(iovaPfn: number, level: number): number {
    let tablePfn = this.rootPfn;
    for (let at = this.levels; at > level; at--) {
      const gpa = entryIn(tablePfn, iovaPfn, at);
      const low = this.memory.peek(gpa);
      const high = this.memory.peek(gpa + 4);
      if ((low & 3) !== 0 && (low & LARGE) === 0) {
        tablePfn = slotTarget(low & ~0xfff, high);
        continue;
      }
      const child = this.#allocate();
      if ((low & 3) !== 0) this.#fillSplit(child, at - 1, slotTarget(low & ~0xfff, high), low);
      this.memory.pokeEntry(gpa, slotLow(child, 3), slotHigh(child));
      tablePfn = child;
    }
    return entryIn(tablePfn, iovaPfn, level);
  }

  /** Level at which the walk of this frame ends: that of its leaf, or of the first entry that is not present. */
  leafLevel(iovaPfn: number): number {
    let tablePfn = this.rootPfn;
    for (let level = this.levels; level > 1; level--) {
      const gpa = entryIn(tablePfn, iovaPfn, level);
      const low = this.memory.peek(gpa);
      if ((low & 3) === 0 || (low & LARGE) !== 0) return level;
      tablePfn = slotTarget(low & ~0xfff, this.memory.peek(gpa + 4));
    }
    return 1;
  }

  #present(iovaPfn: number, level: number): boolean {
    return (this.memory.peek(this.entryGpa(iovaPfn, level)) & 3) !== 0;
  }

  #fillSplit(tablePfn: number, level: number, gpaPfn: number, low: number): void {
    const flags = (low & 0xfff & ~LARGE) | (level > 1 ? LARGE : 0);
    for (let i = 0; i < FANOUT; i++) {
      const target = gpaPfn + i * slotSpan(level);
      this.memory.pokeEntry(tablePfn * PAGE_BYTES + i * 8, slotLow(target, 0) | flags, slotHigh(target));
    }
  }

  #allocate(): number {
    const pfn = this.#nextPfn;
    this.#nextPfn += 1;
    this.memory.clear(pfn);
    return pfn;
  }
}

function entryIn(tablePfn: number, iovaPfn: number, level: number): number {
  return tablePfn * PAGE_BYTES + (Math.floor(iovaPfn / slotSpan(level)) % FANOUT) * 8;
}

function levelOf(leafPages: number): number {
  for (let level = 1; level <= 3; level++) if (slotSpan(level) === leafPages) return level;
  throw new IommuError("bad-option", `PageTables.map: expected leaves of 1, 512 or 262144 pages, got ${leafPages}`, {
    hint: "give the size in 4 KiB pages",
  });
}

function checkAligned(leafPages: number, ...values: readonly number[]): void {
  for (const value of values) {
    if (value % leafPages === 0) continue;
    throw new IommuError("bad-range", `PageTables.map: expected multiples of ${leafPages} pages, got ${value}`, {
      hint: "map the unaligned ends in smaller leaves",
    });
  }
}

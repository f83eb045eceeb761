/**
 * A set-associative cache of translations in typed arrays: 4 KiB, 2 MiB and 1 GiB entries side by side, of a fixed size.
 *
 * A structure only: it never translates and hears of no invalidation by itself; see device-cache.ts for that.
 * Invariants: no two entries overlap; `#entriesOfSize` counts the entries of each size; the least recently used way of a set is the one that gives way.
 */

import { Access, type FrameRange, IommuError, type Translation } from "@iommu-kit/iommu-core";

/** Pages of the largest entry. */
export const LARGEST_SPAN = 262_144;
/** Sizes of entries in pages. An answer for a block of another size is held as the next smaller one. */
export const ENTRY_SPANS: readonly number[] = [1, 512, LARGEST_SPAN];
/** Bits of an info word above the rights: 0 for a free slot, else 1 + the index into `ENTRY_SPANS`. */
const SIZE_SHIFT = 2;
const NOWHERE = -1;

/** How large a cache is. */
export interface CacheShape {
  /** Entries in all: a power of two, 1 to 2^20. Default 1024. */
  readonly entries?: number;
  /** Entries that a block can be in: a power of two, at most `entries`. Default 4. */
  readonly ways?: number;
}

/** An entry: a block and where it leads. A copy, which stays what it was. */
export interface CachedBlock {
  /** First input frame. */
  readonly iovaPfn: number;
  /** Frames, 1 or more. */
  readonly pageCount: number;
  /** Target of the first frame. */
  readonly gpaPfn: number;
  /** Rights. */
  readonly access: Access;
}

/** The arrays of a cache, each with one element for each entry. May lie in shared memory; only the cache writes them. */
export interface CacheStorage {
  /** First frame of each entry's block. */
  readonly firstPfns: Float64Array;
  /** Target of that frame. */
  readonly gpaPfns: Float64Array;
  /** Rights in bits 1:0, size above; 0 for a free slot. */
  readonly info: Int32Array;
  /** When each was used last. */
  readonly usedAt: Int32Array;
}

/** Holds translations, and nothing else: its owner fills it, drops what an invalidation covers, and decides how long an entry is good. Of a fixed size from the start. */
export class TranslationCache {
  /** Entries in all. */
  readonly capacity: number;
  readonly #ways: number;
  readonly #sets: number;
  readonly #storage: CacheStorage;
  readonly #entriesOfSize = new Int32Array(ENTRY_SPANS.length);
  #clock = 0;

  /**
   * @param storage Where entries are kept, each array `entries` long and zeroed. Default: arrays of its own.
   * @throws {IommuError} `bad-option` for a shape that is not powers of two in range.
   */
  constructor(shape: CacheShape = {}, storage?: CacheStorage) {
    const { entries, ways } = resolveShape(shape);
    this.capacity = entries;
    this.#ways = ways;
    this.#sets = entries / ways;
    this.#storage = storage ?? cacheStorage(entries);
  }

  /** Entries held. */
  get entryCount(): number {
    let count = 0;
    for (const held of this.#entriesOfSize) count += held;
    return count;
  }

  /** What is held, in no order; looking counts as no use. Every slot is read: for people and tests. Do not change the cache meanwhile. */
  *entries(): Generator<CachedBlock> {
    const { info, firstPfns, gpaPfns } = this.#storage;
    for (let slot = 0; slot < this.capacity; slot++) {
      const word = at(info, slot);
      if (word === 0) continue;
      const [iovaPfn = 0, gpaPfn = 0] = [firstPfns[slot], gpaPfns[slot]];
      yield { iovaPfn, pageCount: spanOf(word), gpaPfn, access: rightsOf(word) };
    }
  }

  /**
   * Looks up one page. `false`, with `out` unchanged, unless the page is held with every right asked for; `Access.none`, a zero-length read, asks for read.
   * `out` is valid until the next invalidation that covers the page.
   */
  lookup(iovaPfn: number, access: Access, out: Translation): boolean {
    const slot = this.#slotOf(iovaPfn);
    if (slot === NOWHERE) return false;
    const { info, firstPfns, gpaPfns, usedAt } = this.#storage;
    const word = at(info, slot);
    const needed = access === Access.none ? Access.read : access;
    if ((word & needed) !== needed) return false;
    const offsetPages = iovaPfn - at(firstPfns, slot);
    usedAt[slot] = this.#clock = (this.#clock + 1) | 0;
    out.allow(at(gpaPfns, slot) + offsetPages, spanOf(word), rightsOf(word));
    return true;
  }

  /**
   * Holds an answer for `iovaPfn` and its block, in place of every entry that overlaps. `within` answers whether a block may be held whole; a smaller one is
   * tried where not.
   * @returns What happened: `"filled"`, `"evicted"` when another entry made room, `"outside"` when not even the page may be held.
   */
  insert(
    iovaPfn: number,
    answer: Translation,
    within: (block: FrameRange) => boolean,
  ): "filled" | "evicted" | "outside" {
    let size = sizeFor(answer.pageCount);
    while (size >= 0 && !within(blockOf(iovaPfn, size))) size -= 1;
    if (size < 0) return "outside";
    const { firstPfn, pageCount } = blockOf(iovaPfn, size);
    this.invalidate(firstPfn, pageCount);
    const slot = this.#victim(firstPfn / pageCount);
    const { info, firstPfns, gpaPfns, usedAt } = this.#storage;
    const evicted = info[slot] !== 0;
    if (evicted) this.#free(slot);
    firstPfns[slot] = firstPfn;
    gpaPfns[slot] = answer.gpaPfn - (iovaPfn - firstPfn);
    usedAt[slot] = this.#clock = (this.#clock + 1) | 0;
    info[slot] = answer.access + ((size + 1) << SIZE_SHIFT);
    this.#count(size, 1);
    return evicted ? "evicted" : "filled";
  }

  /** Drops every entry that touches these frames, each as a whole. Answers how many. */
  invalidate(firstPfn: number, pageCount: number): number {
    let dropped = 0;
    for (let size = 0; size < ENTRY_SPANS.length; size++) {
      if (this.#entriesOfSize[size] === 0) continue;
      const span = spanOfSize(size);
      const firstBlock = Math.floor(firstPfn / span);
      const blocks = Math.floor((firstPfn + pageCount - 1) / span) - firstBlock + 1;
      dropped +=
        blocks < this.#sets ? this.#dropBlocks(size, firstBlock, blocks) : this.#sweep(size, firstPfn, pageCount);
    }
    return dropped;
  }

  /** Drops everything. Answers how many entries that were. */
  clear(): number {
    const dropped = this.entryCount;
    this.#storage.info.fill(0);
    this.#entriesOfSize.fill(0);
    return dropped;
  }

  /** The slot that holds a page, or NOWHERE. */
  #slotOf(iovaPfn: number): number {
    for (let size = 0; size < ENTRY_SPANS.length; size++) {
      if (this.#entriesOfSize[size] === 0) continue;
      const slot = this.#slotOfBlock(size, size === 0 ? iovaPfn : Math.floor(iovaPfn / spanOfSize(size)));
      if (slot !== NOWHERE) return slot;
    }
    return NOWHERE;
  }

  #slotOfBlock(size: number, block: number): number {
    const { info, firstPfns } = this.#storage;
    const firstPfn = block * spanOfSize(size);
    const first = this.#firstSlot(block);
    for (let slot = first; slot < first + this.#ways; slot++) {
      if (firstPfns[slot] === firstPfn && at(info, slot) >> SIZE_SHIFT === size + 1) return slot;
    }
    return NOWHERE;
  }

  /** First slot of a block's set. Written without `%`, which is a library call on doubles: the set count is a power of two, so this is exact. */
  #firstSlot(block: number): number {
    return (block - Math.floor(block / this.#sets) * this.#sets) * this.#ways;
  }

  /** A free slot of the block's set, or the one that was used longest ago. */
  #victim(block: number): number {
    const { info, usedAt } = this.#storage;
    const first = this.#firstSlot(block);
    let oldest = first;
    let age = -1;
    for (let slot = first; slot < first + this.#ways; slot++) {
      if (info[slot] === 0) return slot;
      const slotAge = (this.#clock - at(usedAt, slot)) >>> 0;
      if (slotAge <= age) continue;
      age = slotAge;
      oldest = slot;
    }
    return oldest;
  }

  #dropBlocks(size: number, firstBlock: number, blocks: number): number {
    let dropped = 0;
    for (let block = firstBlock; block < firstBlock + blocks; block++) {
      const slot = this.#slotOfBlock(size, block);
      if (slot === NOWHERE) continue;
      this.#free(slot);
      dropped += 1;
    }
    return dropped;
  }

  #sweep(size: number, firstPfn: number, pageCount: number): number {
    const { info, firstPfns } = this.#storage;
    const span = spanOfSize(size);
    let dropped = 0;
    for (let slot = 0; slot < this.capacity; slot++) {
      if (at(info, slot) >> SIZE_SHIFT !== size + 1) continue;
      const first = at(firstPfns, slot);
      if (first >= firstPfn + pageCount || first + span <= firstPfn) continue;
      this.#free(slot);
      dropped += 1;
    }
    return dropped;
  }

  #free(slot: number): void {
    const { info } = this.#storage;
    this.#count((at(info, slot) >> SIZE_SHIFT) - 1, -1);
    info[slot] = 0;
  }

  #count(size: number, change: number): void {
    this.#entriesOfSize[size] = at(this.#entriesOfSize, size) + change;
  }
}

/** @internal Fills in the defaults. @throws {IommuError} `bad-option`. */
export function resolveShape(shape: CacheShape): { readonly entries: number; readonly ways: number } {
  const { entries = 1024 } = shape;
  const { ways = Math.min(4, entries) } = shape;
  if (!isPowerOfTwo(entries) || entries > 2 ** 20) {
    throw new IommuError("bad-option", `entries: expected a power of two in 1..2^20, got ${entries}`, {
      hint: "the default is 1024; a device that touches n pages at a time wants at least n",
    });
  }
  if (!isPowerOfTwo(ways) || ways > entries) {
    throw new IommuError("bad-option", `ways: expected a power of two in 1..${entries}, got ${ways}`, {
      hint: "the default is 4",
    });
  }
  return { entries, ways };
}

/** Arrays for a cache of `entries` entries: in one buffer if given, which must be zeroed and have `cacheStorageBytes(entries)` from `offsetBytes` on. */
export function cacheStorage(entries: number, buffer?: ArrayBufferLike, offsetBytes = 0): CacheStorage {
  const bytes = buffer ?? new ArrayBuffer(cacheStorageBytes(entries));
  return {
    firstPfns: new Float64Array(bytes, offsetBytes, entries),
    gpaPfns: new Float64Array(bytes, offsetBytes + entries * 8, entries),
    info: new Int32Array(bytes, offsetBytes + entries * 16, entries),
    usedAt: new Int32Array(bytes, offsetBytes + entries * 20, entries),
  };
}

/** Bytes that the arrays of a cache take. */
export function cacheStorageBytes(entries: number): number {
  return entries * 24;
}

function isPowerOfTwo(value: number): boolean {
  return Number.isInteger(value) && value >= 1 && Number.isInteger(Math.log2(value));
}

/** The largest entry size that is not larger than the block that an answer holds for. */
function sizeFor(pageCount: number): number {
  let size = ENTRY_SPANS.length - 1;
  while (size > 0 && spanOfSize(size) > pageCount) size -= 1;
  return size;
}

function blockOf(iovaPfn: number, size: number): FrameRange {
  const span = spanOfSize(size);
  return { firstPfn: Math.floor(iovaPfn / span) * span, pageCount: span };
}

/** Frames of an entry of this size. */
function spanOfSize(size: number): number {
  return ENTRY_SPANS[size] ?? 1;
}

/** A slot's value: slots lie in their arrays. */
function at(values: Float64Array | Int32Array, slot: number): number {
  return values[slot] ?? 0;
}

function spanOf(info: number): number {
  return spanOfSize((info >> SIZE_SHIFT) - 1);
}

function rightsOf(info: number): Access {
  return (info & Access.readWrite) as Access;
}

/**
 * What a device behind a container can reach: blocks of IOVA frames, ascending and disjoint, each with its target and
 * access. Two neighbours stay two blocks even where their targets touch, because a container unmaps what was mapped.
 *
 * Blocks lie in chunks of typed arrays: 25 bytes a block, whatever its length, found by two binary searches. Nothing is
 * allocated by a look-up. (The IOVA tree of iommu-core keeps frames, not where blocks begin and end.) Invariants: no chunk is empty; blocks of chunk n end before those of chunk n + 1 begin.
 */
import { Access, accessOf } from "@iommu-kit/iommu-core";

/** One block; also the object into which look-ups write. Its content is a copy and stays what it was. */
export interface ShadowBlock {
  /** First IOVA frame. */
  iovaPfn: number;
  /** Frames, at least 1. */
  pageCount: number;
  /** First target frame. */
  gpaPfn: number;
  /** Rights. */
  access: Access;
}

/** The answer of a look-up of one frame. */
export interface ShadowTarget {
  /** Target frame of the IOVA frame asked for. */
  gpaPfn: number;
  /** Rights. */
  access: Access;
}

/** An empty result object to pass to look-ups. */
export function shadowBlock(): ShadowBlock {
  return { iovaPfn: 0, pageCount: 0, gpaPfn: 0, access: Access.none };
}

/** Blocks per chunk: a chunk of 6.4 kB is moved in well under a microsecond. */
const CHUNK_CAPACITY = 256;

class Chunk {
  readonly first = new Float64Array(CHUNK_CAPACITY);
  readonly count = new Float64Array(CHUNK_CAPACITY);
  readonly target = new Float64Array(CHUNK_CAPACITY);
  readonly access = new Uint8Array(CHUNK_CAPACITY);
  length = 0;

  /** Makes room at `index` for one block; the chunk is not full. */
  open(index: number): void {
    this.#move(index, index + 1);
    this.length += 1;
  }

  /** Takes the block at `index` out. */
  close(index: number): void {
    this.#move(index + 1, index);
    this.length -= 1;
  }

  /** Moves the blocks from `index` on to the end of `other`. */
  moveTail(index: number, other: Chunk): void {
    other.first.set(this.first.subarray(index, this.length), other.length);
    other.count.set(this.count.subarray(index, this.length), other.length);
    other.target.set(this.target.subarray(index, this.length), other.length);
    other.access.set(this.access.subarray(index, this.length), other.length);
    other.length += this.length - index;
    this.length = index;
  }

  #move(from: number, to: number): void {
    this.first.copyWithin(to, from, this.length);
    this.count.copyWithin(to, from, this.length);
    this.target.copyWithin(to, from, this.length);
    this.access.copyWithin(to, from, this.length);
  }
}

/**
 * A shadow page table.
 *
 * Frames are numbers from 0 up to 2^52 (the end of the space); ranges are half-open. Ranges are not checked here: a
 * container does that by its profile before it changes the table.
 */
export class ShadowPageTable {
  #chunks: Chunk[] = [];
  #blockCount = 0;
  #pageCount = 0;
  /** Where the last seek ended: the last block that begins at or before the frame; -1 in `#index` for none. */
  #chunkIndex = 0;
  #index = -1;
  readonly #scratch = shadowBlock();

  /** Blocks held. */
  get blockCount(): number {
    return this.#blockCount;
  }

  /** Frames reachable: the sum of all blocks. */
  get pageCount(): number {
    return this.#pageCount;
  }

  /** Where does this frame go? Writes into `out` and answers true, or answers false and leaves `out` alone. */
  lookup(iovaPfn: number, out: ShadowTarget): boolean {
    const chunk = this.#seek(iovaPfn);
    if (chunk === undefined) return false;
    const index = this.#index;
    const offset = iovaPfn - at(chunk.first, index);
    if (offset >= at(chunk.count, index)) return false;
    out.gpaPfn = at(chunk.target, index) + offset;
    out.access = accessOf(at(chunk.access, index));
    return true;
  }

  /** The block that holds this frame, written into `out`; false if there is none. */
  blockAt(iovaPfn: number, out: ShadowBlock): boolean {
    const chunk = this.#seek(iovaPfn);
    if (chunk === undefined) return false;
    if (iovaPfn - at(chunk.first, this.#index) >= at(chunk.count, this.#index)) return false;
    readBlock(chunk, this.#index, out);
    return true;
  }

  /** The lowest block that ends behind this frame, written into `out`; false if there is none. For ascending passes. */
  blockFrom(iovaPfn: number, out: ShadowBlock): boolean {
    if (this.blockAt(iovaPfn, out)) return true;
    const chunk = this.#next();
    if (chunk === undefined) return false;
    readBlock(chunk, this.#index, out);
    return true;
  }

  /** The highest block that begins before this frame, written into `out`; false if there is none. */
  blockBefore(iovaPfn: number, out: ShadowBlock): boolean {
    const chunk = this.#seek(iovaPfn);
    if (chunk === undefined) return false;
    if (chunk.first[this.#index] !== iovaPfn) {
      readBlock(chunk, this.#index, out);
      return true;
    }
    if (this.#index > 0) {
      readBlock(chunk, this.#index - 1, out);
      return true;
    }
    const before = this.#chunks[this.#chunkIndex - 1];
    if (before === undefined) return false;
    readBlock(before, before.length - 1, out);
    return true;
  }

  /** Adds a block; false, and no change, where it would overlap another. */
  insert(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    const before = this.#scratch;
    if (this.blockBefore(iovaPfn + pageCount, before) && before.iovaPfn + before.pageCount > iovaPfn) return false;
    this.#seek(iovaPfn);
    let chunk = this.#chunks[this.#chunkIndex];
    if (chunk === undefined) {
      chunk = new Chunk();
      this.#chunks.push(chunk);
    }
    let index = this.#index + 1;
    if (chunk.length === CHUNK_CAPACITY) {
      const upper = new Chunk();
      // A block behind all others leaves its chunk full: ascending fills waste no room.
      const middle = index === CHUNK_CAPACITY ? CHUNK_CAPACITY : CHUNK_CAPACITY / 2;
      chunk.moveTail(middle, upper);
      this.#chunks.splice(this.#chunkIndex + 1, 0, upper);
      if (index >= middle) {
        chunk = upper;
        index -= middle;
      }
    }
    chunk.open(index);
    chunk.first[index] = iovaPfn;
    chunk.count[index] = pageCount;
    chunk.target[index] = gpaPfn;
    chunk.access[index] = access;
    this.#blockCount += 1;
    this.#pageCount += pageCount;
    return true;
  }

  /** Removes the block that begins at this frame; false if none begins there. */
  removeBlock(iovaPfn: number): boolean {
    const chunk = this.#seek(iovaPfn);
    if (chunk === undefined || chunk.first[this.#index] !== iovaPfn) return false;
    this.#blockCount -= 1;
    this.#pageCount -= at(chunk.count, this.#index);
    chunk.close(this.#index);
    this.#shrink(chunk);
    return true;
  }

  /** Removes every frame of a range, cutting blocks at its ends. Answers the number of frames removed. */
  remove(firstPfn: number, pageCount: number): number {
    const endPfn = firstPfn + pageCount;
    const block = shadowBlock();
    let removed = 0;
    while (this.blockFrom(firstPfn, block) && block.iovaPfn < endPfn) {
      const { iovaPfn, gpaPfn, access } = block;
      const blockEndPfn = iovaPfn + block.pageCount;
      this.removeBlock(iovaPfn);
      if (iovaPfn < firstPfn) this.insert(iovaPfn, firstPfn - iovaPfn, gpaPfn, access);
      if (blockEndPfn > endPfn) this.insert(endPfn, blockEndPfn - endPfn, gpaPfn + (endPfn - iovaPfn), access);
      removed += Math.min(blockEndPfn, endPfn) - Math.max(iovaPfn, firstPfn);
    }
    return removed;
  }

  /** Removes everything. */
  clear(): void {
    this.#chunks = [];
    this.#blockCount = 0;
    this.#pageCount = 0;
  }

  /** The blocks that touch a range, ascending and uncut, each a new object. The table may change while one reads. */
  *blocks(firstPfn = 0, pageCount = Infinity): IterableIterator<ShadowBlock> {
    const endPfn = firstPfn + pageCount;
    let block = shadowBlock();
    while (this.blockFrom(firstPfn, block) && block.iovaPfn < endPfn) {
      firstPfn = block.iovaPfn + block.pageCount;
      yield block;
      block = shadowBlock();
    }
  }

  /** The longest runs with consecutive targets and equal access, ascending: what the device sees, not how it was mapped. */
  *ranges(): IterableIterator<ShadowBlock> {
    let run: ShadowBlock | undefined;
    for (const block of this.blocks()) {
      if (run !== undefined && continues(run, block)) {
        run.pageCount += block.pageCount;
        continue;
      }
      if (run !== undefined) yield run;
      run = block;
    }
    if (run !== undefined) yield run;
  }

  /** Seeks the last block that begins at or before the frame; its chunk, or undefined (then `#index` is -1). */
  #seek(pfn: number): Chunk | undefined {
    const chunks = this.#chunks;
    let low = 0;
    let high = chunks.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((chunks[middle]?.first[0] ?? Infinity) <= pfn) low = middle + 1;
      else high = middle;
    }
    const chunk = chunks[low - 1];
    if (chunk === undefined) {
      this.#chunkIndex = 0;
      this.#index = -1;
      return undefined;
    }
    this.#chunkIndex = low - 1;
    low = 1;
    high = chunk.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (at(chunk.first, middle) <= pfn) low = middle + 1;
      else high = middle;
    }
    this.#index = low - 1;
    return chunk;
  }

  /** Steps to the block behind the last seek. */
  #next(): Chunk | undefined {
    const chunk = this.#chunks[this.#chunkIndex];
    if (chunk === undefined) return undefined;
    this.#index += 1;
    if (this.#index < chunk.length) return chunk;
    this.#chunkIndex += 1;
    this.#index = 0;
    return this.#chunks[this.#chunkIndex];
  }

  /** Gives a chunk up that became empty, or joins it with the one behind it when both fit into half a chunk. */
  #shrink(chunk: Chunk): void {
    const position = this.#chunkIndex;
    if (chunk.length === 0) {
      this.#chunks.splice(position, 1);
      return;
    }
    const behind = this.#chunks[position + 1];
    if (behind === undefined || chunk.length + behind.length > CHUNK_CAPACITY / 2) return;
    behind.moveTail(0, chunk);
    this.#chunks.splice(position + 1, 1);
  }
}

/** A block's value: blocks lie in their arrays. */
function at(values: Float64Array | Uint8Array, index: number): number {
  return values[index] ?? 0;
}

function readBlock(chunk: Chunk, index: number, out: ShadowBlock): void {
  out.iovaPfn = at(chunk.first, index);
  out.pageCount = at(chunk.count, index);
  out.gpaPfn = at(chunk.target, index);
  out.access = accessOf(at(chunk.access, index));
}

function continues(run: ShadowBlock, block: ShadowBlock): boolean {
  return (
    block.iovaPfn === run.iovaPfn + run.pageCount &&
    block.gpaPfn === run.gpaPfn + run.pageCount &&
    block.access === run.access
  );
}

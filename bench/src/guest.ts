/** A guest with many 4 KiB pages: tables at random places, targets scattered, driven as a driver would. */

import { BufferMemory, type RamWindow } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";

const PAGE_WORDS = 1024;
const ROOT = 16;
const CONTEXT = 17;
const TOP = 18;
const THIRD = 19;
const SECOND = 32;
const QUEUE = 24;
const QUEUE_BYTES = 4096;
const FIRST_LEAF = 4096;
const DOMAIN = 5;
/** 00:03.0 */
export const DEVICE = 0x18;
const NO_LIMIT = 2 ** 40;

/** One domain of `pageCount` pages (a multiple of 512) behind one device. */
export class BenchGuest {
  readonly unit: VtdIommu;
  readonly pageCount: number;
  /** Frames of the leaf tables, in order of the input pages they map. */
  readonly leaves: Uint32Array;
  readonly words: Int32Array;
  #tail = 0;

  constructor(pageCount: number) {
    this.pageCount = pageCount;
    const tables = pageCount / 512;
    const frames = FIRST_LEAF + tables * 2;
    const memory = new BufferMemory([{ firstPfn: 0, bytes: new Uint8Array(frames * 4096) }]);
    this.words = (memory.window(0) as RamWindow).words;
    this.leaves = shuffled(tables * 2)
      .subarray(0, tables)
      .map((frame) => frame + FIRST_LEAF);
    this.#writeTables(frames);
    this.unit = new VtdIommu({
      memory,
      msi: () => undefined,
      cachingMode: true,
      regions: [],
      limits: {
        entriesPerSlice: NO_LIMIT,
        mappingsPerSlice: NO_LIMIT,
        mappingsPerView: NO_LIMIT,
        bytesPerView: NO_LIMIT,
        tablesPerView: NO_LIMIT,
      },
    });
  }

  /** Root pointer, queue, translation. */
  start(): void {
    const { mmio } = this.unit;
    mmio.write64(0x20, BigInt(ROOT * 4096));
    mmio.write32(0x18, 0x4000_0000);
    mmio.write64(0x90, BigInt(QUEUE * 4096));
    mmio.write32(0x18, 0x0400_0000);
    mmio.write32(0x18, 0x8400_0000);
  }

  /** A domain-selective invalidation through the queue. */
  flushDomain(): void {
    this.#descriptor(2 | (2 << 4) | (DOMAIN << 16), 0);
  }

  /** A page-selective one. */
  flushPage(iovaPfn: number): void {
    this.#descriptor(2 | (3 << 4) | (DOMAIN << 16), iovaPfn << 12);
  }

  /** A global context-cache invalidation. */
  flushContexts(): void {
    this.#descriptor(1 | (1 << 4), 0);
  }

  /** Writes a leaf entry; answers the low word that was there. */
  setLeaf(iovaPfn: number, low: number): number {
    const at = (this.leaves[iovaPfn >> 9] ?? 0) * PAGE_WORDS + (iovaPfn & 511) * 2;
    const before = this.words[at] ?? 0;
    this.words[at] = low;
    return before;
  }

  #descriptor(low: number, high: number): void {
    const at = QUEUE * PAGE_WORDS + this.#tail / 4;
    this.words[at] = low;
    this.words[at + 1] = 0;
    this.words[at + 2] = high;
    this.words[at + 3] = 0;
    this.#tail = (this.#tail + 16) % QUEUE_BYTES;
    this.unit.mmio.write32(0x88, this.#tail);
  }

  #writeTables(frames: number): void {
    const put = (frame: number, index: number, low: number): void => {
      this.words[frame * PAGE_WORDS + index * 2] = low;
    };
    put(ROOT, 0, (CONTEXT << 12) | 1);
    put(CONTEXT, DEVICE * 2, (TOP << 12) | 1);
    put(CONTEXT, DEVICE * 2 + 1, 2 | (DOMAIN << 8));
    put(TOP, 0, (THIRD << 12) | 3);
    for (const [table, leaf] of this.leaves.entries()) {
      put(THIRD, table >> 9, ((SECOND + (table >> 9)) << 12) | 3);
      put(SECOND + (table >> 9), table & 511, (leaf << 12) | 3);
      for (let i = 0; i < 512; i++) put(leaf, i, (((Math.imul(table * 512 + i, 0x9e3779b1) >>> 0) % frames) << 12) | 3);
    }
  }
}

/** 0 to `count - 1` in an order that no cache foresees, the same every time. */
export function shuffled(count: number): Uint32Array {
  const values = Uint32Array.from({ length: count }, (_, index) => index);
  let state = 12345;
  for (let i = count - 1; i > 0; i--) {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    const j = state % (i + 1);
    const kept = values[i] ?? 0;
    values[i] = values[j] ?? 0;
    values[j] = kept;
  }
  return values;
}

/**
 * A guest with many 4 KiB pages, driven as a driver would: tables at random places, targets scattered.
 *
 * RAM is fixed structures, then room for leaf tables, then data frames if targets are to be memory that devices may write.
 */

import assert from "node:assert/strict";
import { BufferMemory, type GuestMemory, type MsiSink, type RamWindow } from "@iommu-kit/iommu-core";
import { VtdIommu, type VtdConfig } from "@iommu-kit/iommu-vtd";

const PAGE_WORDS = 1024;
/** Two root tables over the same context table. */
const ROOTS = [16, 17] as const;
const CONTEXTS = 18;
const INTERRUPTS = 20;
const QUEUE = 24;
const QUEUE_BYTES = 4096;
const UPPER_TABLES = 32;
/** Frames for the upper levels of one table set: the top, one below, and up to 254 of the next level. */
const UPPER_FRAMES = 256;
const FIRST_LEAF = 4096;
const NO_LIMIT = 2 ** 40;

/** Input frame of page 0: 4 GiB, so that the interrupt window is no page of ours. */
export const FIRST_INPUT = 2 ** 20;
/** 00:03.0, and the functions after it for further devices. */
export const DEVICE = 0x18;
/** Domain-id of the first table set; further ones follow. */
const DOMAIN = 5;

/** What a guest is made of. */
export interface GuestOptions {
  /** Pages that each table set maps: a multiple of 512. */
  readonly pages: number;
  /** Devices in the first domain. Default 1. */
  readonly devices?: number;
  /** Table sets, each a domain. Default 1. */
  readonly domains?: number;
  /** Which pages are mapped. Default: all. */
  readonly mapped?: (page: number) => boolean;
  /** Where a page of a domain goes. Default: scattered over all of RAM. */
  readonly target?: (page: number, domain: number) => number;
  /** Frames behind the tables for targets: device data. Default none. */
  readonly dataFrames?: number;
  /** The host says which frames changed. */
  readonly tracked?: boolean;
  /** RAM is shared with other threads: entries are read whole. */
  readonly shared?: boolean;
  readonly config?: VtdConfig;
  readonly msi?: MsiSink;
}

/** See the file's header. */
export class BenchGuest {
  readonly unit: VtdIommu;
  readonly pages: number;
  /** RAM, as words and as bytes. */
  readonly words: Int32Array;
  readonly bytes: Uint8Array;
  /** First frame of the data. */
  readonly firstData: number;
  /** Frames of RAM. */
  readonly frames: number;
  /** Frames of the leaf tables of each table set, in order of the input pages they map. */
  readonly leaves: readonly Uint32Array[];
  readonly #changes: Uint32Array | undefined;
  #root = 0;
  #tail = 0;

  constructor(options: GuestOptions) {
    const { pages, devices = 1, domains = 1, dataFrames = 0, tracked = false, shared = false } = options;
    assert.equal(pages % 512, 0);
    const tables = (pages / 512) * domains;
    this.pages = pages;
    this.firstData = FIRST_LEAF + tables * 2;
    this.frames = this.firstData + dataFrames;
    const byteLength = this.frames * 4096;
    this.bytes = new Uint8Array(shared ? new SharedArrayBuffer(byteLength) : new ArrayBuffer(byteLength));
    const memory = new BufferMemory([{ firstPfn: 0, bytes: this.bytes }], { directWrites: true });
    this.words = (memory.window(0) as RamWindow).words;
    const places = shuffled(tables * 2).map((frame) => frame + FIRST_LEAF);
    this.leaves = Array.from({ length: domains }, (_, set) =>
      places.subarray((set * tables) / domains, ((set + 1) * tables) / domains),
    );
    for (let set = 0; set < domains; set++) this.#writeTables(set, options);
    for (let device = 0; device < devices; device++) this.setContext(DEVICE + device, 0);
    for (const root of ROOTS) this.#put(root, 0, (CONTEXTS << 12) | 1);
    if (tracked) this.#changes = new Uint32Array(this.frames);
    this.unit = new VtdIommu({
      memory: this.#changes === undefined ? memory : withChanges(memory, this.#changes),
      msi: options.msi ?? ((): undefined => undefined),
      cachingMode: true,
      regions: [],
      ...options.config,
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
    this.setRoot(0);
    mmio.write64(0x90, BigInt(QUEUE * 4096));
    mmio.write32(0x18, 0x0400_0000);
    this.enable();
    assert.equal(mmio.read32(0x1c) >>> 0, 0xc400_0000);
  }

  /** Sets the root pointer to one of two root tables that say the same. */
  setRoot(which: 0 | 1): void {
    const { mmio } = this.unit;
    mmio.write64(0x20, BigInt(ROOTS[which] * 4096));
    mmio.write32(0x18, this.#enabled() | 0x4000_0000);
    this.#root = which;
  }

  /** Goes to the other root table. */
  changeRoot(): void {
    this.setRoot(this.#root === 0 ? 1 : 0);
  }

  /** Enables translation, or says again that it is enabled. */
  enable(): void {
    this.unit.mmio.write32(0x18, this.#enabled() | 0x8000_0000);
  }

  /** Latches the interrupt table, of 256 entries, and enables remapping. */
  startInterrupts(): void {
    const { mmio } = this.unit;
    mmio.write64(0xb8, BigInt(INTERRUPTS * 4096 + 7));
    mmio.write32(0x18, this.#enabled() | 0x0100_0000);
    mmio.write32(0x18, this.#enabled() | 0x0200_0000);
  }

  /** Writes a remapped interrupt entry for one requester. */
  setInterrupt(index: number, sourceId: number, vector: number, destination: number): void {
    const at = INTERRUPTS * PAGE_WORDS + index * 4;
    this.words.set([(vector << 16) | 1, destination << 8, (1 << 18) | sourceId, 0], at);
  }

  /** Writes a context entry: which table set a device has. */
  setContext(sourceId: number, domain: number): void {
    this.#put(CONTEXTS, sourceId * 2, (topOf(domain) << 12) | 1);
    this.#put(CONTEXTS, sourceId * 2 + 1, 2 | ((DOMAIN + domain) << 8));
  }

  /** A domain-selective invalidation through the queue. */
  flushDomain(domain = 0): void {
    this.#descriptor(2 | (2 << 4) | ((DOMAIN + domain) << 16));
  }

  /** A page-selective one. */
  flushPage(page: number): void {
    this.#descriptor(2 | (3 << 4) | (DOMAIN << 16), 0, page << 12, (FIRST_INPUT + page) >>> 20);
  }

  /** A global context-cache invalidation. */
  flushContexts(): void {
    this.#descriptor(1 | (1 << 4));
  }

  /** A device-selective context-cache invalidation, as a driver sends it after moving a device out of a domain. */
  flushContext(sourceId: number, domain: number): void {
    this.#descriptor(1 | (3 << 4) | ((DOMAIN + domain) << 16), sourceId);
  }

  /** Writes a leaf entry of the first table set; answers the low word that was there. */
  setLeaf(page: number, low: number): number {
    const frame = this.leaves[0]?.[page >> 9] ?? 0;
    const at = frame * PAGE_WORDS + (page & 511) * 2;
    const before = this.words[at] ?? 0;
    this.words[at] = low;
    if (this.#changes !== undefined) this.#changes[frame] = (this.#changes[frame] ?? 0) + 1;
    return before;
  }

  /** Maps 512 pages of 1 GiB into each of `count` top-level entries of the first table set, from entry 1 on. */
  mapGigabytes(count: number): void {
    const third = topOf(0) + UPPER_FRAMES - 1;
    for (let i = 0; i < 512; i++) {
      this.#put(third, i, 0x83 | (i << 30));
      // Targets above 4 GiB: none of them is the interrupt window.
      this.words[third * PAGE_WORDS + i * 2 + 1] = (i >> 2) + 1;
    }
    for (let i = 1; i <= count; i++) this.#put(topOf(0), i, (third << 12) | 3);
  }

  /** Walks by hand; -1 where nothing is mapped. */
  targetOf(page: number, domain = 0): number {
    const leaf = this.leaves[domain]?.[page >> 9] ?? 0;
    const low = this.words[leaf * PAGE_WORDS + (page & 511) * 2] ?? 0;
    return (low & 3) === 0 ? -1 : low >>> 12;
  }

  #enabled(): number {
    return (this.unit.mmio.read32(0x1c) & 0x8680_0000) >>> 0;
  }

  #descriptor(...words: number[]): void {
    const at = QUEUE * PAGE_WORDS + this.#tail / 4;
    for (let i = 0; i < 4; i++) this.words[at + i] = words[i] ?? 0;
    this.#tail = (this.#tail + 16) % QUEUE_BYTES;
    this.unit.mmio.write32(0x88, this.#tail);
  }

  #put(frame: number, index: number, low: number): void {
    this.words[frame * PAGE_WORDS + index * 2] = low;
  }

  #writeTables(set: number, options: GuestOptions): void {
    const { mapped = (): boolean => true, target = (page: number): number => scatteredTarget(page, this.frames) } =
      options;
    const top = topOf(set);
    this.#put(top, 0, ((top + 1) << 12) | 3);
    for (const [table, leaf] of (this.leaves[set] ?? []).entries()) {
      const second = top + 2 + (table >> 9);
      this.#put(top + 1, FIRST_INPUT / 2 ** 18 + (table >> 9), (second << 12) | 3);
      this.#put(second, table & 511, (leaf << 12) | 3);
      for (let i = 0; i < 512; i++) {
        const page = table * 512 + i;
        if (mapped(page)) this.#put(leaf, i, (target(page, set) << 12) | 3);
      }
    }
  }
}

function topOf(domain: number): number {
  return UPPER_TABLES + domain * UPPER_FRAMES;
}

/** Where a page of a guest with so many frames goes, if nothing else is asked for. */
export function scatteredTarget(page: number, frames: number): number {
  return (Math.imul(page, 0x9e3779b1) >>> 0) % frames;
}

function withChanges(memory: BufferMemory, changes: Uint32Array): GuestMemory {
  return {
    ram: memory.ram,
    read: (gpa, into) => memory.read(gpa, into),
    write: (gpa, from) => memory.write(gpa, from),
    fetch: (gpa, into) => memory.fetch(gpa, into),
    writeWord: (gpa, word) => memory.writeWord(gpa, word),
    compareExchange: (gpa, expected, replacement) => memory.compareExchange(gpa, expected, replacement),
    window: (pfn) => memory.window(pfn),
    generation: (pfn) => changes[pfn] ?? 0,
  };
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

/** Random pages of a guest, each once. */
export function somePages(pages: number, count: number): Uint32Array {
  return shuffled(pages).subarray(0, count);
}

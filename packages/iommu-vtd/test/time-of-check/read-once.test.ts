/**
 * Each entry is read once, and decisions use what was read, where RAM is seen directly: the words of the window are watched, and change between any two reads of ours.
 *
 * Memory of one thread cannot change inside an entry, so changes come after a high half has been read, as from a consumer that is called, or a guest that runs, between two entries.
 */

import { BufferMemory, parseSourceId, type RamWindow, Translation } from "@iommu-kit/iommu-core";
import { ManualScheduler, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { describe, expect, it } from "vitest";
import { PasidEntry } from "../../src/spec/pasid.js";

const NIC = parseSourceId("00:03.0");
const ENTRIES = 512;
/** Tables of levels 4 to 1. */
const TABLES = [0x18, 0x12, 0x13, 0x14] as const;
const LEAF = TABLES[3];
/** A second table of level 1, which maps other targets. */
const OTHER_LEAF = 0x15;
const TARGETS = 0x20;
const OTHER_TARGETS = 2 ** 20 + 0x60;
const MAPPED = 24;

const STAGES = {
  legacy: { bits: 0x3n, config: {} },
  "second-stage": { bits: 0x303n, config: { scalableMode: true, secondStageFlags: true } },
  "first-stage": { bits: 0x67n, config: { scalableMode: true, firstStage: "4-level" } },
} as const;
type Stage = keyof typeof STAGES;

/** RAM whose words are watched: which ones are read, in their order, and what happens after a read. */
class WatchedMemory extends BufferMemory {
  /** Indices of words. */
  readonly reads: number[] = [];
  afterRead: (index: number) => void = () => undefined;
  readonly #window: RamWindow;

  constructor(words: Int32Array) {
    super([{ firstPfn: 0, bytes: new Uint8Array(words.buffer) }]);
    const watched = new Proxy(words, {
      get: (target, key) => {
        const index = typeof key === "string" ? Number(key) : Number.NaN;
        if (!Number.isInteger(index)) return Reflect.get(target, key, target) as unknown;
        const value = target[index];
        this.reads.push(index);
        this.afterRead(index);
        return value;
      },
    });
    this.#window = { firstPfn: 0, pageCount: words.length / 1024, words: watched };
  }

  override window(): RamWindow {
    return this.#window;
  }
}

function machine(stage: Stage, ram: ArrayBuffer | SharedArrayBuffer = new ArrayBuffer(2 ** 20)) {
  const { bits, config } = STAGES[stage];
  const words = new Int32Array(ram);
  const entries = new BigInt64Array(words.buffer);
  const memory = new WatchedMemory(words);
  const entry = (pfn: number): bigint => BigInt(pfn) * 4096n + bits;
  const set = (pfn: number, index: number, value: bigint): void => void (entries[pfn * ENTRIES + index] = value);
  for (let i = 0; i < 3; i++) set(TABLES[i] ?? 0, 0, entry(TABLES[i + 1] ?? 0));
  for (let i = 0; i < MAPPED; i++) {
    set(LEAF, i, entry(TARGETS + i));
    set(OTHER_LEAF, i, entry(OTHER_TARGETS + i));
  }
  const scheduler = new ManualScheduler();
  const unit = new VtdIommu({
    memory,
    scheduler,
    cachingMode: true,
    addressWidths: [48],
    iotlbEntries: 0,
    msi: () => undefined,
    ...config,
  });
  set(0x10, 0, 0x11001n);
  if (stage === "legacy") {
    set(0x11, 0x30, BigInt(TABLES[0]) * 4096n + 1n);
    set(0x11, 0x31, 0x102n);
  } else {
    set(0x11, 0x18 * 4, 0x16001n);
    set(0x16, 0, 0x17001n);
    const tables =
      stage === "first-stage" ? { PGTT: 1, FSPTPTR: TABLES[0] } : { PGTT: 2, AW: 2, SSADE: 1, SSPTPTR: TABLES[0] };
    words.set(PasidEntry.pack({ P: 1, DID: 1, PWSNP: 1, ...tables }), 0x17 * 1024);
  }
  unit.mmio.write64(0x20, stage === "legacy" ? 0x10000n : 0x10400n);
  unit.mmio.write32(0x18, 0x4000_0000);
  unit.mmio.write32(0x18, 0x8000_0000);
  const space = unit.addressSpace(NIC);
  return {
    memory,
    space,
    set,
    entry,
    /** Looks at frames of the leaf table again. */
    async resync(firstPfn: number, pageCount: number): Promise<void> {
      void space.resync({ firstPfn, pageCount });
      await scheduler.idle();
    },
    /** What the leaf table that is in use maps, page by page. */
    truth(): Map<number, number> {
      const leaf = Number((entries[TABLES[2] * ENTRIES] ?? 0n) >> 12n);
      const all = Array.from({ length: ENTRIES }, (_, i): [number, bigint] => [i, entries[leaf * ENTRIES + i] ?? 0n]);
      return new Map(all.filter(([, value]) => value !== 0n).map(([i, value]) => [i, Number(value >> 12n)]));
    },
  };
}

function pagesOf(mirror: RecordingNotifier): Map<number, number> {
  const pages = new Map<number, number>();
  for (const { iovaPfn, pageCount, gpaPfn } of mirror.held()) {
    for (let i = 0; i < pageCount; i++) pages.set(iovaPfn + i, gpaPfn + i);
  }
  return pages;
}

const wordOf = (pfn: number, index: number): number => pfn * 1024 + index * 2;

describe.each(Object.keys(STAGES) as Stage[])("tables in a window of RAM (%s)", (stage) => {
  it("a walk reads each half of each entry once, and no other", () => {
    const { memory, space } = machine(stage);
    const out = new Translation();
    space.translate(0, 1, out);
    for (const page of [0, 7, MAPPED - 1]) {
      memory.reads.length = 0;
      expect(space.translate(page, 3, out)).toBe(true);
      expect(out.gpaPfn).toBe(TARGETS + page);
      const wanted = TABLES.map((pfn) => wordOf(pfn, pfn === LEAF ? page : 0)).flatMap((at) => [at, at + 1]);
      expect(memory.reads.toSorted((a, b) => a - b)).toEqual(wanted.toSorted((a, b) => a - b));
    }
  });

  it("a walk goes by what it read: a change after any read counts from the next request on", () => {
    const { memory, space, set, entry } = machine(stage);
    const out = new Translation();
    space.translate(7, 3, out);
    const before = TARGETS + 7;
    const after = OTHER_TARGETS + 7;
    // Of the leaf, and of the entry above it, to another target, to fewer rights, to nothing, to reserved bits.
    const other = (target: number): bigint[] => [entry(target), entry(target) & ~2n, 0n, entry(target) | (1n << 51n)];
    const changes = [
      ...other(after).map((value) => ({ pfn: LEAF, index: 7, value })),
      ...other(OTHER_LEAF).map((value) => ({ pfn: TABLES[2], index: 0, value })),
    ];
    for (const { pfn, index, value } of changes) {
      for (let reads = 0; reads < 8; reads++) {
        set(LEAF, 7, entry(before));
        set(TABLES[2], 0, entry(LEAF));
        let left = reads;
        let read = false;
        let readBefore = false;
        memory.afterRead = (at) => {
          if (at === wordOf(pfn, index) + 1) read = true;
          if (at % 2 === 0 || left-- > 0) return;
          memory.afterRead = () => undefined;
          readBefore = read;
          set(pfn, index, value);
        };
        const reached = space.translate(7, 3, out) ? out.gpaPfn : "refused";
        memory.afterRead = () => undefined;
        const changed = space.translate(7, 3, new Translation()) ? after : "refused";
        if (readBefore) expect(reached).toBe(before);
        else expect([before, changed]).toContain(reached);
      }
    }
  });

  it("a scan reads the entries above a table once, and those of a table it compares at most twice", async () => {
    const { memory, space, set, entry, resync, truth } = machine(stage);
    const mirror = new RecordingNotifier();
    space.attach(mirror);
    await resync(0, ENTRIES);
    for (const [first, count, most] of [
      [0, ENTRIES, 2],
      [3, 1, 1],
      [3, 9, 1],
    ] as const) {
      set(LEAF, 3, (truth().get(3) ?? 0) === TARGETS + 3 ? entry(OTHER_TARGETS + 3) : entry(TARGETS + 3));
      memory.reads.length = 0;
      await resync(first, count);
      const times = new Map<number, number>();
      for (const at of memory.reads) times.set(at, (times.get(at) ?? 0) + 1);
      for (const pfn of TABLES.slice(0, 3))
        expect([times.get(wordOf(pfn, 0)), times.get(wordOf(pfn, 0) + 1)]).toEqual([1, 1]);
      const inLeaf = [...times].filter(([at]) => Math.floor(at / 1024) === LEAF);
      expect(inLeaf.length).toBe(count * 2);
      expect(Math.max(...inLeaf.map(([, n]) => n))).toBeLessThanOrEqual(most);
      expect(pagesOf(mirror)).toEqual(truth());
    }
  });

  it("a scan tells, and remembers, one reading: whatever changes between two reads, a page is what it was or what it became, and the next look finds the rest", async () => {
    const { memory, space, set, entry, resync, truth } = machine(stage);
    const mirror = new RecordingNotifier();
    space.attach(mirror);
    const kinds = new Set<string>();
    // The guest's own change makes the table differ; the other one comes after so many entries have been read.
    const ambushes = [0, 2, 3, 5, 12, 13, 14, 16, 28, 300, 516, 600];
    for (const after of ambushes) {
      for (const [changed, ambushed] of [
        [9, 9],
        [9, 2],
        [2, 9],
        [9, 10],
        [2, 40],
      ] as const) {
        for (const value of [0n, entry(OTHER_TARGETS + ambushed), entry(OTHER_TARGETS + ambushed) & ~2n]) {
          for (let i = 0; i < MAPPED; i++) set(LEAF, i, entry(TARGETS + i));
          set(LEAF, 40, 0n);
          await resync(0, ENTRIES);
          expect(pagesOf(mirror)).toEqual(truth());
          set(LEAF, changed, entry(OTHER_TARGETS + 100));
          const old = truth();
          let left = after;
          memory.afterRead = (at) => {
            if (at % 2 === 0 || left-- > 0) return;
            memory.afterRead = () => undefined;
            set(LEAF, ambushed, value);
          };
          await resync(0, ENTRIES);
          memory.afterRead = () => undefined;
          const told = pagesOf(mirror).get(ambushed);
          const [was, is] = [old.get(ambushed), truth().get(ambushed)];
          expect([was, is]).toContain(told);
          if (was !== is) kinds.add(told === was ? "old" : "new");
          // Every other page is what it is.
          expect(pagesOf(mirror).set(ambushed, 0)).toEqual(truth().set(ambushed, 0));
          await resync(0, ENTRIES);
          expect(pagesOf(mirror)).toEqual(truth());
        }
      }
    }
    expect(kinds).toEqual(new Set(["old", "new"]));
    mirror.check();
  });

  it("in RAM that other threads write is never read by halves: neither by a walk nor by a scan", async () => {
    const { memory, space, set, entry, resync, truth } = machine(stage, new SharedArrayBuffer(2 ** 20));
    const mirror = new RecordingNotifier();
    space.attach(mirror);
    expect(space.translate(7, 3, new Translation())).toBe(true);
    set(LEAF, 7, entry(OTHER_TARGETS + 7));
    await resync(0, ENTRIES);
    set(LEAF, 9, 0n);
    await resync(9, 1);
    expect(pagesOf(mirror)).toEqual(truth());
    expect(memory.reads).toEqual([]);
  });
});

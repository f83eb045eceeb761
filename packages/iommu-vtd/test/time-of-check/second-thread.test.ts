/**
 * Tables in shared memory that another thread changes while the unit reads them: each entry is read once for each decision, flags are set by compare-and-set, and a completed unmap means
 * that no access to the page is in flight (design D10).
 */

import {
  BufferMemory,
  byteAddress,
  type FrameRange,
  type GuestMemory,
  parseSourceId,
  Translation,
} from "@iommu-kit/iommu-core";
import { ManualScheduler, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { VtdIommu, type VtdConfig } from "@iommu-kit/iommu-vtd";
import { afterEach, describe, expect, it } from "vitest";
import { type Place, secondCpu, stopThreads } from "./second-cpu.js";

const RAM_BYTES = 2 ** 20;
const NIC = parseSourceId("00:03.0");
/** Frames of the tables of 00:03.0: level 3, 2, and two tables of level 1. */
const TOP = 0x12;
const MIDDLE = 0x13;
const LEAF_A = 0x14;
const LEAF_B = 0x15;
/** Targets that the tables name at some time: pages of A, pages of B. Anything else was never allowed. */
const PAGES_A = 0x20;
const PAGES_B = 0x60;
const ROUNDS = 400;
const ACCESSED = 0x100n;

afterEach(stopThreads);

/** Counts how often each entry is fetched. No window: every read is a fetch. */
class CountedMemory implements GuestMemory {
  readonly ram: readonly FrameRange[];
  readonly fetched: number[] = [];
  readonly #inner: BufferMemory;

  constructor(inner: BufferMemory) {
    this.#inner = inner;
    this.ram = inner.ram;
  }

  read(gpa: number, into: Uint8Array): boolean {
    return this.#inner.read(gpa, into);
  }
  write(gpa: number, from: Uint8Array): boolean {
    return this.#inner.write(gpa, from);
  }
  fetch(gpa: number, into: Int32Array): boolean {
    this.fetched.push(gpa);
    return this.#inner.fetch(gpa, into);
  }
  writeWord(gpa: number, word: number): boolean {
    return this.#inner.writeWord(gpa, word);
  }
  compareExchange(gpa: number, expected: number, replacement: number): boolean {
    return this.#inner.compareExchange(gpa, expected, replacement);
  }
}

function machine(
  windows: boolean,
  config: VtdConfig = {},
): {
  readonly shared: SharedArrayBuffer;
  readonly entries: BigInt64Array;
  readonly memory: GuestMemory & { readonly fetched?: number[] };
  readonly unit: VtdIommu;
  readonly scheduler: ManualScheduler;
} {
  const shared = new SharedArrayBuffer(RAM_BYTES);
  const inner = new BufferMemory([{ firstPfn: 0, bytes: new Uint8Array(shared) }]);
  const memory = windows ? inner : new CountedMemory(inner);
  const entries = new BigInt64Array(shared);
  const set = (pfn: number, index: number, value: bigint): void =>
    void Atomics.store(entries, pfn * 512 + index, value);
  const table = (pfn: number): bigint => BigInt(pfn) * 4096n + 3n;
  set(0x10, 0, 0x11001n);
  set(0x11, 0x30, 0x12001n);
  set(0x11, 0x31, 0x101n);
  set(TOP, 0, table(MIDDLE));
  set(MIDDLE, 0, table(LEAF_A));
  for (let i = 0; i < 32; i++) {
    set(LEAF_A, i, table(PAGES_A + i));
    set(LEAF_B, i, table(PAGES_B + i));
  }
  const scheduler = new ManualScheduler();
  const unit = new VtdIommu({
    memory,
    scheduler,
    cachingMode: true,
    addressWidths: [39],
    msi: () => undefined,
    ...config,
  });
  unit.mmio.write64(0x20, 0x10000n);
  unit.mmio.write32(0x18, 0x4000_0000);
  unit.mmio.write32(0x18, 0x8000_0000);
  return { shared, entries, memory, unit, scheduler };
}

const flushAll = (unit: VtdIommu): void => unit.mmio.write64(0xf8, (1n << 63n) | (1n << 60n));
const from = (pfn: number): bigint => BigInt(pfn) * 4096n + 3n;

describe.each([true, false])("tables that another thread changes (direct windows: %s)", (windows) => {
  it("a walk follows one table or the other, never a mixture, and reads each entry once", async () => {
    const { shared, memory, unit } = machine(windows, { iotlbEntries: 0 });
    const thread = await secondCpu(shared, [{ gpa: MIDDLE * 4096, values: [from(LEAF_A), from(LEAF_B), 0n] }]);
    const space = unit.addressSpace(NIC);
    const out = new Translation();
    const seen = new Set<string>();
    const begun = thread.changes();
    for (let i = 0; seen.size < 3 || i < 3000; i++) {
      const pfn = i % 32;
      if (memory.fetched !== undefined) memory.fetched.length = 0;
      const reached = space.translate(pfn, 3, out);
      const kind = !reached
        ? "none"
        : out.gpaPfn === PAGES_A + pfn
          ? "A"
          : out.gpaPfn === PAGES_B + pfn
            ? "B"
            : "wrong";
      seen.add(kind);
      expect(kind).not.toBe("wrong");
      const { fetched = [] } = memory;
      expect(new Set(fetched).size).toBe(fetched.length);
      if (i > 2_000_000) break;
    }
    expect(seen).toEqual(new Set(["A", "B", "none"]));
    expect(thread.changes()).toBeGreaterThan(begun);
  });

  it("a scan announces pages that the tables named, keeps its contract, and once the guest rests and invalidates, exactly what they say", async () => {
    const { shared, entries, unit, scheduler } = machine(windows);
    const mirror = new RecordingNotifier();
    unit.addressSpace(NIC).attach(mirror);
    const places: Place[] = [{ gpa: MIDDLE * 4096, values: [from(LEAF_A), from(LEAF_B), 0n, from(LEAF_A)] }];
    for (let i = 0; i < 32; i += 3)
      places.push({ gpa: LEAF_A * 4096 + i * 8, values: [from(PAGES_A + i), 0n, from(PAGES_B + i)] });
    const thread = await secondCpu(shared, places);
    const kinds = new Set<string>();
    // On a busy machine the other thread may not have run yet.
    for (let round = 0; round < ROUNDS || (kinds.size < 2 && round < 1000 * ROUNDS); round++) {
      flushAll(unit);
      await scheduler.idle();
      for (const { iovaPfn, pageCount, gpaPfn } of mirror.held()) {
        for (let i = 0; i < pageCount; i++) {
          const kind = gpaPfn === PAGES_A + iovaPfn ? "A" : gpaPfn === PAGES_B + iovaPfn ? "B" : "wrong";
          kinds.add(kind);
        }
      }
    }
    expect(kinds.has("wrong")).toBe(false);
    expect(kinds.size).toBe(2);
    await thread.stop();
    flushAll(unit);
    await scheduler.idle();
    const leaf = Number(entries[MIDDLE * 512] ?? 0n);
    const wanted =
      leaf === 0
        ? 0
        : Array.from({ length: 32 }, (_, i) => entries[((leaf - 3) / 4096) * 512 + i]).filter((entry) => entry !== 0n)
            .length;
    expect(mirror.pageCount).toBe(wanted);
    mirror.check();
  });
});

describe("accessed and dirty flags", () => {
  it("are set by compare-and-set: an entry that another thread has changed is never overwritten", async () => {
    const { shared, entries, unit } = machine(false, {
      scalableMode: true,
      secondStageFlags: true,
      iotlbEntries: 0,
      addressWidths: [39],
    });
    // Scalable mode: context with PASID directory, second stage with flags.
    const set = (pfn: number, index: number, value: bigint): void =>
      void Atomics.store(entries, pfn * 512 + index, value);
    set(0x11, 0x30, 0n);
    set(0x11, 0x31, 0n);
    set(0x11, 0x18 * 4, 0x16001n);
    set(0x16, 0, 0x17001n);
    // P, AW 39, PGTT second stage, SSADE; DID 1; PWSNP.
    set(0x17, 0, BigInt(TOP) * 4096n + (1n << 2n) + (2n << 6n) + (1n << 9n) + 1n);
    set(0x17, 1, 1n + (1n << 23n));
    unit.mmio.write64(0x20, 0x10400n);
    unit.mmio.write32(0x18, 0xc000_0000);
    const space = unit.addressSpace(NIC);
    const out = new Translation();
    expect(space.translate(1, 2, out)).toBe(true);
    expect((entries[LEAF_A * 512 + 1] ?? 0n) & ACCESSED).toBe(ACCESSED);
    // The other thread writes entries with a mark of its own in the ignored bits: a value of one with the mark of another would be a torn or lost update.
    const values = [from(PAGES_A) | (1n << 52n), from(PAGES_B) | (2n << 52n)];
    const thread = await secondCpu(shared, [{ gpa: LEAF_A * 4096, values }]);
    const flags = 0x300n;
    for (let i = 0; i < 5000; i++) {
      space.translate(0, 2, out);
      const now = Atomics.load(entries, LEAF_A * 512) & ~flags;
      expect(values).toContain(now);
    }
    await thread.stop();
  });
});

describe("a lease", () => {
  it("of a page: the unmap that covers it is not complete before the device, in another thread or not, has let go", async () => {
    const { entries, unit, scheduler } = machine(true);
    const space = unit.addressSpace(NIC);
    const lease = space.dma.segments(byteAddress(1), 4096, 3);
    expect(lease?.segments).toEqual([{ gpa: (PAGES_A + 1) * 4096, byteLength: 4096 }]);
    Atomics.store(entries, LEAF_A * 512 + 1, 0n);
    flushAll(unit);
    await scheduler.idle();
    expect(unit.mmio.read64(0xf8) >> 63n).toBe(1n);
    expect(lease?.valid).toBe(true);
    lease?.release();
    await scheduler.idle();
    expect(unit.mmio.read64(0xf8) >> 63n).toBe(0n);
    expect(space.dma.segments(byteAddress(1), 4096, 3)).toBeUndefined();
  });
});

/**
 * A guest's CPU in another thread stores whole entries of 64 bits: the unit never sees one half of one value beside the other half of another.
 *
 * Every entry that changes takes two values in turn, and each half tells which of them it belongs to: a target below 4 GiB, and one above that differs in its low half too.
 */

import { type Access, BufferMemory, type GuestMemory, parseSourceId, Translation } from "@iommu-kit/iommu-core";
import { ManualScheduler, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { afterEach, describe, expect, it } from "vitest";
import { PasidEntry } from "../../src/spec/pasid.js";
import { type Place, secondCpu, stopThreads } from "./second-cpu.js";

afterEach(stopThreads);

const NIC = parseSourceId("00:03.0");
const TOP = 0x12;
const MIDDLE = 0x13;
const LEAF = 0x14;
/** Targets of page `i`: one of these and `i`. */
const NEAR = 0x20;
const FAR = 2 ** 20 + 0x60;
const ENTRIES = 512;
/** Entries that change. Few: each changes the more often. */
const FLIPPING = 32;
/** Rights, and in first-stage entries U, A and D: nothing is left for the unit to set. */
const BITS = { legacy: 0x3n, "first-stage": 0x67n } as const;
type Stage = keyof typeof BITS;

interface Machine {
  readonly shared: SharedArrayBuffer;
  readonly unit: VtdIommu;
  readonly scheduler: ManualScheduler;
  /** Entry `index` of the leaf table, taking both its values in turn. */
  flipping(index: number): Place;
}

function machine(stage: Stage, windows: boolean): Machine {
  const shared = new SharedArrayBuffer(2 ** 20);
  const inner = new BufferMemory([{ firstPfn: 0, bytes: new Uint8Array(shared) }]);
  const memory: GuestMemory = windows ? inner : withoutWindows(inner);
  const entries = new BigInt64Array(shared);
  const set = (pfn: number, index: number, value: bigint): void => void (entries[pfn * ENTRIES + index] = value);
  const entry = (pfn: number): bigint => BigInt(pfn) * 4096n + BITS[stage];
  set(TOP, 0, entry(MIDDLE));
  set(MIDDLE, 0, entry(LEAF));
  const scheduler = new ManualScheduler();
  const unit = new VtdIommu({
    memory,
    scheduler,
    cachingMode: true,
    addressWidths: [39, 48],
    iotlbEntries: 0,
    msi: () => undefined,
    ...(stage === "first-stage" && { scalableMode: true, firstStage: "4-level" as const }),
  });
  set(0x10, 0, 0x11001n);
  if (stage === "legacy") {
    set(0x11, 0x30, BigInt(TOP) * 4096n + 1n);
    set(0x11, 0x31, 0x101n);
  } else {
    // Four levels: one table more on top.
    set(0x18, 0, entry(TOP));
    set(0x11, 0x18 * 4, 0x16001n);
    set(0x16, 0, 0x17001n);
    const pasid = PasidEntry.pack({ P: 1, PGTT: 1, DID: 1, PWSNP: 1, FSPTPTR: 0x18 });
    new Int32Array(shared, 0x17 * 4096, pasid.length).set(pasid);
  }
  unit.mmio.write64(0x20, stage === "legacy" ? 0x10000n : 0x10400n);
  unit.mmio.write32(0x18, 0x4000_0000);
  unit.mmio.write32(0x18, 0x8000_0000);
  return {
    shared,
    unit,
    scheduler,
    flipping: (index) => ({ gpa: LEAF * 4096 + index * 8, values: [entry(NEAR + index), entry(FAR + index)] }),
  };
}

/** The same memory for a host that shows nothing of it: every entry is fetched. */
function withoutWindows(inner: BufferMemory): GuestMemory {
  return {
    ram: inner.ram,
    read: (gpa, into) => inner.read(gpa, into),
    write: (gpa, from) => inner.write(gpa, from),
    fetch: (gpa, into) => inner.fetch(gpa, into),
    writeWord: (gpa, word) => inner.writeWord(gpa, word),
    compareExchange: (gpa, expected, replacement) => inner.compareExchange(gpa, expected, replacement),
  };
}

/** Which value of its entry a target comes from. */
function valueOf(iovaPfn: number, gpaPfn: number): string {
  if (gpaPfn === NEAR + iovaPfn) return "near";
  return gpaPfn === FAR + iovaPfn ? "far" : `halves of both: 0x${gpaPfn.toString(16)}`;
}

const stages: readonly Stage[] = ["legacy", "first-stage"];
const cases = stages.flatMap((stage) => [true, false].map((windows) => ({ stage, windows })));

describe.each(cases)("entries of 64 bits that another thread stores ($stage, direct windows: $windows)", (how) => {
  it("are seen whole by a walk", async () => {
    const { shared, unit, flipping } = machine(how.stage, how.windows);
    const thread = await secondCpu(shared, [flipping(7)]);
    const space = unit.addressSpace(NIC);
    const out = new Translation();
    const seen = new Set<string>();
    const wanted: Access = 3;
    const begun = thread.changes();
    for (let i = 0; i < 250_000 || (seen.size < 2 && i < 50_000_000); i++) {
      seen.add(space.translate(7, wanted, out) ? valueOf(7, out.gpaPfn) : "refused");
    }
    expect(seen).toEqual(new Set(["near", "far"]));
    expect(thread.changes()).toBeGreaterThan(begun);
  });

  it("are seen whole by the scans of pages and of domains", async () => {
    const { shared, unit, scheduler, flipping } = machine(how.stage, how.windows);
    const mirror = new RecordingNotifier();
    const places = Array.from({ length: FLIPPING }, (_, index) => flipping(index));
    await secondCpu(shared, places);
    const space = unit.addressSpace(NIC);
    space.attach(mirror);
    const seen = new Set<string>();
    for (let round = 0; round < 12_000 || (seen.size < 2 && round < 200_000); round++) {
      // Where there is one processor, the other thread gets its turn too.
      if (round % 1000 === 999) await new Promise((resolve) => setTimeout(resolve, 1));
      void space.resync(round % 2 === 0 ? { firstPfn: 0, pageCount: ENTRIES } : { firstPfn: 7, pageCount: 1 });
      await scheduler.idle();
      for (const { iovaPfn, pageCount, gpaPfn } of mirror.held()) {
        for (let i = 0; i < pageCount; i++) seen.add(valueOf(iovaPfn + i, gpaPfn + i));
      }
    }
    expect(seen).toEqual(new Set(["near", "far"]));
  });
});

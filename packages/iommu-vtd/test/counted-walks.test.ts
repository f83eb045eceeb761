/**
 * What translation reads of guest memory and asks of the host, counted: nothing is walked again that the caches may answer, and no window is asked for twice.
 */

import { BufferMemory, type RamWindow } from "@iommu-kit/iommu-core";
import { GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { EntryReader } from "../src/translate/entry-reader.js";
import { ask } from "./support/watched-guest.js";

const NIC = "00:03.0";
const PFN = 0x10;
const TARGET = 0x800;

type Kind = "legacy" | "second-stage" | "first-stage" | "nested";

const OPTIONS: GuestOptions = {
  scalableMode: true,
  firstStage: "4-level",
  nested: true,
  secondStageFlags: true,
  pasidWidth: 20,
};

/** Frame 0x10 goes to 0x800; nested, the second stage maps tables and target onto themselves. Scalable entries keep flags. */
function machine(kind: Kind) {
  const guest = new GuestDriver(kind === "legacy" ? {} : OPTIONS);
  if (kind === "legacy") {
    guest.context(NIC, { did: 6 });
    guest.map(6, { iovaPfn: PFN, gpaPfn: TARGET });
    guest.start();
    return { guest, space: guest.device(NIC) };
  }
  guest.scalableContext(NIC, { pasids: true });
  addPasid(guest, 0, kind);
  guest.start("scalable");
  return { guest, space: guest.device(NIC) };
}

/** A PASID of domain 6 + PASID. */
function addPasid(guest: GuestDriver, pasid: number, type: Exclude<Kind, "legacy">): void {
  const did = 6 + pasid;
  const first = guest.newFirstStageTables();
  const second = guest.tables(did);
  if (type === "second-stage") second.map(PFN, 1, TARGET);
  else first.map(PFN, 1, TARGET);
  if (type === "nested") {
    second.map(TARGET, 1, TARGET);
    second.map(0x20000, 512, 0x20000);
  }
  const withFirst = type === "second-stage" ? {} : { firstRootPfn: first.rootPfn };
  const fields = { PWSNP: 1, ...(type === "first-stage" ? {} : { SSADE: 1 }) };
  guest.pasid(NIC, pasid, { did, type, levels: 4, ...withFirst, fields });
}

/** How many entries something reads. */
function reads(guest: GuestDriver, what: () => void): number {
  guest.memory.resetCounters();
  what();
  return guest.memory.counters.fetches;
}

describe.each(["legacy", "second-stage", "first-stage", "nested"] as const)("a page of a %s mapping", (kind) => {
  it("that a read has cached serves a write too, if no dirty flag is missing", () => {
    const { guest, space } = machine(kind);
    expect(ask(space, PFN, 2)).toBe(TARGET);
    guest.invalidate.all();
    expect(ask(space, PFN, 1)).toBe(TARGET);
    expect(reads(guest, () => expect(ask(space, PFN, 2)).toBe(TARGET))).toBe(0);
  });

  it("with all its flags set costs one entry for each level, and no write", () => {
    const { guest, space } = machine(kind);
    ask(space, PFN, 2);
    // Nested, the four tables and the target are themselves found through four levels.
    const levels = kind === "nested" ? 4 * (4 + 1) + 4 : 4;
    for (const access of [1, 2] as const) {
      guest.invalidate.all();
      expect(reads(guest, () => ask(space, PFN, access))).toBe(levels);
      expect(guest.memory.counters.compareExchanges).toBe(0);
    }
  });
});

describe("the translation cache", () => {
  it("asks nothing of a first-stage page for what the second stage of another PASID is missing", () => {
    const { guest, space } = machine("first-stage");
    addPasid(guest, 1, "nested");
    const other = guest.device(NIC, { pasid: 1 });
    ask(space, PFN, 2);
    ask(other, PFN, 2);
    const leaf = guest.tables(7).entryGpa(TARGET, 1);
    guest.memory.poke(leaf, guest.memory.peek(leaf) & ~0x200);
    guest.invalidate.all();
    expect(ask(other, PFN, 1)).toBe(TARGET);
    expect(ask(space, PFN, 1)).toBe(TARGET);
    expect(reads(guest, () => expect(ask(space, PFN, 2)).toBe(TARGET))).toBe(0);
  });

  function cached(iotlbEntries: number) {
    const guest = new GuestDriver({ iotlbEntries });
    guest.context(NIC, { did: 5 });
    guest.map(5, { iovaPfn: 0, pageCount: 128, gpaPfn: 0x1000 });
    guest.start();
    return { guest, space: guest.device(NIC) };
  }

  it("holds a working set of a quarter of its size", () => {
    const { guest, space } = cached(512);
    const all = (): void => {
      for (let pfn = 0; pfn < 128; pfn++) expect(ask(space, pfn)).toBe(0x1000 + pfn);
    };
    all();
    expect(reads(guest, all)).toBe(0);
  });

  it("holds nothing if it has no entries", () => {
    const { guest, space } = cached(0);
    ask(space, 7);
    expect(reads(guest, () => expect(ask(space, 7)).toBe(0x1007))).toBe(4);
  });
});

describe("a window of RAM", () => {
  const PAGES = 4;
  const NEAR = 16;
  const FAR = 2 ** 20;
  const HIDDEN = 0x8000;

  /** RAM near and far, and some that the host does not show. */
  class CountedMemory extends BufferMemory {
    readonly asked = new Map<number, number>();

    override window(pfn: number): RamWindow | undefined {
      const window = pfn >= HIDDEN && pfn < HIDDEN + PAGES ? undefined : super.window(pfn);
      const region = window?.firstPfn ?? HIDDEN;
      this.asked.set(region, (this.asked.get(region) ?? 0) + 1);
      return window;
    }
  }

  const memoryOf = (near: ArrayBuffer | SharedArrayBuffer, far: ArrayBuffer | SharedArrayBuffer): CountedMemory => {
    const regions = [
      { firstPfn: NEAR, bytes: new Uint8Array(near) },
      { firstPfn: HIDDEN, bytes: new Uint8Array(PAGES * 4096) },
      { firstPfn: FAR, bytes: new Uint8Array(far) },
    ];
    return new CountedMemory(regions);
  };

  it.each([
    ["both of one thread", new ArrayBuffer(PAGES * 4096), new ArrayBuffer(PAGES * 4096)],
    ["one of them shared", new ArrayBuffer(PAGES * 4096), new SharedArrayBuffer(PAGES * 4096)],
    ["both shared", new SharedArrayBuffer(PAGES * 4096), new SharedArrayBuffer(PAGES * 4096)],
  ])("below 4 GiB and one above are asked for once each, %s", (_name, near, far) => {
    const memory = memoryOf(near, far);
    const reader = new EntryReader(memory);
    for (let i = 0; i < 3; i++) {
      for (const pfn of [NEAR, NEAR + 1, FAR, FAR + PAGES - 1, NEAR + PAGES - 1, FAR]) {
        expect(reader.fetch(pfn, 5)).toBe(true);
        expect(reader.windowOf(pfn)?.firstPfn).toBe(pfn < FAR ? NEAR : FAR);
        expect(reader.follow((pfn % 2 ** 20) << 12, Math.floor(pfn / 2 ** 20), 5)).toBeGreaterThanOrEqual(0);
      }
    }
    expect(Object.fromEntries(memory.asked)).toEqual({ [NEAR]: 1, [FAR]: 1 });
  });

  it("is still known after entries that the host does not show", () => {
    const memory = memoryOf(new ArrayBuffer(PAGES * 4096), new ArrayBuffer(PAGES * 4096));
    const reader = new EntryReader(memory);
    for (const pfn of [NEAR, HIDDEN, HIDDEN + 1, HIDDEN, NEAR, HIDDEN, NEAR]) expect(reader.fetch(pfn, 5)).toBe(true);
    expect(memory.asked.get(NEAR)).toBe(1);
  });
});

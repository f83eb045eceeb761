/**
 * Budgets at their real size: a guest that describes 2^36 pages with the limits that a unit has by itself, and an honest one with 64 GiB in pages of 4 KiB.
 */

import type { FrameRange, GuestMemory, MapNotifier } from "@iommu-kit/iommu-core";
import { ManualScheduler } from "@iommu-kit/iommu-core/testing";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { describe, expect, it } from "vitest";

const GIB = 2 ** 18;
const NIC = 0x18;
const ROOT = 64 * GIB;
const CONTEXTS = ROOT + 1;
const TOP = ROOT + 2;
/** Tables from here on: 64 of level 2, then 2^15 of level 1. */
const MIDDLE = ROOT + 3;
const LEAVES = MIDDLE + 65;

/** Tables that are computed when they are read. `entry` answers [low, high] of a table's entry. */
class ComputedMemory implements GuestMemory {
  readonly ram: readonly FrameRange[];
  entriesRead = 0;
  readonly #entry: (pfn: number, index: number) => number;

  constructor(ramPages: number, entry: (pfn: number, index: number) => number) {
    this.ram = [{ firstPfn: 0, pageCount: ramPages }];
    this.#entry = entry;
  }

  fetch(gpa: number, into: Int32Array): boolean {
    const pfn = Math.floor(gpa / 4096);
    for (let i = 0; i < into.length; i += 2) {
      const value = this.#entry(pfn, ((gpa % 4096) + i * 4) / 8);
      into[i] = value | 0;
      into[i + 1] = Math.floor(value / 2 ** 32);
    }
    this.entriesRead += into.length / 2;
    return true;
  }

  read(): boolean {
    return false;
  }

  write(): boolean {
    return false;
  }

  writeWord(): boolean {
    return false;
  }

  compareExchange(): boolean {
    return false;
  }
}

/** Root and context entries that lead the NIC to a table of four levels; anything else by `entry`. */
function machine(
  ramPages: number,
  entry: (pfn: number, index: number) => number,
): {
  readonly memory: ComputedMemory;
  readonly scheduler: ManualScheduler;
  readonly unit: VtdIommu;
} {
  const memory = new ComputedMemory(ramPages, (pfn, index) => {
    if (pfn === ROOT) return index === 0 ? CONTEXTS * 4096 + 1 : 0;
    if (pfn === CONTEXTS) return index === NIC * 2 ? TOP * 4096 + 1 : index === NIC * 2 + 1 ? 0x502 : 0;
    return entry(pfn, index);
  });
  const scheduler = new ManualScheduler();
  const unit = new VtdIommu({ memory, scheduler, cachingMode: true, msi: () => undefined });
  unit.mmio.write64(0x20, BigInt(ROOT) * 4096n);
  unit.mmio.write32(0x18, 0x4000_0000);
  unit.mmio.write32(0x18, 0x8000_0000);
  return { memory, scheduler, unit };
}

/** Counts what it is told, and keeps nothing. */
class Counter implements MapNotifier {
  readonly kind = "map";
  readonly granularity = "page";
  held = 0;
  mapped = 0;
  unmapped = 0;

  map(_iovaPfn: number, pageCount: number): void {
    this.held += pageCount;
    this.mapped += pageCount;
  }

  unmap(_iovaPfn: number, pageCount: number): void {
    this.held -= pageCount;
    this.unmapped += pageCount;
  }
}

function invalidate(unit: VtdIommu): void {
  unit.mmio.write64(0xf8, (1n << 63n) | (1n << 60n));
}

/** Runs the event loop task by task; answers the most that a task, or what came before it, has read and announced. */
function drain(
  guest: ReturnType<typeof machine>,
  counter: Counter,
): { readonly entries: number; readonly mappings: number } {
  let entries = 0;
  let mappings = 0;
  let told = 0;
  do {
    entries = Math.max(entries, guest.memory.entriesRead);
    mappings = Math.max(mappings, counter.mapped + counter.unmapped - told);
    told = counter.mapped + counter.unmapped;
    guest.memory.entriesRead = 0;
  } while (guest.scheduler.turn() > 0);
  return { entries, mappings };
}

describe("with the limits that a unit has by itself", () => {
  it("a table whose 512 entries all point to itself fails closed, one slice at a time, and recovers", async () => {
    let hostile = true;
    const guest = machine(GIB, (pfn) => (hostile && pfn === TOP ? TOP * 4096 + 3 : 0));
    const counter = new Counter();
    const spent: string[] = [];
    guest.unit.events.on("budget", ({ budget, limit }) => spent.push(`${budget} ${limit}`));
    hostile = false;
    guest.unit.addressSpace(NIC).attach(counter);
    drain(guest, counter);
    hostile = true;
    invalidate(guest.unit);
    const most = drain(guest, counter);
    await guest.scheduler.idle();
    expect(most.entries).toBeLessThanOrEqual(65_536 + 5 * 512);
    expect(most.mappings).toBeLessThanOrEqual(65_536 + 512);
    expect(spent).toEqual([`mappings ${4 * GIB}`]);
    expect(counter.held).toBe(0);
    expect(guest.unit.mmio.read64(0xf8) >> 63n).toBe(0n);
    hostile = false;
    invalidate(guest.unit);
    drain(guest, counter);
    expect(counter.held).toBe(0);
  });

  it("an honest guest maps 64 GiB in pages of 4 KiB, is followed exactly, and never meets the budget", async () => {
    let mapped = true;
    const guest = machine(64 * GIB + 2 ** 20, (pfn, index) => {
      if (pfn === TOP) return index === 0 ? MIDDLE * 4096 + 3 : 0;
      if (pfn === MIDDLE) return index < 64 ? (MIDDLE + 1 + index) * 4096 + 3 : 0;
      if (pfn < LEAVES) return (LEAVES + (pfn - MIDDLE - 1) * 512 + index) * 4096 + 3;
      // Every page goes elsewhere: no two neighbours are one run.
      const page = (pfn - LEAVES) * 512 + index;
      return mapped ? (page % 2 === 0 ? page : 64 * GIB - page) * 4096 + 3 : 0;
    });
    const counter = new Counter();
    const spent: string[] = [];
    guest.unit.events.on("budget", ({ budget }) => spent.push(budget));
    // The interrupt window is not announced, as an input or as a target; half of the latter's pages lie in the former.
    const hole = 0x100 + 0x80;
    guest.unit.addressSpace(NIC).attach(counter);
    const most = drain(guest, counter);
    await guest.scheduler.idle();
    expect(counter.held).toBe(64 * GIB - hole);
    expect(most.mappings).toBeLessThanOrEqual(65_536 + 512);
    expect(most.entries).toBeLessThanOrEqual(65_536 + 5 * 512);
    // Told again of the same: not one event.
    invalidate(guest.unit);
    drain(guest, counter);
    expect(counter.mapped).toBe(64 * GIB - hole);
    expect(counter.unmapped).toBe(0);
    mapped = false;
    invalidate(guest.unit);
    drain(guest, counter);
    expect(counter.held).toBe(0);
    expect(spent).toEqual([]);
  });
});

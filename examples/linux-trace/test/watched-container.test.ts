import { Access } from "@iommu-kit/iommu-core";
import { MemoryContainer, shadow } from "@iommu-kit/notifier-vfio";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { WatchedContainer } from "../src/measure/watched-container.js";

/** A container on a clock that goes on by 1 with every reading. */
function watched(): WatchedContainer {
  let now = 0;
  return new WatchedContainer(new MemoryContainer(shadow), () => (now += 1));
}

/** Targets of pages, one by one. */
class NaiveCount {
  readonly held = new Map<number, number>();
  readonly gone = new Map<number, number>();
  vanished = 0;

  /** `false`, and nothing happens, where a page is held already. */
  map(pfn: number, count: number, gpaPfn: number): boolean {
    for (let page = pfn; page < pfn + count; page++) if (this.held.has(page)) return false;
    for (let page = pfn; page < pfn + count; page++) {
      const target = gpaPfn + (page - pfn);
      this.held.set(page, target);
      if (this.gone.get(page) === target) this.vanished += 1;
    }
    return true;
  }

  unmap(pfn: number, count: number): void {
    for (let page = pfn; page < pfn + count; page++) {
      const target = this.held.get(page);
      if (target !== undefined) this.gone.set(page, target);
      this.held.delete(page);
    }
  }
}

describe("a watched container", () => {
  it("counts a page that was unmapped and mapped again within a step", () => {
    const container = watched();
    container.map(0x10, 4, 0x100, Access.readWrite);
    container.endStep();
    container.unmapAll();
    container.map(0x10, 4, 0x100, Access.readWrite);
    expect(container.endStep()).toEqual({ fewestPages: 0, pages: 4 });
    expect(container.gaps).toEqual({
      vanishedPages: 4,
      steps: 1,
      refusedRequests: 0,
      longestCalls: 1,
      longestMilliseconds: 1,
      totalMilliseconds: 1,
    });
  });

  it("counts no page that comes back in a later step, elsewhere, or with other rights", () => {
    const container = watched();
    for (const pfn of [1, 2, 3]) container.map(pfn, 1, pfn + 0x100, Access.readWrite);
    container.endStep();
    container.unmapAll();
    container.map(2, 1, 0x200, Access.readWrite);
    container.map(3, 1, 0x103, Access.read);
    container.endStep();
    container.map(1, 1, 0x101, Access.readWrite);
    container.endStep();
    expect(container.gaps).toMatchObject({ vanishedPages: 0, steps: 0 });
  });

  it("counts what a device at work asked for in vain, and only of pages that stay mapped", () => {
    const container = watched();
    container.map(1, 2, 0x101, Access.readWrite);
    container.endStep();
    container.recent.used(1, 0x101);
    container.recent.used(2, 0x102);
    container.unmapAll();
    container.map(1, 1, 0x101, Access.readWrite);
    container.endStep();
    expect(container.gaps).toMatchObject({ vanishedPages: 1, refusedRequests: 1 });
  });

  it("is silent about a step in which nothing happened", () => {
    const container = watched();
    expect(container.endStep()).toBeUndefined();
    container.map(1, 1, 0x101, Access.read);
    expect(container.endStep()).toEqual({ fewestPages: 0, pages: 1 });
    expect(container.endStep()).toBeUndefined();
  });

  it("agrees with a naive count, page by page", () => {
    const call = fc.record({
      kind: fc.constantFrom("map", "unmap", "unmapAll", "end"),
      pfn: fc.nat(11),
      count: fc.integer({ min: 1, max: 4 }),
      shift: fc.nat(1),
    });
    fc.assert(
      fc.property(fc.array(call, { maxLength: 60 }), (calls) => {
        const container = watched();
        const model = new NaiveCount();
        for (const { kind, pfn, count, shift } of calls) {
          const gpaPfn = pfn + shift * 64;
          if (kind === "map" && model.map(pfn, count, gpaPfn)) container.map(pfn, count, gpaPfn, Access.readWrite);
          if (kind === "unmap") container.unmap(pfn, count);
          if (kind === "unmap") model.unmap(pfn, count);
          if (kind === "unmapAll") container.unmapAll();
          if (kind === "unmapAll") model.unmap(0, 32);
          if (kind === "end") container.endStep();
          if (kind === "end") model.gone.clear();
        }
        container.endStep();
        expect(container.gaps.vanishedPages).toBe(model.vanished);
        expect(container.inner.pagesHeld).toBe(model.held.size);
      }),
      { numRuns: 500 },
    );
  });
});

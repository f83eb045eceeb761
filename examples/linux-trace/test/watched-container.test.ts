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
        const held = new Map<number, number>();
        let gone = new Map<number, number>();
        let vanished = 0;
        for (const { kind, pfn, count, shift } of calls) {
          const range = Array.from({ length: kind === "unmapAll" ? 32 : count }, (_, at) => (kind === "unmapAll" ? 0 : pfn) + at);
          if (kind === "map") {
            if (range.some((page) => held.has(page))) continue;
            container.map(pfn, count, pfn + shift * 64, Access.readWrite);
            for (const page of range) {
              held.set(page, page + shift * 64);
              if (gone.get(page) === page + shift * 64) vanished += 1;
            }
          } else if (kind === "end") {
            container.endStep();
            gone = new Map();
          } else {
            if (kind === "unmap") container.unmap(pfn, count);
            else container.unmapAll();
            for (const page of range) {
              const target = held.get(page);
              if (target !== undefined) gone.set(page, target);
              held.delete(page);
            }
          }
        }
        container.endStep();
        expect(container.gaps.vanishedPages).toBe(vanished);
        expect(container.inner.pagesHeld).toBe(held.size);
      }),
      { numRuns: 500 },
    );
  });
});

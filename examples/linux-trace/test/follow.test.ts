import { type Access, BackendIommu, sourceId } from "@iommu-kit/iommu-core";
import { FakeMemory, SimpleBackend, SimpleDomain } from "@iommu-kit/iommu-core/testing";
import { MemoryContainer, shadow, type ShadowTarget } from "@iommu-kit/notifier-vfio";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { announceDifferences, type Follow, unmapAllThenMap } from "../src/follow/follow.js";
import { WatchedContainer } from "../src/measure/watched-container.js";

const DISK = sourceId(0, 3, 0);
const HOLE = { firstPfn: 20, pageCount: 4 };
const RAM = [{ firstPfn: 0, pageCount: 64 }];

/** A machine whose device is followed by the given strategy. */
function machine(follow: Follow) {
  const backend = new SimpleBackend();
  const space = new BackendIommu({ backend, memory: new FakeMemory({ ram: RAM }) }).addressSpace(DISK);
  const container = new WatchedContainer(new MemoryContainer(shadow), () => 0);
  follow(space, container, RAM);
  return { backend, container };
}

function reaches(container: WatchedContainer, pfn: number): string {
  const out: ShadowTarget = { gpaPfn: 0, access: 0 };
  return container.inner.translate(pfn, 0, out) ? `${out.gpaPfn}/${out.access}` : "nothing";
}

const edit = fc.record({
  pfn: fc.nat(40),
  count: fc.integer({ min: 1, max: 12 }),
  gpaPfn: fc.nat(60),
  access: fc.constantFrom<Access>(0, 1, 3),
  invalidates: fc.constantFrom("whole", "pages", "move"),
});

describe.each([
  ["announcing differences", announceDifferences],
  ["unmapping all, then mapping", unmapAllThenMap],
])("a container followed by %s", (_name, follow) => {
  it("holds what the tables say after every invalidation", () => {
    fc.assert(
      fc.property(fc.array(edit, { maxLength: 12 }), (edits) => {
        const { backend, container } = machine(follow);
        let domain = new SimpleDomain("first", { holes: [HOLE] });
        void backend.assign(DISK, domain);
        for (const { pfn, count, gpaPfn, access, invalidates } of edits) {
          if (invalidates === "move") {
            domain = new SimpleDomain("another", { holes: [HOLE] });
            void backend.assign(DISK, domain);
          }
          if (access === 0) domain.unmap(pfn, count);
          else domain.map(pfn, count, gpaPfn, access);
          void backend.invalidate(domain, invalidates === "pages" ? { firstPfn: pfn, pageCount: count } : undefined);
          container.endStep();
          for (let page = 0; page < 64; page++) {
            const isHole = page >= HOLE.firstPfn && page < HOLE.firstPfn + HOLE.pageCount;
            const wanted = isHole ? undefined : domain.lookup(page);
            expect(reaches(container, page)).toBe(
              wanted === undefined ? "nothing" : `${wanted.gpaPfn}/${wanted.access}`,
            );
          }
        }
      }),
    );
  });

  it("holds all RAM while requests pass, except the hole", () => {
    const { backend, container } = machine(follow);
    void backend.assign(DISK, new SimpleDomain("passed through", { kind: "bypass", holes: [HOLE] }));
    expect(container.inner.pagesHeld).toBe(60);
    expect(reaches(container, 19)).toBe("19/3");
    expect(reaches(container, 20)).toBe("nothing");
  });
});

describe("the difference between the two", () => {
  function lost(follow: Follow): number {
    const { backend, container } = machine(follow);
    const domain = new SimpleDomain("guest");
    domain.map(0, 16, 0x100);
    void backend.assign(DISK, domain);
    container.endStep();
    domain.unmap(0, 1);
    void backend.invalidate(domain);
    container.endStep();
    return container.gaps.vanishedPages;
  }

  it("is that unmapping all makes 15 live pages vanish when 1 of 16 is taken away", () => {
    expect(lost(unmapAllThenMap)).toBe(15);
  });

  it("is that announcing differences makes none", () => {
    expect(lost(announceDifferences)).toBe(0);
  });
});

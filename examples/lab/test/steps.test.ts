import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { WatchedContainer } from "@iommu-kit/linux-trace/measure/watched-container";
import { MemoryContainer, shadow } from "@iommu-kit/notifier-vfio";
import { describeCall, StepRecorder, type StepRecord } from "../src/steps/step-recorder.js";
import { Timeline } from "../src/steps/timeline.js";

function watched(): WatchedContainer {
  return new WatchedContainer(new MemoryContainer(shadow), () => 0);
}

describe("the steps of a container", () => {
  it("knows what was held at every moment of the last step", () => {
    const container = watched();
    container.map(0x10, 4, 0x100, 3);
    const recorder = new StepRecorder(container);
    container.unmap(0x10, 4);
    container.map(0x10, 2, 0x100, 3);
    container.map(0x30, 1, 0x130, 1);
    const record = recorder.endStep();
    expect(record).toMatchObject({ pagesBefore: 4, pagesAfter: 3, fewestPages: 0, vanishedPages: 2 });
    expect(record?.vanished).toEqual([{ firstPfn: 0x10, pageCount: 2 }]);
    expect(recorder.holds({ iovaPfn: 0x10, pageCount: 2, gpaPfn: 0x100, access: 3 })).toBe(true);
    expect(recorder.holds({ iovaPfn: 0x10, pageCount: 3, gpaPfn: 0x100, access: 3 })).toBe(false);
    expect(recorder.holds({ iovaPfn: 0x10, pageCount: 2, gpaPfn: 0x100, access: 1 })).toBe(false);
    const pagesAt = [0, 1, 2, 3].map((calls) => recorder.heldAfter(calls).pageCount);
    expect(pagesAt).toEqual([4, 0, 2, 3]);
    expect(record?.calls.map(describeCall)).toEqual([
      "unmap 0x10, 4 pages",
      "map 0x10, 2 pages to 0x100",
      "map 0x30 to 0x130",
    ]);
  });

  it("keeps the last step when nothing happens", () => {
    const container = watched();
    const recorder = new StepRecorder(container);
    container.map(1, 1, 1, 3);
    const first = recorder.endStep();
    expect(recorder.endStep()).toBeUndefined();
    expect(recorder.last).toBe(first);
    container.unmapAll();
    expect(recorder.endStep()?.calls.map(describeCall)).toEqual(["unmap everything"]);
    expect(recorder.heldAfter(0).pageCount).toBe(1);
  });

  it("property: the moment after the last call is what the container holds", () => {
    const call = fc.record({ map: fc.boolean(), at: fc.nat({ max: 20 }), count: fc.integer({ min: 1, max: 5 }) });
    fc.assert(
      fc.property(fc.array(fc.array(call, { maxLength: 6 }), { maxLength: 8 }), (steps) => {
        const container = watched();
        const recorder = new StepRecorder(container);
        for (const step of steps) {
          for (const { map, at, count } of step) {
            // A shadow refuses to map over what is there: an answer without a call.
            if (map) container.map(at, count, at + 100, 3);
            else container.unmap(at, count);
          }
          recorder.endStep();
          const now = recorder.heldAfter(recorder.last?.calls.length ?? 0);
          expect([...now.ranges()]).toEqual([...container.inner.ranges()]);
          expect(recorder.pages).toBe(container.inner.pagesHeld);
        }
      }),
      { numRuns: 100 },
    );
  });
});

describe("the time line", () => {
  const record = (vanishedPages: number, pages: number): StepRecord => ({
    calls: [
      { kind: "unmap", iovaPfn: 0, pageCount: 1 },
      { kind: "map", iovaPfn: 0, pageCount: 1, gpaPfn: 0, access: 3 },
    ],
    pagesBefore: pages,
    pagesAfter: pages,
    fewestPages: pages - vanishedPages,
    vanishedPages,
    vanished: [],
    refusedRequests: vanishedPages > 0 ? 1 : 0,
  });

  it("keeps the depth and the losses of steps that share a column", () => {
    const timeline = new Timeline(10);
    timeline.add(2, record(10, 10));
    timeline.add(3, record(0, 12));
    timeline.add(9, record(3, 12));
    expect(timeline.columns(2, 9)).toEqual([
      { pages: 12, fewestPages: 0, vanishedPages: 10, refusedRequests: 1 },
      { pages: 12, fewestPages: 9, vanishedPages: 3, refusedRequests: 1 },
    ]);
    expect(timeline.totals).toEqual({ maps: 3, unmaps: 3, vanishedPages: 13, refusedRequests: 2 });
  });

  it("property: no loss gets lost, however many columns there are", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat({ max: 500 }), fc.nat({ max: 9 })), { maxLength: 40 }),
        fc.integer({ min: 1, max: 700 }),
        (points, count) => {
          const timeline = new Timeline(0);
          for (const [at, vanished] of points.toSorted(([a], [b]) => a - b)) timeline.add(at, record(vanished, 20));
          const columns = timeline.columns(count, 500);
          expect(columns).toHaveLength(count);
          const sum = columns.reduce((total, { vanishedPages }) => total + vanishedPages, 0);
          expect(sum).toBe(timeline.totals.vanishedPages);
        },
      ),
      { numRuns: 100 },
    );
  });
});

/**
 * What a backend's scan may say, and what a pass makes of it: calls that map nothing, the work of one slice, and regions that a domain leaves out.
 */

import { describe, expect, it } from "vitest";
import type { FrameRange, MappingSink } from "../src/index.js";
import { RecordingNotifier, SimpleDomain } from "../src/testing/index.js";
import { Machine, range } from "./support/machine.js";

const TABLES = 64;

/** Tables of 512 entries, none of which maps anything; it counts those that it may read. */
class EmptyTables extends SimpleDomain {
  readonly scans: number[] = [];

  override scan({ firstPfn }: FrameRange, sink: MappingSink): void {
    let read = 0;
    this.scans.push(0);
    for (let pfn = firstPfn; pfn < TABLES * 512; pfn += 512) {
      if (!sink.reach(pfn, 512)) return;
      this.scans[this.scans.length - 1] = ++read;
    }
  }
}

/** Says first that a frame maps nothing, and goes on if it may. */
class SaysNothing extends SimpleDomain {
  override scan(_range: FrameRange, sink: MappingSink): void {
    if (sink.run(0, 1, 9, 0)) sink.run(1, 1, 10, 3);
  }
}

function held(domain: SimpleDomain): (readonly number[])[] {
  const machine = new Machine();
  void machine.backend.assign(machine.nic, domain);
  const notifier = new RecordingNotifier();
  machine.nicSpace.attach(notifier);
  return notifier.calls.flatMap((call) => (call.type === "map" ? [[call.iovaPfn, call.pageCount, call.gpaPfn]] : []));
}

describe("a scan", () => {
  it("goes on behind frames that it says map nothing", () => {
    expect(held(new SaysNothing("nothing"))).toEqual([[1, 1, 10]]);
  });

  it("is told to stop when its slice is spent, also where nothing is mapped", async () => {
    const machine = new Machine({ limits: { entriesPerSlice: 1024 } });
    const domain = new EmptyTables("empty");
    await machine.backend.assign(machine.nic, domain);
    machine.nicSpace.attach(new RecordingNotifier());
    await machine.scheduler.idle();
    expect(domain.scans.length).toBeGreaterThan(TABLES / 4);
    expect(Math.max(...domain.scans)).toBeLessThanOrEqual(3);
  });

  it("of one long run is told in slices", async () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 4 } });
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    machine.tables.map(0, 512 * 16, 1);
    const done = machine.invalidate();
    const first = notifier.pageCount;
    expect(first).toBeGreaterThan(0);
    expect(first).toBeLessThanOrEqual(512 * 5);
    await machine.scheduler.idle();
    await done;
    expect(notifier.pageCount).toBe(512 * 16);
  });

  it("leaves out every region that the domain does", () => {
    const domain = new SimpleDomain("holes", { holes: [range(2, 1), range(5, 2)] });
    domain.map(0, 10, 100);
    expect(held(domain)).toEqual([
      [0, 2, 100],
      [3, 2, 103],
      [7, 3, 107],
    ]);
  });

  it("may read as many entries as the view's budget of tables has, and not one more", () => {
    for (const [runs, spent] of [
      [512, 0],
      [513, 1],
    ] as const) {
      const machine = new Machine({ limits: { tablesPerView: 1 } });
      const seen = machine.watch("budget");
      for (let i = 0; i < runs; i++) machine.tables.map(i * 2, 1, i * 3);
      machine.nicSpace.attach(new RecordingNotifier());
      expect(seen).toHaveLength(spent);
    }
  });
});

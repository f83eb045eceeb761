/**
 * A host that looks at a guest's tables again, because the architecture lets the guest change something without an invalidation.
 */

import { describe, expect, it } from "vitest";
import { RecordingFlushNotifier, RecordingNotifier } from "../src/testing/index.js";
import { Machine, range } from "./support/machine.js";

/** What a mirror was told to map and unmap. */
function told(mirror: RecordingNotifier): [string, number, number][] {
  return mirror.calls.splice(0).flatMap((call) => {
    return call.type === "map" || call.type === "unmap" ? [[call.type, call.iovaPfn, call.pageCount]] : [];
  });
}

describe("a resync", () => {
  it("announces what became present in its range, and nothing that was there", () => {
    const machine = new Machine();
    machine.tables.map(4, 1, 0x40);
    const mirror = new RecordingNotifier({ granularity: "page" });
    machine.nicSpace.attach(mirror);
    machine.tables.map(5, 1, 0x50);
    machine.tables.map(9, 1, 0x90);
    told(mirror);
    expect(machine.nicSpace.resync(range(4, 3))).toBeUndefined();
    expect(told(mirror)).toEqual([["map", 5, 1]]);
    expect(machine.nicSpace.resync()).toBeUndefined();
    expect(told(mirror)).toEqual([["map", 9, 1]]);
    expect(machine.nicSpace.resync()).toBeUndefined();
    expect(told(mirror)).toEqual([]);
  });

  it("is one flush of its range for an UNMAP-only notifier of that device", () => {
    const machine = new Machine();
    machine.tables.map(4, 2, 0x40);
    const [mine, others] = [new RecordingFlushNotifier(), new RecordingFlushNotifier()];
    machine.nicSpace.attach(mine, { range: range(0, 8) });
    machine.diskSpace.attach(others);
    mine.take();
    others.take();
    void machine.nicSpace.resync(range(4, 100));
    expect(mine.take()).toEqual([range(4, 4)]);
    expect(others.take()).toEqual([]);
  });

  it("brings everybody in step who shares the view, and finds a device that was moved unannounced", () => {
    const machine = new Machine();
    machine.tables.map(4, 1, 0x40);
    const [mine, other] = [0, 1].map(() => new RecordingNotifier({ granularity: "page" })) as [
      RecordingNotifier,
      RecordingNotifier,
    ];
    machine.nicSpace.attach(mine);
    machine.diskSpace.attach(other);
    machine.tables.map(5, 1, 0x50);
    void machine.nicSpace.resync(range(5, 1));
    expect([mine.lookup(5), other.lookup(5)]).toEqual([
      { gpaPfn: 0x50, access: 3 },
      { gpaPfn: 0x50, access: 3 },
    ]);
    void machine.backend.assign(machine.nic, machine.backend.unassigned, false);
    void machine.nicSpace.resync(range(5, 1));
    expect([mine.lookup(4), mine.lookup(5), other.lookup(5)]).toEqual([
      undefined,
      undefined,
      { gpaPfn: 0x50, access: 3 },
    ]);
  });

  it("completes when the notifier has", async () => {
    const machine = new Machine();
    const mirror = new RecordingNotifier({ granularity: "page" });
    machine.nicSpace.attach(mirror);
    mirror.answers.mode = "manual";
    machine.tables.map(5, 1, 0x50);
    let done = false;
    const completion = machine.nicSpace.resync();
    void completion?.then(() => (done = true));
    await machine.scheduler.idle();
    expect(done).toBe(false);
    mirror.answers.settle();
    await completion;
    expect(done).toBe(true);
  });

  it("refuses a range that is none, a device that is gone, and a call from a callback", () => {
    const machine = new Machine();
    const space = machine.nicSpace;
    expect(() => space.resync({ firstPfn: -1, pageCount: 1 })).toThrow("resync: expected whole frames");
    const cache = new RecordingFlushNotifier();
    let thrown: unknown;
    cache.unmap = () => {
      try {
        void space.resync();
      } catch (error) {
        thrown = error;
      }
    };
    space.attach(cache);
    expect(thrown).toMatchObject({ code: "reentrant-call" });
    void space.unplug();
    expect(() => space.resync()).toThrow("expected a device, got one that is unplugged");
  });
});

/** A unit that leaves its machine. Its parts on VT-d: iommu-vtd/test/hostile/reset-in-every-state.test.ts. */

import { describe, expect, it } from "vitest";
import { Translation, UNPLUGGED, whenDone } from "../src/index.js";
import { RecordingFlushNotifier, RecordingNotifier } from "../src/testing/index.js";
import { Machine } from "./support/machine.js";

describe("a unit that is destroyed", () => {
  it("takes everything from the consumers of all its devices, and is done when they are", async () => {
    const machine = new Machine();
    machine.tables.map(4, 2, 0x40);
    const mirror = new RecordingNotifier({ answers: "manual" });
    const cache = new RecordingFlushNotifier();
    machine.nicSpace.attach(mirror);
    machine.diskSpace.attach(cache);
    mirror.answers.settle();
    await machine.scheduler.idle();
    cache.take();
    let done = 0;
    whenDone(machine.unit.destroy(), () => (done += 1));
    whenDone(machine.unit.destroy(), () => (done += 1));
    await machine.scheduler.idle();
    expect(done).toBe(0);
    expect(cache.take().length).toBe(1);
    mirror.answers.settle();
    await machine.scheduler.idle();
    expect(done).toBe(2);
    expect(mirror.pageCount).toBe(0);
    mirror.check();
  });

  it("refuses requests and new devices, tells nobody anything more, and plans nothing", async () => {
    const machine = new Machine();
    machine.tables.map(4, 2, 0x40);
    const heard: string[] = [];
    const space = machine.nicSpace;
    for (const events of [machine.unit.events, space.events]) {
      events.on("detach", () => heard.push("detach"));
      events.on("fault", () => heard.push("fault"));
    }
    space.attach(new RecordingNotifier());
    void machine.unit.destroy();
    await machine.scheduler.idle();
    expect(heard).toEqual(["detach", "detach"]);
    const out = new Translation();
    expect([space.translate(4, 1, out), out.reason]).toEqual([false, UNPLUGGED]);
    expect(heard).toEqual(["detach", "detach"]);
    expect(machine.unit.addressSpaces).toEqual([]);
    expect(() => machine.unit.addressSpace(0x18)).toThrow(expect.objectContaining({ code: "destroyed" }) as Error);
    expect([machine.scheduler.deferredCount, machine.scheduler.timerCount]).toEqual([0, 0]);
  });

  it("is not destroyed from inside a consumer's callback: that is refused, and nothing has happened", () => {
    const machine = new Machine();
    machine.tables.map(4, 1, 0x40);
    const codes: unknown[] = [];
    const mirror = new RecordingNotifier({
      onCall: ({ type }) => {
        if (type !== "map") return;
        expect(() => machine.unit.destroy()).toThrow(expect.objectContaining({ code: "reentrant-call" }) as Error);
        codes.push(type);
      },
    });
    machine.nicSpace.attach(mirror);
    expect(codes).toEqual(["map"]);
    expect(machine.unit.addressSpaces).toContain(machine.nicSpace);
    expect(mirror.pageCount).toBe(1);
  });
});

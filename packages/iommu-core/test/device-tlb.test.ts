/**
 * Device-TLB notifiers at the hub: which calls they get, and that a failure is the backend's to report.
 */

import { describe, expect, it } from "vitest";
import {
  type AddressSpace,
  ALL_FRAMES,
  Backlog,
  type Completion,
  type DeviceTlbNotifier,
  type FrameRange,
  type IommuError,
} from "../src/index.js";
import { AnswerQueue, RecordingFlushNotifier } from "../src/testing/index.js";
import { Machine, range } from "./support/machine.js";

class Tlb implements DeviceTlbNotifier {
  readonly kind = "device-tlb";
  readonly dropped: FrameRange[] = [];
  readonly answers = new AnswerQueue("sync");
  revoked: IommuError | undefined;

  invalidate(firstPfn: number, pageCount: number): Completion {
    this.dropped.push({ firstPfn, pageCount });
    return this.answers.give(undefined);
  }

  revoke(error: IommuError): void {
    this.revoked = error;
  }

  take(): FrameRange[] {
    return this.dropped.splice(0);
  }
}

/** Its backend is one whose guest invalidates device TLBs by name, while `ats.enabled`. */
function machineWithAts(ats = { enabled: true }): Machine {
  const machine = new Machine();
  Object.assign(machine.backend, { namesDeviceTlb: () => ats.enabled });
  return machine;
}

describe("a device TLB", () => {
  it("is told what the backend says of its own device, clipped to its range, and of no other invalidation", () => {
    const machine = machineWithAts();
    const { hub } = machine.unit;
    const [mine, clipped, other] = [new Tlb(), new Tlb(), new Tlb()];
    const cache = new RecordingFlushNotifier();
    machine.nicSpace.attach(mine);
    machine.nicSpace.attach(clipped, { range: range(10, 10) });
    machine.nicSpace.attach(cache);
    machine.diskSpace.attach(other);
    cache.take();
    void machine.invalidate();
    expect(mine.take()).toEqual([]);
    cache.take();
    expect(hub.invalidateDeviceTlb(machine.nicSpace, range(5, 8))).toBeUndefined();
    expect(hub.invalidateDeviceTlb(machine.nicSpace, range(30, 1))).toBeUndefined();
    expect([mine.take(), clipped.take(), other.take(), cache.take()]).toEqual([
      [range(5, 8), range(30, 1)],
      [range(10, 3)],
      [],
      [],
    ]);
  });

  it("delays the completion until it has answered", async () => {
    const machine = machineWithAts();
    const tlb = new Tlb();
    machine.nicSpace.attach(tlb);
    tlb.answers.mode = "manual";
    let done = false;
    const completion = machine.unit.hub.invalidateDeviceTlb(machine.nicSpace, range(0, 1));
    void completion?.then(() => (done = true));
    await machine.scheduler.idle();
    expect(done).toBe(false);
    // Nobody but the backend has a deadline for it.
    expect(machine.scheduler.timerCount).toBe(0);
    tlb.answers.settle();
    await completion;
    expect(done).toBe(true);
  });

  it("that fails rejects, is revoked, reported once, and told nothing more", async () => {
    for (const way of ["throw", "reject"] as const) {
      const machine = machineWithAts();
      const failed = machine.watch("failed");
      const [tlb, other] = [new Tlb(), new Tlb()];
      const attachment = machine.nicSpace.attach(tlb);
      machine.nicSpace.attach(other);
      tlb.invalidate = () => {
        if (way === "throw") throw new Error("broken");
        return Promise.reject(new Error("broken"));
      };
      const tell = (): Completion => machine.unit.hub.invalidateDeviceTlb(machine.nicSpace, range(0, 1));
      await expect(tell()).rejects.toMatchObject({ code: "notifier-failed", cause: new Error("broken") });
      expect(other.take()).toEqual([range(0, 1)]);
      expect(tlb.revoked?.code).toBe("notifier-failed");
      expect(attachment.state).toBe("failed");
      expect(failed).toHaveLength(1);
      expect(tell()).toBeUndefined();
      expect(other.take()).toEqual([range(0, 1)]);
    }
  });

  it("whose revoke throws as well is reported with both errors", async () => {
    const machine = machineWithAts();
    const tlb = new Tlb();
    const attachment = machine.nicSpace.attach(tlb);
    tlb.invalidate = () => Promise.reject(new Error("broken"));
    tlb.revoke = () => {
      throw new Error("stuck");
    };
    const causes: unknown[] = [];
    machine.unit.events.on("failed", ({ error }) => causes.push(error.cause));
    await expect(machine.unit.hub.invalidateDeviceTlb(machine.nicSpace, range(0, 1))).rejects.toThrow(
      "expected an answer",
    );
    expect(causes).toEqual([new Error("broken"), new Error("stuck")]);
    expect(attachment.failure).toMatchObject({ code: "notifier-failed", cause: new Error("broken") });
  });

  it("of a device that is gone is told nothing more than to drop everything", () => {
    const machine = machineWithAts();
    const space = machine.nicSpace;
    const tlb = new Tlb();
    space.attach(tlb);
    void space.unplug();
    expect(tlb.take()).toEqual([ALL_FRAMES]);
    expect(machine.unit.hub.invalidateDeviceTlb(space, range(0, 1))).toBeUndefined();
    expect(tlb.take()).toEqual([]);
  });

  it("is given as many requests as the backend allows; the rest become one when it has answered", async () => {
    const machine = machineWithAts();
    const tlb = new Tlb();
    machine.nicSpace.attach(tlb);
    tlb.answers.mode = "manual";
    const { hub } = machine.unit;
    const requests = new Backlog<AddressSpace>(32, ([space], part) => space && hub.invalidateDeviceTlb(space, part));
    for (let page = 0; page < 40; page++) void requests.add([machine.nicSpace], range(page, 1));
    expect(tlb.take()).toHaveLength(32);
    tlb.answers.settle(1);
    await machine.scheduler.idle();
    expect(tlb.take()).toEqual([range(32, 8)]);
  });

  it("that the guest does not name is told every change, and so when that begins or ends; in between none", () => {
    const ats = { enabled: false };
    const machine = machineWithAts(ats);
    const [tlb, clipped] = [new Tlb(), new Tlb()];
    machine.nicSpace.attach(tlb);
    machine.nicSpace.attach(clipped, { range: range(10, 10) });
    void machine.invalidate(12, 100);
    expect([tlb.take(), clipped.take()]).toEqual([[range(12, 100)], [range(12, 8)]]);
    ats.enabled = true;
    void machine.invalidate();
    expect(tlb.take()).toEqual([ALL_FRAMES]);
    void machine.invalidate();
    expect(tlb.take()).toEqual([]);
    ats.enabled = false;
    void machine.invalidate();
    expect(tlb.take()).toEqual([ALL_FRAMES]);
  });

  it("that the guest names is told the next change after the guest's state was replaced, and that once", () => {
    const machine = machineWithAts();
    const tlb = new Tlb();
    machine.nicSpace.attach(tlb);
    void machine.invalidate(3, 1);
    expect(tlb.take()).toEqual([]);
    machine.unit.hub.forgetNames();
    void machine.invalidate(4, 1);
    expect(tlb.take()).toEqual([range(4, 1)]);
    void machine.invalidate(5, 1);
    expect(tlb.take()).toEqual([]);
  });

  it("of a backend that knows none is told every change", () => {
    const machine = new Machine();
    const tlb = new Tlb();
    machine.nicSpace.attach(tlb);
    void machine.invalidate(3, 1);
    expect(tlb.take()).toEqual([range(3, 1)]);
  });

  it("that the guest does not name and that does not answer is cut off at the deadline: nobody else waits for it", async () => {
    const machine = new Machine();
    const tlb = new Tlb();
    const attachment = machine.nicSpace.attach(tlb);
    tlb.answers.mode = "manual";
    const done = machine.invalidate();
    machine.scheduler.advance(60_000);
    await done;
    expect(attachment.state).toBe("failed");
    expect(tlb.revoked?.code).toBe("notifier-timeout");
  });

  it.each(["detach", "unplug"] as const)("is told to drop everything on %s, which is done when it has", async (how) => {
    const machine = machineWithAts();
    const tlb = new Tlb();
    const attachment = machine.nicSpace.attach(tlb, { range: range(10, 10) });
    tlb.answers.mode = "manual";
    let done = false;
    const ended = how === "detach" ? attachment.detach() : machine.nicSpace.unplug();
    void ended?.then(() => (done = true));
    await machine.scheduler.idle();
    expect([tlb.take(), done]).toEqual([[range(10, 10)], false]);
    tlb.answers.settle();
    await ended;
    expect(done).toBe(true);
  });

  it("that does not answer a detach is cut off at the deadline", async () => {
    const machine = machineWithAts();
    const tlb = new Tlb();
    const attachment = machine.nicSpace.attach(tlb);
    tlb.answers.mode = "manual";
    const ended = attachment.detach();
    machine.scheduler.advance(60_000);
    await ended;
    expect(tlb.revoked?.code).toBe("notifier-timeout");
  });
});

/**
 * What a guest can have under way by never waiting, and what consumers may leave unanswered: both are bounded, and nothing is lost (design D7, D9).
 */

import { describe, expect, it } from "vitest";
import type { UnmapNotifier } from "../src/index.js";
import { RecordingFlushNotifier, RecordingNotifier, SimpleDomain } from "../src/testing/index.js";
import { Machine, range } from "./support/machine.js";

/** A unit that may have this many invalidations under way, and a cache that answers when it is told to. */
function slowCache(invalidationsInFlight: number): { machine: Machine; cache: RecordingFlushNotifier } {
  const machine = new Machine({ limits: { invalidationsInFlight } });
  const cache = new RecordingFlushNotifier();
  machine.nicSpace.attach(cache);
  cache.take();
  cache.answers.mode = "manual";
  return { machine, cache };
}

/** Which of these have completed so far. */
async function done(machine: Machine, completions: readonly (void | Promise<void>)[]): Promise<boolean[]> {
  const seen = completions.map((completion) => completion === undefined);
  completions.forEach((completion, index) => void completion?.then(() => (seen[index] = true)));
  await machine.scheduler.idle();
  return seen;
}

describe("invalidations of a guest that does not wait", () => {
  it("become one, of the smallest range around them, when as many as allowed are under way", async () => {
    const { machine, cache } = slowCache(2);
    const all = [
      machine.invalidate(1, 1),
      machine.invalidate(5, 1),
      machine.invalidate(40, 2),
      machine.invalidate(20, 3),
    ];
    expect(cache.take()).toEqual([range(1, 1), range(5, 1)]);
    cache.answers.settle(1);
    expect(await done(machine, all)).toEqual([true, false, false, false]);
    expect(cache.take()).toEqual([range(20, 22)]);
    // That one counts as well: what comes now waits again.
    const late = machine.invalidate(100, 1);
    expect(cache.take()).toEqual([]);
    cache.answers.settle(1);
    expect(await done(machine, [...all, late])).toEqual([true, true, false, false, false]);
    expect(cache.take()).toEqual([range(100, 1)]);
    cache.answers.settle();
    expect(await done(machine, [...all, late])).toEqual([true, true, true, true, true]);
    expect(machine.invalidate(7, 1)).toBeInstanceOf(Promise);
    expect(cache.take()).toEqual([range(7, 1)]);
  });

  it("are told to every device that one of them concerned, and to no other", async () => {
    const { machine, cache } = slowCache(1);
    const other = new RecordingFlushNotifier();
    const elsewhere = new SimpleDomain("elsewhere");
    await machine.backend.assign(machine.disk, elsewhere);
    machine.diskSpace.attach(other);
    const third = new RecordingFlushNotifier();
    machine.unit.addressSpace(9).attach(third);
    for (const notifier of [other, third]) notifier.take();
    cache.answers.settle();
    await machine.scheduler.idle();
    cache.take();
    const first = machine.invalidate(1, 1);
    const waiting = [machine.invalidate(2, 1), machine.backend.invalidate(elsewhere, range(8, 1))];
    expect([cache.take(), other.take()]).toEqual([[range(1, 1)], []]);
    cache.answers.settle();
    expect(await done(machine, [first])).toEqual([true]);
    expect([cache.take(), other.take(), third.take()]).toEqual([[range(2, 7)], [range(2, 7)], []]);
    cache.answers.settle();
    expect(await done(machine, waiting)).toEqual([true, true]);
  });

  it("are not told to a device that has been unplugged meanwhile", async () => {
    const { machine, cache } = slowCache(1);
    const completions = [machine.invalidate(1, 1), machine.invalidate(2, 1)];
    const space = machine.nicSpace;
    void space.unplug();
    cache.take();
    cache.answers.settle();
    expect(await done(machine, completions)).toEqual([true, true]);
    expect(cache.take()).toEqual([]);
  });
});

describe("consumers that owe answers", () => {
  it("are asked for nothing more when there are too many; each answer makes room for further slices", async () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 1, callsInFlight: 3 } });
    const notifier = new RecordingNotifier({ answers: "manual" });
    machine.nicSpace.attach(notifier);
    for (let i = 0; i < 10; i++) machine.tables.map(i * 600, 1, i);
    const completion = machine.invalidate();
    await machine.scheduler.idle();
    const calls = (): number => notifier.calls.filter(({ type }) => type === "map").length;
    expect(calls()).toBe(3);
    expect(machine.unit.hub.queue.busy).toBe(true);
    notifier.answers.settle(1);
    await machine.scheduler.idle();
    expect(calls()).toBe(4);
    for (let i = 0; i < 20; i++) {
      notifier.answers.settle(1);
      await machine.scheduler.idle();
    }
    await completion;
    expect(notifier.pageCount).toBe(10);
    expect(machine.unit.hub.queue.busy).toBe(false);
  });

  it("delay a new invalidation too, until they have answered or are cut off", async () => {
    const machine = new Machine({ limits: { callsInFlight: 1, consumerDeadlineMilliseconds: 100 } });
    const slow: UnmapNotifier = { kind: "unmap", unmap: () => new Promise(() => undefined) };
    const mirror = new RecordingNotifier();
    machine.diskSpace.attach(mirror);
    machine.nicSpace.attach(slow);
    machine.tables.map(0, 1, 1);
    const completion = machine.invalidate();
    await machine.scheduler.idle();
    expect(mirror.pageCount).toBe(0);
    machine.scheduler.advance(100);
    await machine.scheduler.idle();
    await completion;
    expect(mirror.pageCount).toBe(1);
  });
});

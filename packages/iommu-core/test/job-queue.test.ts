import { describe, expect, it } from "vitest";
import type { Limits } from "../src/index.js";
import { JobQueue, type Rest } from "../src/notify/job-queue.js";
import { ManualScheduler } from "../src/testing/index.js";

/** A gate that the test opens. */
class ManualGate {
  closed = false;
  #task: (() => void) | undefined;

  whenOpen(task: () => void): void {
    this.#task = task;
  }

  open(): void {
    this.closed = false;
    this.#task?.();
    this.#task = undefined;
  }
}

function bench() {
  const scheduler = new ManualScheduler();
  const gate = new ManualGate();
  const queue = new JobQueue({ entriesPerSlice: 10, mappingsPerSlice: 5 } as Limits, scheduler, gate);
  const log: string[] = [];
  /** A job of so many slices, each of which it uses up. */
  const long = (name: string, slices: number) => (): Rest =>
    (function* steps(): Generator<void, void, void> {
      for (let i = 1; i <= slices; i++) {
        if (i > 1) yield;
        log.push(`${name} ${i} of ${queue.slice.entriesLeft}`);
        queue.slice.entriesLeft = 0;
      }
    })();
  const short = (name: string, entries: number) => (): undefined => {
    log.push(`${name} of ${queue.slice.entriesLeft}`);
    queue.slice.entriesLeft -= entries;
  };
  const take = (): string[] => log.splice(0);
  return { scheduler, gate, queue, long, short, take };
}

async function settled(completion: void | Promise<void> | undefined): Promise<boolean> {
  let done = completion === undefined;
  void Promise.resolve(completion).then(() => (done = true));
  for (let i = 0; i < 10; i++) await Promise.resolve();
  return done;
}

describe("the queue of jobs", () => {
  it("has a slice of its limits from the beginning, spent when either count is", () => {
    const { queue } = bench();
    expect(queue.slice).toEqual({ entriesLeft: 10, mappingsLeft: 5 });
    for (const [entriesLeft, mappingsLeft, spent] of [
      [1, 1, false],
      [0, 1, true],
      [1, 0, true],
      [-1, 1, true],
      [1, -1, true],
    ] as const) {
      Object.assign(queue.slice, { entriesLeft, mappingsLeft });
      expect(queue.spent).toBe(spent);
    }
  });

  it("gives a job that finds nothing waiting a slice of its own, at once", () => {
    const { queue, short, scheduler, take } = bench();
    expect([queue.run(short("a", 3)), queue.run(short("b", 30)), queue.run(short("c", 1))]).toEqual([
      undefined,
      undefined,
      undefined,
    ]);
    expect(take()).toEqual(["a of 10", "b of 10", "c of 10"]);
    expect([scheduler.deferredCount, queue.busy, queue.running]).toEqual([0, false, false]);
  });

  it("leaves it to a backend that paces itself where slices begin", () => {
    const { queue, short, take } = bench();
    queue.beginSlice();
    void queue.run(short("a", 3));
    void queue.run(short("b", 3));
    queue.slice.mappingsLeft = 1;
    queue.beginSlice();
    expect(queue.slice).toEqual({ entriesLeft: 10, mappingsLeft: 5 });
    void queue.run(short("c", 3));
    expect(take()).toEqual(["a of 10", "b of 7", "c of 10"]);
  });

  it("carries out the rest of a job slice by slice, and what came meanwhile behind it, in order", async () => {
    const { queue, long, short, scheduler, take } = bench();
    const first = queue.run(long("a", 3));
    const second = queue.run(short("b", 4));
    const third = queue.run(short("c", 6));
    const fourth = queue.run(short("d", 0));
    expect(take()).toEqual(["a 1 of 10"]);
    expect([queue.busy, queue.running, scheduler.deferredCount]).toEqual([true, false, 1]);
    expect(scheduler.turn()).toBe(1);
    expect(take()).toEqual(["a 2 of 10"]);
    expect(await settled(first)).toBe(false);
    expect(scheduler.turn()).toBe(1);
    // The slice that ends a job is spent with it, here.
    expect(take()).toEqual(["a 3 of 10"]);
    expect([await settled(first), await settled(second)]).toEqual([true, false]);
    expect(scheduler.turn()).toBe(1);
    expect(take()).toEqual(["b of 10", "c of 6"]);
    expect([await settled(second), await settled(third), await settled(fourth)]).toEqual([true, true, false]);
    expect(scheduler.turn()).toBe(1);
    expect(take()).toEqual(["d of 10"]);
    expect(await settled(fourth)).toBe(true);
    expect([queue.busy, scheduler.deferredCount]).toEqual([false, 0]);
  });

  it("completes a job when what it left with consumers is complete, now or in its turn", async () => {
    for (const waits of [false, true]) {
      const { queue, long, scheduler } = bench();
      if (waits) void queue.run(long("before", 1));
      if (waits) void queue.run(long("and", 2));
      let answer: (() => void) | undefined;
      const completion = queue.run((group): undefined => {
        group.add(new Promise((resolve) => (answer = resolve)));
      });
      await scheduler.idle();
      expect([answer === undefined, await settled(completion)]).toEqual([false, false]);
      answer?.();
      expect(await settled(completion)).toBe(true);
    }
  });

  it("says while a job runs that it does, and has what that job asks for wait its turn", async () => {
    const { queue, short, scheduler, take } = bench();
    let inner: void | Promise<void> | undefined;
    const outer = queue.run((): undefined => {
      inner = queue.run(short("inner", 1));
      short(`outer, ${queue.running ? "running" : "idle"},`, 1)();
    });
    expect(outer).toBeUndefined();
    expect(take()).toEqual(["outer, running, of 10"]);
    expect(await settled(inner)).toBe(false);
    expect(scheduler.turn()).toBe(1);
    expect(take()).toEqual(["inner of 10"]);
    expect([await settled(inner), queue.busy, queue.running]).toEqual([true, false, false]);
  });

  it("begins nothing while the gate is closed, and goes on by itself when it opens", async () => {
    const { queue, gate, long, short, scheduler, take } = bench();
    gate.closed = true;
    const first = queue.run(long("a", 2));
    const second = queue.run(short("b", 1));
    expect([take(), scheduler.deferredCount]).toEqual([[], 0]);
    gate.open();
    expect(scheduler.turn()).toBe(1);
    expect(take()).toEqual(["a 1 of 10"]);
    gate.closed = true;
    // Was deferred before the gate closed.
    expect(scheduler.turn()).toBe(1);
    expect([take(), scheduler.deferredCount, await settled(first)]).toEqual([[], 0, false]);
    gate.open();
    await scheduler.idle();
    expect(take()).toEqual(["a 2 of 10", "b of 10"]);
    expect([await settled(first), await settled(second), queue.busy]).toEqual([true, true, false]);
  });

  it("stops between two jobs when the first of them closes the gate", async () => {
    const { queue, gate, long, short, scheduler, take } = bench();
    void queue.run(long("a", 2));
    void queue.run(() => void (gate.closed = true));
    void queue.run(short("c", 1));
    scheduler.turn();
    scheduler.turn();
    expect([take(), queue.busy, scheduler.deferredCount]).toEqual([["a 1 of 10", "a 2 of 10"], true, 0]);
    gate.open();
    await scheduler.idle();
    expect([take(), queue.busy]).toEqual([["c of 10"], false]);
  });

  it("goes on with the others, and runs again, after a job that throws", () => {
    const { queue, long, short, scheduler, take } = bench();
    const broken = () => {
      throw new Error("broken");
    };
    expect(() => queue.run(broken)).toThrow("broken");
    expect([queue.running, queue.busy]).toEqual([false, false]);
    void queue.run(long("a", 2));
    void queue.run(function* job(): Generator<void, void, void> {
      yield;
      broken();
    });
    void queue.run(short("c", 1));
    scheduler.turn();
    scheduler.turn();
    expect(take()).toEqual(["a 1 of 10", "a 2 of 10"]);
    expect(() => scheduler.turn()).toThrow("broken");
    expect([queue.running, queue.busy, scheduler.deferredCount]).toEqual([false, true, 1]);
    scheduler.turn();
    expect([take(), queue.busy]).toEqual([["c of 10"], false]);
  });
});

/**
 * A scheduler that a test drives: nothing is deferred to a real event loop, no real time passes.
 */

import type { Scheduler } from "../ports.js";

interface Timer {
  readonly due: number;
  readonly order: number;
  readonly task: () => void;
}

/** Deferred tasks and time-outs, run when the test says so. */
export class ManualScheduler implements Scheduler {
  /** Milliseconds that have passed. */
  now = 0;
  #deferred: (() => void)[] = [];
  readonly #timers = new Set<Timer>();
  #order = 0;

  /** Tasks that wait for the event loop. */
  get deferredCount(): number {
    return this.#deferred.length;
  }

  /** Time-outs that are neither due nor cancelled. */
  get timerCount(): number {
    return this.#timers.size;
  }

  defer(task: () => void): void {
    this.#deferred.push(task);
  }

  after(milliseconds: number, task: () => void): () => void {
    const timer: Timer = { due: this.now + milliseconds, order: this.#order++, task };
    this.#timers.add(timer);
    return () => void this.#timers.delete(timer);
  }

  /**
   * One turn of the event loop: runs what is deferred now, not what that defers. Answers how many tasks ran.
   * @throws What the first task that threw has thrown, when all have run.
   */
  turn(): number {
    const tasks = this.#deferred;
    this.#deferred = [];
    const thrown: unknown[] = [];
    for (const task of tasks) {
      try {
        task();
      } catch (error) {
        thrown.push(error);
      }
    }
    if (thrown.length > 0) throw thrown[0];
    return tasks.length;
  }

  /** Lets time pass and runs the time-outs that become due, in order. */
  advance(milliseconds: number): void {
    const until = this.now + milliseconds;
    for (;;) {
      const [next] = [...this.#timers]
        .filter((timer) => timer.due <= until)
        .toSorted((a, b) => a.due - b.due || a.order - b.order);
      if (next === undefined) break;
      this.#timers.delete(next);
      this.now = next.due;
      next.task();
    }
    this.now = until;
  }

  /**
   * Turns until nothing is deferred, letting promises settle in between; no time passes.
   * @throws {Error} if work is still being deferred after `turns` turns.
   */
  async idle(turns = 100_000): Promise<void> {
    for (let i = 0; i < turns; i++) {
      for (let microtask = 0; microtask < 10; microtask++) await Promise.resolve();
      if (this.turn() === 0) return;
    }
    throw new Error(`still busy after ${turns} turns`);
  }
}

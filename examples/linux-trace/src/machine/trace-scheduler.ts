/** A scheduler without clocks: what the unit defers is run between two events of the trace, so a replay is the same every time. */

import type { Scheduler } from "@iommu-kit/iommu-core";

/** See the file's header. */
export class TraceScheduler implements Scheduler {
  #tasks: (() => void)[] = [];

  defer(task: () => void): void {
    this.#tasks.push(task);
  }

  /** Time never passes: nobody in this program answers late. */
  after(): () => void {
    return () => undefined;
  }

  /** Runs what was deferred, and what that defers, until nothing is left. */
  runAll(): void {
    while (this.#tasks.length > 0) {
      const tasks = this.#tasks;
      this.#tasks = [];
      for (const task of tasks) task();
    }
  }
}

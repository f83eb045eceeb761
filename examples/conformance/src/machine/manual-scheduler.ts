/** A scheduler whose work runs when the runner says so: a register write of a recorded case has finished before the next step. */

import type { Scheduler } from "@iommu-kit/iommu-core";

/** See the file's header. Time-outs never fire. */
export class ManualScheduler implements Scheduler {
  readonly #tasks: (() => void)[] = [];

  defer(task: () => void): void {
    this.#tasks.push(task);
  }

  after(): () => void {
    return () => undefined;
  }

  /** Runs deferred tasks, and those that they defer. */
  drain(): void {
    for (let task = this.#tasks.shift(); task !== undefined; task = this.#tasks.shift()) task();
  }
}

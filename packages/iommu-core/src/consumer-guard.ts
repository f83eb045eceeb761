/**
 * Bounds how long a consumer may keep the guest waiting (design D7): one that does not answer in time is cut off, and the guest's wait completes.
 */

import { IommuError } from "./errors.js";
import { type Notifier, notifierName } from "./notifier.js";
import type { Scheduler } from "./ports.js";

/** See the file's header. */
export class ConsumerGuard {
  readonly #scheduler: Scheduler;
  readonly #deadlineMilliseconds: number;
  #unanswered = 0;
  #roomMade: (() => void) | undefined;

  constructor(scheduler: Scheduler, deadlineMilliseconds: number) {
    this.#scheduler = scheduler;
    this.#deadlineMilliseconds = deadlineMilliseconds;
  }

  /** Answers that consumers owe. */
  get unanswered(): number {
    return this.#unanswered;
  }

  /** Runs `task` once, when the next answer has come or its deadline has passed. One task at a time. */
  whenAnswered(task: () => void): void {
    this.#roomMade = task;
  }

  /** Done when the promise has settled or the deadline has passed; never rejects. A rejection and a missed deadline go to `fail`. */
  watch<T>(
    notifier: Notifier,
    promise: Promise<T>,
    settled: (value: T) => void,
    fail: (error: IommuError) => void,
  ): Promise<void> {
    this.#unanswered += 1;
    return new Promise((done) => {
      let open = true;
      const resolve = (): void => {
        if (open) this.#answered();
        open = false;
        done();
      };
      const cancel = this.#scheduler.after(this.#deadlineMilliseconds, () => {
        fail(
          new IommuError(
            "notifier-timeout",
            `${notifierName(notifier)} did not answer within ${this.#deadlineMilliseconds} ms`,
            { hint: "answer faster, or raise limits.consumerDeadline; detach and attach again to be replayed" },
          ),
        );
        resolve();
      });
      promise
        .then(settled, (cause: unknown) => fail(threw(notifier, cause)))
        .finally(() => {
          cancel();
          resolve();
        });
    });
  }

  #answered(): void {
    this.#unanswered -= 1;
    const task = this.#roomMade;
    this.#roomMade = undefined;
    task?.();
  }
}

/** The error of a notifier that threw or rejected. */
export function threw(notifier: Notifier, cause: unknown): IommuError {
  return new IommuError("notifier-failed", `${notifierName(notifier)} threw or rejected`, {
    hint: "detach it, mend it, attach it again: it is replayed",
    cause,
  });
}

/** Reports a failure to `fail`; rejects with the same error. */
export function isolate(notifier: Notifier, cause: unknown, fail: (error: IommuError) => void): Promise<never> {
  const error = threw(notifier, cause);
  fail(error);
  return Promise.reject(error);
}

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

  constructor(scheduler: Scheduler, deadlineMilliseconds: number) {
    this.#scheduler = scheduler;
    this.#deadlineMilliseconds = deadlineMilliseconds;
  }

  /** Done when the promise has settled or the deadline has passed; never rejects. A rejection and a missed deadline go to `fail`. */
  watch<T>(
    notifier: Notifier,
    promise: Promise<T>,
    settled: (value: T) => void,
    fail: (error: IommuError) => void,
  ): Promise<void> {
    return new Promise((resolve) => {
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

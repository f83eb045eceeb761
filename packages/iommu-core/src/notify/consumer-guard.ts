/**
 * Bounds how long a consumer may keep the guest waiting (design D7): one that does not answer in time is cut off, and the guest's wait completes.
 */

import { type Completion, isPending, whenDone } from "../completion.js";
import { IommuError } from "../errors.js";
import { type Notifier, notifierName } from "../notifier.js";
import type { Scheduler } from "../ports.js";

/** Watches answers that are under way, for all consumers of a unit: each settles, by itself or at the deadline. */
export class ConsumerGuard {
  readonly #scheduler: Scheduler;
  readonly #deadlineMilliseconds: number;
  /** What each notifier still has to answer: ends of waiting. */
  readonly #owed = new WeakMap<Notifier, Set<() => void>>();
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

  /**
   * Done when the promise has settled, the deadline has passed or the notifier is released; never rejects. A rejection and a missed deadline go to `fail`, and it is
   * not done before what `fail` and `settled` answer.
   */
  watch<T>(
    notifier: Notifier,
    promise: Promise<T>,
    settled: (value: T) => Completion,
    fail: (error: IommuError) => Completion,
  ): Promise<void> {
    this.#unanswered += 1;
    return new Promise((done) => {
      const owed = this.#owedBy(notifier);
      const end = (): void => {
        if (!owed.delete(end)) return;
        cancel();
        this.#answered();
        done();
      };
      owed.add(end);
      const cancel = this.#scheduler.after(this.#deadlineMilliseconds, () => {
        const letGo = fail(
          new IommuError(
            "notifier-timeout",
            `${notifierName(notifier)}: expected an answer within ${this.#deadlineMilliseconds} ms, got none`,
            {
              hint: "answer faster, or raise limits.consumerDeadlineMilliseconds; detach and attach again to be replayed",
            },
          ),
        );
        whenDone(letGo, end);
      });
      promise.then(settled, (cause: unknown) => fail(threw(notifier, cause))).finally(end);
    });
  }

  /**
   * Cuts a notifier off, and tells `failed`: once, and once more if it does not let go. Done when it has let go of everything, or has been given as long as for any answer; then nobody waits for what it owes: not for
   * more than that, because it may be attached again in the meantime.
   */
  cutOff(notifier: Notifier, error: IommuError, failed: (error: IommuError) => void): Completion {
    const owed = [...this.#owedBy(notifier)];
    const release = (): void => {
      for (const end of owed) end();
    };
    const stuck = (cause: unknown): void =>
      failed(
        new IommuError(
          "notifier-failed",
          `${notifierName(notifier)}: expected revoke to let go of everything, got a failure`,
          { hint: "reset the device behind it", cause },
        ),
      );
    let letGo: Completion;
    let thrown: { readonly cause: unknown } | undefined;
    try {
      letGo = notifier.revoke?.(error);
    } catch (cause) {
      thrown = { cause };
    }
    failed(error);
    if (thrown !== undefined) stuck(thrown.cause);
    if (!isPending(letGo)) return release();
    return this.watch(notifier, Promise.resolve(letGo), () => undefined, stuck).then(release);
  }

  #owedBy(notifier: Notifier): Set<() => void> {
    let owed = this.#owed.get(notifier);
    if (owed === undefined) this.#owed.set(notifier, (owed = new Set()));
    return owed;
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
  return new IommuError("notifier-failed", `${notifierName(notifier)}: expected an answer, got an exception`, {
    hint: "detach it, mend it, attach it again: it is replayed",
    cause,
  });
}

/** Reports a failure to `fail`; rejects with the same error. */
export function isolate(notifier: Notifier, cause: unknown, fail: (error: IommuError) => Completion): Promise<never> {
  const error = threw(notifier, cause);
  void fail(error);
  return Promise.reject(error);
}

/**
 * How a recorder answers: at once, in the next microtask, or when the test says so.
 */

/** `"manual"`: call `AnswerQueue.settle` or `fail`. */
export type AnswerMode = "sync" | "microtask" | "manual";

interface Waiting {
  readonly settle: () => void;
  readonly fail: (cause: unknown) => void;
}

/** The answers that a recorder owes. */
export class AnswerQueue {
  /** May be changed between calls. */
  mode: AnswerMode;
  readonly #waiting: Waiting[] = [];

  constructor(mode: AnswerMode) {
    this.mode = mode;
  }

  /** Calls that wait for an answer. */
  get size(): number {
    return this.#waiting.length;
  }

  /** Answers with `value` in the way of the present mode; `settled` runs when the answer is given. */
  give<T>(value: T, settled?: () => void): T | Promise<T> {
    if (this.mode === "sync") {
      settled?.();
      return value;
    }
    if (this.mode === "microtask") {
      return Promise.resolve().then(() => {
        settled?.();
        return value;
      });
    }
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        settled?.();
        resolve(value);
      };
      this.#waiting.push({
        settle,
        fail: (cause) => reject(cause instanceof Error ? cause : new Error(String(cause))),
      });
    });
  }

  /** Gives the oldest `count` answers that wait. Default: all of them. */
  settle(count = this.#waiting.length): void {
    for (const { settle } of this.#waiting.splice(0, count)) settle();
  }

  /** Rejects the oldest answer that waits. */
  fail(cause: unknown): void {
    this.#waiting.shift()?.fail(cause);
  }
}

/**
 * Completion of work that may have to wait for somebody else: a consumer behind a socket, a device that still holds a lease, a later slice.
 *
 * `undefined` means *already done*: synchronous notifiers cost nothing. Nothing in this package awaits a `Completion` that is `undefined`.
 */

/**
 * Whether an answer is still to come: a promise, a promise of another realm (a worker's, a `vm` context's), or any other thenable. Wrap it in
 * `Promise.resolve` before relying on more than `then`.
 */
export function isPending<T>(answer: T | PromiseLike<T>): answer is PromiseLike<T> {
  return typeof (answer as { readonly then?: unknown } | null | undefined)?.then === "function";
}

/** `undefined`: done. A promise: done when it fulfils; it never rejects once it has passed through the hub. */
export type Completion = Promise<void> | undefined | void;

/** Gathers completions: done when all of them are. Those that are done are forgotten, so a group that lives long stays as small as what is pending. */
export class CompletionGroup {
  #pending: Set<PromiseLike<void>> | undefined;

  /** Completions that are pending. */
  get size(): number {
    return this.#pending?.size ?? 0;
  }

  /** Adds one; `undefined` costs a comparison, and so does one that is in the group already. Any thenable will do. */
  add(completion: Completion | PromiseLike<void>): void {
    if (completion === undefined || !isPending(completion) || this.#pending?.has(completion) === true) return;
    this.#pending ??= new Set();
    const pending = this.#pending.add(completion);
    // A rejection stays: whoever takes the group hears of it.
    completion.then(
      () => pending.delete(completion),
      () => undefined,
    );
  }

  /** `undefined` if nothing was pending; else a promise for all that was added so far. The group is empty afterwards. */
  take(): Completion {
    const all = this.all();
    this.#pending = undefined;
    return all;
  }

  /** As `take`, but the group keeps what is pending. */
  all(): Completion {
    const pending = this.#pending;
    if (pending === undefined || pending.size === 0) return undefined;
    const [only] = pending;
    return pending.size === 1 ? Promise.resolve(only) : Promise.all(pending).then(() => undefined);
  }
}

/** Runs `next` when `completion` is done: at once when it is done already. */
export function whenDone(completion: Completion, next: () => void): void {
  if (completion === undefined) next();
  else void completion.then(next);
}

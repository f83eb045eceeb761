/**
 * Completion of work that may have to wait for somebody else: a consumer behind a socket, a device that still holds a lease, a later slice.
 *
 * `undefined` means *already done*: synchronous notifiers cost nothing. Nothing in this package awaits a `Completion` that is `undefined`.
 */

/** `undefined`: done. A promise: done when it fulfils; it never rejects once it has passed through the hub. */
export type Completion = Promise<void> | undefined | void;

/** Gathers completions: done when all of them are. */
export class CompletionGroup {
  #pending: Promise<void>[] | undefined;

  /** Adds one; `undefined` costs a comparison. */
  add(completion: Completion): void {
    if (completion === undefined) return;
    this.#pending ??= [];
    this.#pending.push(completion);
  }

  /** `undefined` if nothing was pending; else a promise for all that was added so far. The group is empty afterwards. */
  take(): Completion {
    const pending = this.#pending;
    this.#pending = undefined;
    if (pending === undefined) return undefined;
    return pending.length === 1 ? pending[0] : Promise.all(pending).then(() => undefined);
  }
}

/** Runs `next` when `completion` is done: at once when it is done already. */
export function whenDone(completion: Completion, next: () => void): void {
  if (completion === undefined) next();
  else void completion.then(next);
}

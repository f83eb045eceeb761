/**
 * A command that shows its completion in a register: done when everything that it and those before it set off is done.
 *
 * A guest may command again without waiting. However often it does, one thing is waited for, and the last command says what the register then shows.
 */

import { type Completion, CompletionGroup } from "@iommu-kit/iommu-core";

/** The completions behind one status bit: `follow` adds a command, `forget` drops all of them. */
export class PendingCommand {
  #group = new CompletionGroup();
  #done: (() => void) | undefined;
  #waiting = false;
  #epoch = 0;

  /** Whether a command is under way. */
  get busy(): boolean {
    return this.#done !== undefined;
  }

  /** A command has been given: `done`, the last one given, runs when all of them are complete; at once if they are. */
  follow(completion: Completion, done: () => void): void {
    this.#group.add(completion);
    this.#done = done;
    if (!this.#waiting) this.#proceed();
  }

  /** Forgets what is under way: the register has been reset. */
  forget(): void {
    this.#epoch += 1;
    this.#group = new CompletionGroup();
    this.#done = undefined;
    this.#waiting = false;
  }

  #proceed(): void {
    const pending = this.#group.take();
    this.#waiting = pending !== undefined;
    if (pending === undefined) {
      const done = this.#done;
      this.#done = undefined;
      done?.();
      return;
    }
    const epoch = this.#epoch;
    void pending.then(() => {
      if (epoch === this.#epoch) this.#proceed();
    });
  }
}

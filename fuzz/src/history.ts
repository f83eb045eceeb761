/**
 * What memory has said since the caches were last known to be clean: a cached answer must follow from values that entries have held since then.
 *
 * Walks are repeated with every combination of old and present values of the words they read. That allows more than any real interleaving, and nothing that the
 * tables never said.
 */

import type { Read } from "./model/facts.js";

/** Combinations tried before a question is given up. */
const MOST_WALKS = 3000;

/** Old values by byte address. */
export class History {
  readonly #old = new Map<number, bigint[]>();
  /** Changes that can make a difference: flags that the unit sets itself do not. */
  edits = 0;

  /** Notes what a word was. */
  note(gpa: number, old: bigint, matters: boolean): void {
    if (matters) this.edits += 1;
    const values = this.#old.get(gpa);
    if (values === undefined) this.#old.set(gpa, [old]);
    else if (!values.includes(old)) values.push(old);
  }

  clear(): void {
    this.#old.clear();
    this.edits = 0;
  }

  /** Whether some combination of values makes `accepts` true. `undefined`: too many to try. */
  explains<Answer>(
    present: Read,
    ask: (read: Read) => Answer,
    accepts: (answer: Answer) => boolean,
  ): boolean | undefined {
    const choices: { at: number; of: number }[] = [];
    for (let walk = 0; walk < MOST_WALKS; walk++) {
      if (accepts(ask(this.#chooser(present, choices)))) return true;
      // The next combination: the last choice that has an alternative takes it.
      let last = choices.pop();
      while (last !== undefined && last.at + 1 >= last.of) last = choices.pop();
      if (last === undefined) return false;
      choices.push({ at: last.at + 1, of: last.of });
    }
    return undefined;
  }

  #chooser(present: Read, choices: { at: number; of: number }[]): Read {
    let next = 0;
    // Within one walk a word that is read twice may have changed in between: each read chooses for itself.
    return (gpa) => {
      const now = present(gpa);
      const old = this.#old.get(Number(gpa));
      if (old === undefined || now === undefined) return now;
      const values = old.includes(now) ? old : [now, ...old];
      if (values.length === 1) return values[0];
      const choice = choices[next] ?? { at: 0, of: values.length };
      choices[next] = choice;
      next += 1;
      return values[choice.at];
    };
  }
}

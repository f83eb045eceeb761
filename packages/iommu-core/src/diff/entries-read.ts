/**
 * How many table entries a pass has read, however many slices it took: what a view's budget of tables is spent on (design D9).
 *
 * A scan that goes on after a slice enters the tables around the cursor again. Those that begin before it say so themselves. Those that begin where the cursor
 * stands do not: nothing had come of them yet when the slice was spent.
 */

/** The entries that one pass has read, those of a table that it entered again counted once. */
export class EntriesRead {
  total = 0;
  /** Where the cursor stood when entries were read last, and how many have been since it came there, in this slice. */
  #cursor = 0;
  #here = 0;
  /** How many had been read there when the slice before ended, less those that have been read again: they are counted already. */
  #counted = 0;

  /** A pass begins. */
  reset(): void {
    this.total = 0;
    this.#here = 0;
    this.#counted = 0;
  }

  /** A scan begins, or goes on. What is read again where the cursor stands costs nothing; what the guest has taken away meanwhile stays counted. */
  enter(): void {
    this.#counted = this.#here;
    this.#here = 0;
  }

  /** Entries are read of a table that is entered for the first time, while the cursor stands there. */
  add(cursor: number, entries: number): void {
    if (this.#cursor !== cursor) {
      this.#here = 0;
      this.#counted = 0;
    }
    const again = Math.min(this.#counted, entries);
    this.#cursor = cursor;
    this.#here += entries;
    this.#counted -= again;
    this.total += entries - again;
  }
}

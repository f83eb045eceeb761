/**
 * A bounded cache of what table entries say, by number: contexts by source-id (§6.2.2), PASID entries by requester (§6.2.3).
 *
 * Only entries without a fault are kept, so an entry that becomes present needs no invalidation.
 */

/** A cache of at most `entryCount` values. With 0 every look-up misses. */
export class BindingCache<T> {
  hits = 0;
  misses = 0;
  readonly #entryCount: number;
  readonly #entries = new Map<number, T>();
  // The entry used last: a device's requests come in bursts.
  #lastKey = -1;
  #last: T | undefined;

  constructor(entryCount: number) {
    this.#entryCount = entryCount;
  }

  /** Entries in use. */
  get size(): number {
    return this.#entries.size;
  }

  /** The value of a key, a number of at least 0. */
  lookup(key: number): T | undefined {
    if (key !== this.#lastKey) this.#use(key, this.#entries.get(key));
    if (this.#last === undefined) this.misses += 1;
    else this.hits += 1;
    return this.#last;
  }

  fill(key: number, value: T): void {
    if (this.#entryCount === 0) return;
    if (this.#entries.size >= this.#entryCount && !this.#entries.has(key)) {
      // A Map remembers insertion order: the oldest goes.
      for (const oldest of this.#entries.keys()) {
        this.#delete(oldest);
        break;
      }
    }
    this.#entries.set(key, value);
    this.#use(key, value);
  }

  /** Drops everything. */
  invalidateAll(): void {
    this.#entries.clear();
    this.#use(-1, undefined);
  }

  /** Drops what the predicate picks. */
  invalidate(picks: (key: number, value: T) => boolean): void {
    for (const [key, value] of this.#entries) if (picks(key, value)) this.#delete(key);
  }

  #delete(key: number): void {
    this.#entries.delete(key);
    if (key === this.#lastKey) this.#use(-1, undefined);
  }

  #use(key: number, value: T | undefined): void {
    this.#lastKey = key;
    this.#last = value;
  }
}

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

  constructor(entryCount: number) {
    this.#entryCount = entryCount;
  }

  /** Entries in use. */
  get size(): number {
    return this.#entries.size;
  }

  lookup(key: number): T | undefined {
    const value = this.#entries.get(key);
    if (value === undefined) this.misses += 1;
    else this.hits += 1;
    return value;
  }

  fill(key: number, value: T): void {
    if (this.#entryCount === 0) return;
    if (this.#entries.size >= this.#entryCount && !this.#entries.has(key)) {
      // A Map remembers insertion order: the oldest goes.
      for (const oldest of this.#entries.keys()) {
        this.#entries.delete(oldest);
        break;
      }
    }
    this.#entries.set(key, value);
  }

  /** Drops everything. */
  invalidateAll(): void {
    this.#entries.clear();
  }

  /** Drops what the predicate picks. */
  invalidate(picks: (key: number, value: T) => boolean): void {
    for (const [key, value] of this.#entries) if (picks(key, value)) this.#entries.delete(key);
  }
}

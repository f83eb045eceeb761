/**
 * The interrupt entry cache (§6.4): decoded remapping entries by index. Only entries without a fault are kept.
 */

/** A decoded entry with IM = 0. */
export interface RemappedInterrupt {
  readonly kind: "remapped";
  readonly sourceValidation: SourceRule;
  readonly faultsDisabled: boolean;
  /** The message that leaves the unit. */
  readonly address: number;
  readonly addressHigh: number;
  readonly data: number;
}

/** A decoded entry with IM = 1. */
export interface PostedInterrupt {
  readonly kind: "posted";
  readonly sourceValidation: SourceRule;
  readonly faultsDisabled: boolean;
  readonly vector: number;
  readonly urgent: boolean;
  readonly descriptorGpa: number;
}

/** Which requesters may use an entry (§9.9): SVT, SQ and SID. */
export interface SourceRule {
  readonly type: number;
  readonly qualifier: number;
  readonly sourceId: number;
}

/** Either form. */
export type InterruptEntry = RemappedInterrupt | PostedInterrupt;

/** A cache of at most `entryCount` entries. With 0 every look-up misses. */
export class InterruptEntryCache {
  readonly #entryCount: number;
  readonly #entries = new Map<number, InterruptEntry>();

  constructor(entryCount: number) {
    this.#entryCount = entryCount;
  }

  /** Entries in use. */
  get size(): number {
    return this.#entries.size;
  }

  lookup(index: number): InterruptEntry | undefined {
    return this.#entries.get(index);
  }

  fill(index: number, entry: InterruptEntry): void {
    if (this.#entryCount === 0) return;
    if (this.#entries.size >= this.#entryCount) this.#entries.clear();
    this.#entries.set(index, entry);
  }

  /** Drops `count` indexes from `first` on, or everything. */
  invalidate(range: { readonly first: number; readonly count: number } | undefined): void {
    if (range === undefined) {
      this.#entries.clear();
      return;
    }
    // The entries bound the work, not the range: a guest may name 2^31 indexes.
    for (const index of this.#entries.keys())
      if (index >= range.first && index < range.first + range.count) this.#entries.delete(index);
  }
}

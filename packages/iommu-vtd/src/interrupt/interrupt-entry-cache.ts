/**
 * The interrupt entry cache (§6.4): decoded remapping entries by index. Only entries without a fault are kept.
 */

import type { MsiMessage } from "@iommu-kit/iommu-core";

/** A decoded entry with IM = 0. */
export interface RemappedInterrupt {
  readonly kind: "remapped";
  readonly sourceValidation: SourceRule;
  readonly faultsDisabled: boolean;
  /** What leaves the unit: the same frozen object each time. */
  readonly message: MsiMessage;
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

const EMPTY = -1;

/** A cache with one place for each index modulo its size: `entryCount` rounded up to a power of two. With 0 every look-up misses. */
export class InterruptEntryCache {
  readonly #indexes: Int32Array;
  readonly #entries: (InterruptEntry | undefined)[];

  constructor(entryCount: number) {
    let places = entryCount === 0 ? 0 : 1;
    while (places < entryCount) places *= 2;
    this.#indexes = new Int32Array(places).fill(EMPTY);
    this.#entries = Array.from({ length: places }, () => undefined);
  }

  /** Entries in use. */
  get size(): number {
    return this.#indexes.reduce((count, index) => (index === EMPTY ? count : count + 1), 0);
  }

  lookup(index: number): InterruptEntry | undefined {
    const place = index & (this.#indexes.length - 1);
    return this.#indexes[place] === index ? this.#entries[place] : undefined;
  }

  fill(index: number, entry: InterruptEntry): void {
    if (this.#indexes.length === 0) return;
    const place = index & (this.#indexes.length - 1);
    this.#indexes[place] = index;
    this.#entries[place] = entry;
  }

  /** Drops `count` indexes from `first` on, or everything. */
  invalidate(range: { readonly first: number; readonly count: number } | undefined): void {
    if (range === undefined) {
      this.#indexes.fill(EMPTY);
      return;
    }
    // The places bound the work, not the range: a guest may name 2^31 indexes.
    for (const [place, index] of this.#indexes.entries())
      if (index >= range.first && index < range.first + range.count) this.#indexes[place] = EMPTY;
  }
}

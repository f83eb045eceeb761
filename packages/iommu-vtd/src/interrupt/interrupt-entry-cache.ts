/**
 * The interrupt entry cache (§6.4): decoded remapping entries by index. Only entries without a fault are kept.
 */

import type { MsiMessage } from "@iommu-kit/iommu-core";
import { SourceValidation } from "../spec/interrupt.js";
import { ignoredFunctionBits } from "../spec/invalidation.js";

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
// Words of a place: the index, and which requesters need no second look, as a source-id and a mask.
const WORDS = 4;
const SOURCE = 1;
const SOURCE_MASK = 2;
/** No source-id is this under a mask of all bits: every requester needs a second look. */
const NOBODY = -1;

/** A cache with one place for each index modulo its size: `entryCount` rounded up to a power of two. With 0 every look-up misses. */
export class InterruptEntryCache {
  readonly #placeMask: number;
  readonly #keys: Int32Array;
  readonly #entries: (InterruptEntry | undefined)[];
  readonly #messages: (MsiMessage | undefined)[];

  constructor(entryCount: number) {
    let places = entryCount === 0 ? 0 : 1;
    while (places < entryCount) places *= 2;
    this.#placeMask = places - 1;
    this.#keys = new Int32Array(places * WORDS).fill(EMPTY);
    this.#entries = Array.from({ length: places }, () => undefined);
    this.#messages = Array.from({ length: places }, () => undefined);
  }

  /** Entries in use. */
  get size(): number {
    return this.#keys.reduce((count, word, at) => (at % WORDS === 0 && word !== EMPTY ? count + 1 : count), 0);
  }

  lookup(index: number): InterruptEntry | undefined {
    const place = index & this.#placeMask;
    return this.#keys[place * WORDS] === index ? this.#entries[place] : undefined;
  }

  /** What leaves the unit for an interrupt of this requester, if that is certain at the first look. `undefined`: look closer. */
  messageOf(index: number, requesterId: number): MsiMessage | undefined {
    const keys = this.#keys;
    const place = index & this.#placeMask;
    const at = place * WORDS;
    if (keys[at] !== index) return undefined;
    const stranger = ((keys[at + SOURCE] as number) ^ requesterId) & (keys[at + SOURCE_MASK] as number);
    return stranger === 0 ? this.#messages[place] : undefined;
  }

  fill(index: number, entry: InterruptEntry): void {
    if (this.#entries.length === 0) return;
    const place = index & this.#placeMask;
    const { type, qualifier, sourceId } = entry.sourceValidation;
    this.#keys[place * WORDS] = index;
    this.#keys[place * WORDS + SOURCE] = type === SourceValidation.BUS_RANGE ? NOBODY : sourceId;
    this.#keys[place * WORDS + SOURCE_MASK] = maskOf(type, qualifier);
    this.#entries[place] = entry;
    this.#messages[place] = entry.kind === "remapped" ? entry.message : undefined;
  }

  /** Drops `count` indexes from `first` on, or everything. */
  invalidate(range: { readonly first: number; readonly count: number } | undefined): void {
    if (range === undefined) {
      this.#keys.fill(EMPTY);
      return;
    }
    // The places bound the work, not the range: a guest may name 2^31 indexes.
    for (let at = 0; at < this.#keys.length; at += WORDS) {
      const index = this.#keys[at] as number;
      if (index >= range.first && index < range.first + range.count) this.#keys[at] = EMPTY;
    }
  }
}

function maskOf(type: number, qualifier: number): number {
  if (type === SourceValidation.NONE) return 0;
  return type === SourceValidation.SOURCE_ID ? ~ignoredFunctionBits(qualifier) : -1;
}

/**
 * What `CacheNotifier` and `DeviceTlb` share: a translation cache that fills by translating through its address space.
 *
 * Invariants:
 * - nothing is held that nobody would flush: while the notifier is not attached, and outside the attached range, requests pass through uncached;
 * - an answer that was on its way while any invalidation arrived is neither held nor used;
 * - rights are the mapping's own, or those asked for where the guest's tables have dirty flags; a request for more asks the address space again.
 */

import {
  type Access,
  type AddressSpace,
  type FrameRange,
  LocalReason,
  type Notifier,
  type Translation,
} from "@iommu-kit/iommu-core";
import { AttachmentScope } from "./attachment-scope.js";
import { type EntryRights, entryRights } from "./entry-rights.js";
import { type CacheCounters, cacheCounters, type CacheStatistics } from "./cache-statistics.js";
import { type CachedBlock, type CacheShape, TranslationCache } from "./translation-cache.js";

/** Reason of a request that was invalidated again and again while it was being translated: negative, so no architecture uses it. */
export const ALWAYS_INVALIDATED = LocalReason.ALWAYS_INVALIDATED;
const ATTEMPTS = 4;

/** How a cache is made. */
export interface DeviceCacheOptions extends CacheShape {
  /** For events and messages. */
  readonly name?: string;
  /**
   * Which rights an entry carries. `"mapping"`: all that the mapping allows, one miss a page. `"requested"`: only those that were asked for, so that the first
   * write to a page that was read is a miss too. Default: `"requested"` where the guest's tables have accessed and dirty flags, which only a translated write
   * sets (`Domain.setsFlags`), else `"mapping"`.
   */
  readonly rights?: "mapping" | "requested";
  /**
   * Called after the entries of an invalidation have been dropped, for devices with accesses in flight. The guest's invalidation completes when the answer does.
   * `undefined`: nothing is in flight.
   */
  readonly onFlush?: (range: FrameRange) => Promise<void> | undefined;
  /** Where misses are answered. Default: `space.translate`. A device that uses ATS gives its translation request here. */
  readonly fill?: (iovaPfn: number, access: Access, out: Translation) => boolean;
}

/** A translation cache of one device. Use `CacheNotifier` or `DeviceTlb`. */
export abstract class DeviceCache {
  /** Whose requests it answers. */
  readonly space: AddressSpace;
  readonly #cache: TranslationCache;
  readonly #counters: CacheCounters = cacheCounters();
  readonly #rights: EntryRights | undefined;
  readonly #onFlush: DeviceCacheOptions["onFlush"];
  readonly #fill: DeviceCacheOptions["fill"];
  readonly #scope: AttachmentScope;
  readonly #mayHold = (block: FrameRange): boolean => this.#scope.covers(block);
  #generation = 0;

  /** @throws {IommuError} `bad-option` for a shape that is not powers of two in range. */
  protected constructor(space: AddressSpace, options: DeviceCacheOptions) {
    this.space = space;
    this.#scope = new AttachmentScope(
      space,
      () => this.self,
      () => this.revoke(),
    );
    this.#cache = new TranslationCache(options);
    this.#rights = options.rights;
    this.#onFlush = options.onFlush;
    this.#fill = options.fill;
  }

  /** What it has done so far. */
  get statistics(): CacheStatistics {
    return this.#counters;
  }

  /** Entries that it can hold. */
  get capacity(): number {
    return this.#cache.capacity;
  }

  /** Entries that it holds. */
  get entryCount(): number {
    return this.#cache.entryCount;
  }

  /** What it holds, in no order: for people and tests. No counter changes, and no entry counts as used. Do not change the cache meanwhile. */
  entries(): IterableIterator<CachedBlock> {
    return this.#cache.entries();
  }

  /** Grows with every invalidation: an answer obtained before it grew is not to be inserted. */
  get generation(): number {
    return this.#generation;
  }

  /**
   * Answers from the cache alone: no translation, no fault. `false`, with `out` unchanged: not held with these rights.
   * `out` is valid until the next invalidation that covers the page.
   */
  lookup(iovaPfn: number, access: Access, out: Translation): boolean {
    const hit = this.#cache.lookup(iovaPfn, access, out);
    if (hit) this.#counters.hits += 1;
    else this.#counters.misses += 1;
    return hit;
  }

  /**
   * Answers from the cache, or asks the address space and remembers. `false`: refused, `out.reason` says why; refusals are not remembered. `out.access` is what
   * an entry carries (`rights`), on a miss as on a hit.
   * `out` is valid until the next invalidation that covers the page.
   */
  translate(iovaPfn: number, access: Access, out: Translation): boolean {
    if (this.lookup(iovaPfn, access, out)) return true;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const generation = this.#generation;
      if (!this.#ask(iovaPfn, access, out)) {
        this.#counters.refused += 1;
        return false;
      }
      out.access = entryRights(this.space, access, out.access, this.#rights);
      if (this.insert(iovaPfn, out, generation)) return true;
    }
    out.refuse(ALWAYS_INVALIDATED, "invalidated while being translated");
    return false;
  }

  /**
   * Holds an answer that was obtained while `generation` was the cache's: for devices that ask asynchronously.
   * `false`: an invalidation arrived since. The answer must not be used; ask again.
   */
  insert(iovaPfn: number, answer: Translation, generation: number): boolean {
    if (generation !== this.#generation) {
      this.#counters.discarded += 1;
      return false;
    }
    const outcome = this.#cache.insert(iovaPfn, answer, this.#mayHold);
    if (outcome === "outside") this.#counters.uncached += 1;
    else this.#counters.fills += 1;
    if (outcome === "evicted") this.#counters.evictions += 1;
    return true;
  }

  /** Cut off by the hub: drops everything. Every later request asks the address space. */
  revoke(): void {
    this.#generation += 1;
    this.#counters.flushedEntries += this.#cache.clear();
  }

  /** This object as what it is attached as. */
  protected abstract get self(): Notifier;

  /** Drops what touches these frames. */
  protected flush(firstPfn: number, pageCount: number): Promise<void> | undefined {
    this.#generation += 1;
    this.#counters.flushes += 1;
    this.#counters.flushedEntries += this.#cache.invalidate(firstPfn, pageCount);
    return this.#onFlush?.({ firstPfn, pageCount });
  }

  #ask(iovaPfn: number, access: Access, out: Translation): boolean {
    return this.#fill === undefined ? this.space.translate(iovaPfn, access, out) : this.#fill(iovaPfn, access, out);
  }
}

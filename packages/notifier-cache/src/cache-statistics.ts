/**
 * What a translation cache counts. Plain numbers that only grow: take a difference to measure a period.
 */

/** Counters of one cache. The object is live: it is the same one for the life of the cache. */
export interface CacheStatistics {
  /** Requests answered from the cache. */
  readonly hits: number;
  /** Requests that were not: nothing was held for the page, or not with the rights asked for. */
  readonly misses: number;
  /** Answers of the address space that were put into the cache. */
  readonly fills: number;
  /** Answers that were not put in, because an invalidation arrived while they were on their way. */
  readonly discarded: number;
  /** Answers that were not put in, because nobody would have told this cache to drop them again. */
  readonly uncached: number;
  /** Requests that the address space refused. */
  readonly refused: number;
  /** Entries that made room for another. */
  readonly evictions: number;
  /** Invalidations received. */
  readonly flushes: number;
  /** Entries that invalidations dropped. */
  readonly flushedEntries: number;
}

/** @internal The same, writable. */
export type CacheCounters = { -readonly [Name in keyof CacheStatistics]: CacheStatistics[Name] };

/** @internal Counters at zero. */
export function cacheCounters(): CacheCounters {
  return {
    hits: 0,
    misses: 0,
    fills: 0,
    discarded: 0,
    uncached: 0,
    refused: 0,
    evictions: 0,
    flushes: 0,
    flushedEntries: 0,
  };
}

/**
 * The memory that a host and a device in a worker share: a header of words, a ring of invalidations, one answer, and the cache's arrays.
 *
 * Who writes what: the host writes STATE, POSTED, the ring and the answer; the worker writes ACKED, IN_ACCESS, the counters and the cache.
 * Plain data is written before, and read after, the atomic word that announces it. The one exception to "the worker writes the cache" is revocation, which
 * the STATE word decides anyway.
 */

import { IommuError } from "@iommu-kit/iommu-core";
import {
  type CacheShape,
  type CacheStorage,
  cacheStorage,
  cacheStorageBytes,
  resolveShape,
} from "../translation-cache.js";

/** Words of the header. */
export const Word = {
  FORMAT: 0,
  /** RUNNING or REVOKED. */
  STATE: 1,
  /** Invalidations posted; wraps at 2^32. */
  POSTED: 2,
  /** Of those, acknowledged. */
  ACKED: 3,
  /** Grows with whatever a waiting worker should look at. */
  DOORBELL: 4,
  /** 1 while a wake-up message is on its way to the worker. */
  WAKING: 5,
  /** 1 while the worker touches guest memory. */
  IN_ACCESS: 6,
  /** Which miss the answer is for. */
  ANSWER_ID: 7,
  ANSWER_REASON: 8,
  ANSWER_ACCESS: 9,
  /** Block that the answer may be held for, in pages. */
  ANSWER_PAGES: 10,
  /** POSTED when the answer was obtained. */
  ANSWER_GENERATION: 11,
  ENTRIES: 12,
  WAYS: 13,
  HITS: 14,
  MISSES: 15,
  FILLS: 16,
  DISCARDED: 17,
  FLUSHED: 18,
  /** Grows with every call of the worker's device into the cache. */
  HEARTBEAT: 19,
} as const;

/** Values of STATE. */
export const RUNNING = 0;
/** The worker reaches nothing any more, whatever its cache says. */
export const REVOKED = 1;
/** Invalidations that can be posted before the first is acknowledged. */
export const RING_ENTRIES = 256;

const FORMAT = 0x494b4331;
const HEADER_WORDS = 32;
const ANSWER_TARGET_BYTES = HEADER_WORDS * 4;
const RING_BYTES = ANSWER_TARGET_BYTES + 8;
const CACHE_BYTES = RING_BYTES + RING_ENTRIES * 16;

/** Views of the block. */
export interface SharedBlock {
  readonly buffer: SharedArrayBuffer;
  readonly words: Int32Array;
  /** One element: target frame of the answer. */
  readonly answerTarget: Float64Array;
  /** Pairs: first frame and count. Invalidation n is at n % RING_ENTRIES. */
  readonly ring: Float64Array;
  readonly cache: CacheStorage;
  readonly shape: Required<CacheShape>;
}

/** Makes a block. @throws {IommuError} `bad-option` for a shape that is not powers of two in range. */
export function createSharedBlock(given: CacheShape): SharedBlock {
  const shape = resolveShape(given);
  const buffer = new SharedArrayBuffer(CACHE_BYTES + cacheStorageBytes(shape.entries));
  const words = new Int32Array(buffer, 0, HEADER_WORDS);
  words[Word.FORMAT] = FORMAT;
  words[Word.ENTRIES] = shape.entries;
  words[Word.WAYS] = shape.ways;
  return openSharedBlock(buffer);
}

/** Opens a block on the other side. @throws {IommuError} `bad-option` for a buffer of another version of this package. */
export function openSharedBlock(buffer: SharedArrayBuffer): SharedBlock {
  const words = new Int32Array(buffer, 0, HEADER_WORDS);
  const header = (word: number): number => Atomics.load(words, word);
  if (header(Word.FORMAT) !== FORMAT) {
    throw new IommuError("bad-option", `shared cache: expected format ${FORMAT}, got ${header(Word.FORMAT)}`, {
      hint: "use the same version of @iommu-kit/notifier-cache on both sides, and give the worker `setup` as it is",
    });
  }
  const shape = { entries: header(Word.ENTRIES), ways: header(Word.WAYS) };
  return {
    buffer,
    words,
    answerTarget: new Float64Array(buffer, ANSWER_TARGET_BYTES, 1),
    ring: new Float64Array(buffer, RING_BYTES, RING_ENTRIES * 2),
    cache: cacheStorage(shape.entries, buffer, CACHE_BYTES),
    shape,
  };
}

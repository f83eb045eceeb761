/**
 * Where a fuzzed guest keeps what: few frames for each kind of structure, so that random pointers meet each other.
 */

import type { FrameRange } from "@iommu-kit/iommu-core";

/** Frames of the lower RAM. */
export const LOW_FRAMES = 96;
/** RAM: the structures, and a piece above 4 GiB. */
export const RAM: readonly FrameRange[] = [
  { firstPfn: 0, pageCount: LOW_FRAMES },
  { firstPfn: 0x100000, pageCount: 8 },
];

/** Frames by what the guest means them for. Nothing keeps it from using them for something else as well. */
export const Frames = {
  root: 1,
  contexts: [2, 3],
  directories: [4, 5],
  pasidTables: [6, 7, 8],
  /** The invalidation queue: two frames. */
  queue: 9,
  /** Status words of wait descriptors. */
  status: 11,
  /** The status word of flushes, where no table lies. */
  flushed: 0x100005,
  /** The page request queue. */
  pageRequests: 12,
  interrupts: 13,
  posted: 14,
  first: Array.from({ length: 20 }, (_, i) => 16 + i),
  second: Array.from({ length: 20 }, (_, i) => 40 + i),
} as const;

/** Frames below it hold root, context and PASID structures. */
export const END_OF_STRUCTURES = 9;

/** Indexes that tables are filled at and requests use. */
export const INDEXES = [0, 1, 255, 256, 511] as const;
/** Devices: two of one context table, one of the upper half, one of another bus. */
export const SOURCES = [0x18, 0x19, 0x98, 0x100] as const;
/** PASIDs, the last beyond what most units have. */
export const PASIDS = [0, 1, 5, 64, 8191, 0xfffff] as const;
/** Domain-ids. */
export const DOMAINS = [1, 2, 5, 6] as const;

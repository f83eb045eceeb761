/**
 * What the IOVA tree answers: a mapping, or runs of them.
 */

import type { Access } from "../access.js";

/** A reusable answer of `find` and `seek`. */
export class Mapping {
  /** First frame of the slot. */
  firstPfn = 0;
  /** Frames in the slot: 1, or 512, 2^18 ... for a superpage. */
  pageCount = 0;
  /** Target of the frame that was asked for; of the slot's first frame when that lies above it. */
  gpaPfn = 0;
  /** Rights. */
  access: Access = 0;
}

/** Told a maximal run of frames with consecutive targets and equal rights. `false` ends the iteration. */
export type RunVisitor = (
  firstPfn: number,
  pageCount: number,
  gpaPfn: number,
  access: Access,
) => boolean | undefined | void;

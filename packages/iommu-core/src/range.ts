/**
 * Ranges of page frames, half-open: `firstPfn` is in, `firstPfn + pageCount` is not.
 */

import { FRAME_LIMIT, formatPfn } from "./address.js";
import { IommuError } from "./errors.js";

/** `pageCount` frames from `firstPfn` on. Both are integers; `firstPfn + pageCount` is at most 2^52. */
export interface FrameRange {
  /** First frame, 0 to 2^52 - 1. */
  readonly firstPfn: number;
  /** Frames from it on; 0 is an empty range, which most callers refuse. */
  readonly pageCount: number;
}

/** Every frame of the 64-bit space. */
export const ALL_FRAMES: FrameRange = { firstPfn: 0, pageCount: FRAME_LIMIT };

/** The first frame behind the range. */
export function endOf(range: FrameRange): number {
  return range.firstPfn + range.pageCount;
}

/** Whether `pfn` lies in the range. */
export function contains(range: FrameRange, pfn: number): boolean {
  return pfn >= range.firstPfn && pfn < range.firstPfn + range.pageCount;
}

/** The frames that both ranges have; `pageCount` is 0 when there are none. */
export function intersect(a: FrameRange, b: FrameRange): FrameRange {
  const firstPfn = Math.max(a.firstPfn, b.firstPfn);
  return { firstPfn, pageCount: Math.max(0, Math.min(endOf(a), endOf(b)) - firstPfn) };
}

/** `"0x1000+2 pages"`: the byte address of the first frame, in hexadecimal, and how many frames; `"empty at 0x1000"` for none. For people. */
export function formatRange(range: FrameRange): string {
  return range.pageCount === 0
    ? `empty at ${formatPfn(range.firstPfn)}`
    : `${formatPfn(range.firstPfn)}+${range.pageCount} pages`;
}

/** @throws {IommuError} `bad-range` unless the range is a whole number of frames inside the 64-bit space, and not empty. */
export function checkRange(range: FrameRange, what: string): void {
  const { firstPfn, pageCount } = range;
  const whole = Number.isSafeInteger(firstPfn) && Number.isSafeInteger(pageCount);
  if (!whole || firstPfn < 0 || pageCount <= 0 || firstPfn + pageCount > FRAME_LIMIT) {
    throw new IommuError(
      "bad-range",
      `${what}: expected whole frames in [0, 2^52), got first ${firstPfn}, count ${pageCount}`,
      {
        hint: "give { firstPfn, pageCount } in 4 KiB frames, not bytes",
      },
    );
  }
}

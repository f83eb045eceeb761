/**
 * The interrupt window as frames (§3.15): as input of requests without PASID it carries messages, as output it is blocked.
 */

import type { FrameRange } from "@iommu-kit/iommu-core";

// Constants of this module: engines fold them, and do not fold what an object holds (bench replay, translate).
const FIRST = 0xfee00;
const COUNT = 0x100;

/** Its 256 frames. */
export const INTERRUPT_WINDOW: FrameRange = { firstPfn: FIRST, pageCount: COUNT };

/** Whether a frame lies in the window. */
export function inInterruptWindow(pfn: number): boolean {
  return pfn >= FIRST && pfn < FIRST + COUNT;
}

/** Whether a block of frames touches the window. */
export function touchesInterruptWindow(firstPfn: number, pageCount: number): boolean {
  return firstPfn < FIRST + COUNT && firstPfn + pageCount > FIRST;
}

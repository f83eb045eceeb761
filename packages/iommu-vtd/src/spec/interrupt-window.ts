/**
 * The interrupt window as frames (§3.15): as input of requests without PASID it carries messages, as output it is blocked.
 */

import { contains, type FrameRange } from "@iommu-kit/iommu-core";

/** Its 256 frames. */
export const INTERRUPT_WINDOW: FrameRange = { firstPfn: 0xfee00, pageCount: 0x100 };

/** Whether a frame lies in the window. */
export function inInterruptWindow(pfn: number): boolean {
  return contains(INTERRUPT_WINDOW, pfn);
}

/** Whether a block of frames touches the window. */
export function touchesInterruptWindow(firstPfn: number, pageCount: number): boolean {
  return (
    firstPfn < INTERRUPT_WINDOW.firstPfn + INTERRUPT_WINDOW.pageCount &&
    firstPfn + pageCount > INTERRUPT_WINDOW.firstPfn
  );
}

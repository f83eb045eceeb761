/**
 * Tells one leaf of a table to a sink, stepping around targets in the interrupt window (§3.15): no device can reach them, the rest of a superpage stays reachable.
 */

import type { Access, MappingSink } from "@iommu-kit/iommu-core";
import { INTERRUPT_WINDOW, touchesInterruptWindow } from "../spec/interrupt-window.js";

/** `false`: the sink wants no more. */
export function tellLeaf(
  sink: MappingSink,
  firstPfn: number,
  pageCount: number,
  gpaPfn: number,
  access: Access,
): boolean {
  if (!touchesInterruptWindow(gpaPfn, pageCount)) return sink.run(firstPfn, pageCount, gpaPfn, access);
  const before = Math.max(0, INTERRUPT_WINDOW.firstPfn - gpaPfn);
  const behind = Math.min(pageCount, INTERRUPT_WINDOW.firstPfn + INTERRUPT_WINDOW.pageCount - gpaPfn);
  if (before > 0 && !sink.run(firstPfn, before, gpaPfn, access)) return false;
  return behind >= pageCount || sink.run(firstPfn + behind, pageCount - behind, gpaPfn + behind, access);
}

/**
 * Targets that no request may reach: the interrupt window (§3.15) and protected memory regions (§11.4.8).
 *
 * The walk and the scan ask the same object, so what a MAP notifier is told never differs from what a device can do.
 */

import { contains, endOf, type FrameRange } from "@iommu-kit/iommu-core";
import { INTERRUPT_WINDOW, inInterruptWindow } from "../spec/interrupt-window.js";

/** The regions that are blocked now, for all walks and scans of a unit. */
export class OutputFilter {
  #blocked: readonly FrameRange[] = [INTERRUPT_WINDOW];
  #protected: readonly FrameRange[] = [];

  /** Every blocked range, ascending and disjoint. */
  get blocked(): readonly FrameRange[] {
    return this.#blocked;
  }

  /** The protected memory regions in force. */
  get protectedRegions(): readonly FrameRange[] {
    return this.#protected;
  }

  /** Protects these regions and no others. They may overlap. */
  protect(regions: readonly FrameRange[]): void {
    this.#protected = regions;
    const merged: FrameRange[] = [];
    for (const range of [INTERRUPT_WINDOW, ...regions].toSorted((a, b) => a.firstPfn - b.firstPfn)) {
      const last = merged.at(-1);
      if (last === undefined || endOf(last) < range.firstPfn) merged.push(range);
      else
        merged[merged.length - 1] = {
          firstPfn: last.firstPfn,
          pageCount: Math.max(endOf(last), endOf(range)) - last.firstPfn,
        };
    }
    this.#blocked = merged;
  }

  /** Whether a target may not be reached. */
  blocks(pfn: number): boolean {
    return this.#protected.length === 0 ? inInterruptWindow(pfn) : this.#blocked.some((range) => contains(range, pfn));
  }

  /** Whether a target lies in a protected region. */
  protects(pfn: number): boolean {
    return this.#protected.some((range) => contains(range, pfn));
  }

  /** Whether any target of a block may not be reached. */
  touches(firstPfn: number, pageCount: number): boolean {
    return this.#blocked.some((range) => firstPfn < endOf(range) && firstPfn + pageCount > range.firstPfn);
  }
}

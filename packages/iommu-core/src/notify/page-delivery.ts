/**
 * A MAP notifier that can unmap any part of what it holds: it gets every difference as it is, around what it refused.
 */

import type { Access } from "../access.js";
import { alignedBlock } from "./block-ledger.js";
import { MapDelivery } from "./map-delivery.js";
import { endOf, type FrameRange } from "../range.js";

/** See the file's header. */
export class PageDelivery extends MapDelivery {
  protected override removePart(iovaPfn: number, pageCount: number): void {
    this.#heldRuns(iovaPfn, pageCount, (first, count, held) => {
      if (held) this.tellUnmap(first, count);
    });
    this.dropUnheld(iovaPfn, pageCount);
  }

  protected override changePart(part: FrameRange, gpaPfn: number, access: Access): void {
    this.#heldRuns(part.firstPfn, part.pageCount, (first, count, held) => {
      const target = gpaPfn + (first - part.firstPfn);
      if (held) {
        this.#pieces(first, count, (at, pages) => this.#change(at, pages, target + (at - first), access));
      } else {
        this.dropUnheld(first, count);
        this.addPart({ firstPfn: first, pageCount: count }, target, access, count);
      }
    });
  }

  /** Blocks may cross table entries: only the consumer's own limit cuts them. */
  protected override pieceAt(pfn: number, left: number): number {
    return left <= this.largestBlock ? left : alignedBlock(pfn, left, this.largestBlock);
  }

  protected override hold(): void {
    // What is not in `unheld` is held.
  }

  protected override unhold(): void {
    // `unheld` says it all.
  }

  protected override forget(): void {
    // Nothing but `unheld` is kept.
  }

  #change(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    if (this.notifier.replace !== undefined) {
      this.tellReplace(iovaPfn, pageCount, gpaPfn, access);
      return;
    }
    this.tellUnmap(iovaPfn, pageCount);
    if (this.tellMap(iovaPfn, pageCount, gpaPfn, access)) this.reports.window(iovaPfn, pageCount);
  }

  /** Cuts a range into pieces that the consumer takes at once. */
  #pieces(iovaPfn: number, pageCount: number, visit: (at: number, pages: number) => void): void {
    const end = iovaPfn + pageCount;
    for (let at = iovaPfn; at < end;) {
      const pages = this.pieceAt(at, end - at);
      visit(at, pages);
      at += pages;
    }
  }

  /** Splits a range into what the consumer holds and what it refused. */
  #heldRuns(iovaPfn: number, pageCount: number, visit: (first: number, count: number, held: boolean) => void): void {
    if (this.unheld.slotCount === 0) {
      visit(iovaPfn, pageCount, true);
      return;
    }
    const refused: FrameRange[] = [];
    this.unheld.runs((firstPfn, count) => void refused.push({ firstPfn, pageCount: count }), {
      firstPfn: iovaPfn,
      pageCount,
    });
    let at = iovaPfn;
    for (const run of refused) {
      if (run.firstPfn > at) visit(at, run.firstPfn - at, true);
      visit(run.firstPfn, run.pageCount, false);
      at = endOf(run);
    }
    if (at < iovaPfn + pageCount) visit(at, iovaPfn + pageCount - at, true);
  }
}

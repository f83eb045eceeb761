/**
 * A MAP notifier that can unmap any part of what it holds: it gets every difference as it is, around what it refused.
 */

import type { Access } from "../access.js";
import { alignedBlock } from "./block-ledger.js";
import { MapDelivery } from "./map-delivery.js";
import type { FrameRange } from "../range.js";

interface Part extends FrameRange {
  readonly held: boolean;
}

/** What one `page` consumer is told. */
export class PageDelivery extends MapDelivery {
  protected override framesOfPart(iovaPfn: number, pageCount: number, most: number): number {
    let frames = pageCount;
    let runs = 0;
    if (this.unheld.slotCount > 0)
      this.unheld.runs(
        (firstPfn) => {
          // Each refused run, and what is held in front of it.
          runs += 2;
          if (runs < most) return true;
          frames = Math.max(1, firstPfn - iovaPfn);
          return false;
        },
        { firstPfn: iovaPfn, pageCount },
      );
    return frames;
  }

  protected override removePart(iovaPfn: number, pageCount: number): void {
    if (this.unheld.slotCount === 0) {
      this.tellUnmap(iovaPfn, pageCount);
      return;
    }
    for (const { firstPfn, pageCount: count, held } of this.#partsOf(iovaPfn, pageCount))
      if (held) this.tellUnmap(firstPfn, count);
    this.dropUnheld(iovaPfn, pageCount);
  }

  protected override changePart(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    if (this.unheld.slotCount === 0) {
      this.#changeHeld(iovaPfn, pageCount, gpaPfn, access);
      return;
    }
    for (const { firstPfn, pageCount: count, held } of this.#partsOf(iovaPfn, pageCount)) {
      const target = gpaPfn + (firstPfn - iovaPfn);
      if (held) {
        this.#changeHeld(firstPfn, count, target, access);
      } else {
        this.dropUnheld(firstPfn, count);
        this.addPart(firstPfn, count, target, access, count);
      }
    }
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

  /** In pieces that the consumer takes at once. */
  #changeHeld(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    const end = iovaPfn + pageCount;
    for (let at = iovaPfn; at < end;) {
      const pages = this.pieceAt(at, end - at);
      this.#change(at, pages, gpaPfn + (at - iovaPfn), access);
      at += pages;
    }
  }

  /** Splits a range into what the consumer holds and what it refused. */
  #partsOf(iovaPfn: number, pageCount: number): Part[] {
    const parts: Part[] = [];
    let at = iovaPfn;
    this.unheld.runs(
      (firstPfn, count) => {
        if (firstPfn > at) parts.push({ firstPfn: at, pageCount: firstPfn - at, held: true });
        parts.push({ firstPfn, pageCount: count, held: false });
        at = firstPfn + count;
      },
      { firstPfn: iovaPfn, pageCount },
    );
    const end = iovaPfn + pageCount;
    if (at < end) parts.push({ firstPfn: at, pageCount: end - at, held: true });
    return parts;
  }
}

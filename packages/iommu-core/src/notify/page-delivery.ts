/**
 * A MAP notifier that can unmap any part of what it holds: it gets every difference as it is, around what it refused.
 */

import type { Access } from "../access.js";
import { alignedBlock } from "./block-ledger.js";
import { MapDelivery } from "./map-delivery.js";

/** What one `page` consumer is told. */
export class PageDelivery extends MapDelivery {
  protected override framesOfPart(iovaPfn: number, pageCount: number, most: number): number {
    let frames = pageCount;
    let runs = 0;
    this.refusals.runs(
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
    const end = iovaPfn + pageCount;
    for (let at = iovaPfn; at < end;) {
      const stop = this.refusals.firstIn(at, end);
      if (stop > at) this.tellUnmap(at, stop - at);
      at = stop < end ? this.refusals.endOfRun(stop, end) : end;
    }
    this.refusals.drop(iovaPfn, pageCount);
  }

  /** In pieces that the consumer takes at once. What it refuses, it may say after each of them. */
  protected override changePart(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    const end = iovaPfn + pageCount;
    for (let at = iovaPfn; at < end && !this.failed;) {
      const target = gpaPfn + (at - iovaPfn);
      const held = this.refusals.firstIn(at, end) - at;
      const count = held > 0 ? this.pieceAt(at, held) : this.refusals.endOfRun(at, end) - at;
      if (held > 0) this.#change(at, count, target, access);
      else {
        this.refusals.drop(at, count);
        this.addPart(at, count, target, access, count);
      }
      at += count;
    }
  }

  /** Blocks may cross table entries: only the consumer's own limit cuts them. */
  protected override pieceAt(pfn: number, left: number): number {
    return left <= this.largestBlock ? left : alignedBlock(pfn, left, this.largestBlock);
  }

  protected override hold(): void {
    // What is not refused is held.
  }

  protected override unhold(): void {
    // The refusals say it all.
  }

  protected override forget(): void {
    // Nothing but the refusals is kept.
  }

  #change(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    if (this.notifier.replace !== undefined) {
      this.tellReplace(iovaPfn, pageCount, gpaPfn, access);
      return;
    }
    this.tellUnmap(iovaPfn, pageCount);
    if (this.tellMap(iovaPfn, pageCount, gpaPfn, access)) this.reports.window(iovaPfn, pageCount);
  }
}

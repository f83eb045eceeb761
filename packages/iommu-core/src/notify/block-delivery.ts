/**
 * A MAP notifier that only unmaps whole blocks (design D6).
 *
 * It remembers the blocks that the consumer holds. Where the guest cuts one, the block is unmapped, what stays mapped of it is mapped again at once, as it is
 * announced at this moment of the pass, and the frames that were briefly unmapped are reported as a `window`.
 */

import type { Access } from "../access.js";
import { alignedBlock, BlockLedger } from "./block-ledger.js";
import type { IovaTree } from "../diff/iova-tree.js";
import { Mapping } from "../diff/mapping.js";
import { type AnnouncedState, MapDelivery } from "./map-delivery.js";
import { FANOUT } from "../diff/slot.js";

/** Mappings of which each is put back as it is: a block that is cut down to a frame leaves fewer than 512 of each size. */
const MOST_SLOTS_PUT_BACK = 3 * FANOUT;
/** A block may be as large as what is put back. */
const WHOLE_RUN = 2 ** 52;

/** What one `block` consumer is told, and the blocks that it holds. */
export class BlockDelivery extends MapDelivery {
  readonly #ledger = new BlockLedger();
  readonly #cursor = new Mapping();
  /** Blocks put back at this position of the pass: they say what is new already, and the changes that are told next are not news to them. */
  readonly #fresh = new Set<number>();
  #freshCursor = -1;
  #freshIn = -1;

  protected override framesOfPart(iovaPfn: number, pageCount: number, most: number): number {
    return this.#ledger.framesOf(iovaPfn, pageCount, most);
  }

  protected override removePart(iovaPfn: number, pageCount: number, state: AnnouncedState): void {
    for (const first of this.#ledger.touching(iovaPfn, pageCount)) {
      const pages = this.#ledger.pagesAt(first);
      // It may have been reported as refused in the meantime.
      if (pages === 0) continue;
      if (first >= iovaPfn && first + pages <= iovaPfn + pageCount) {
        this.#ledger.remove(first);
        this.tellUnmap(first, pages);
      } else this.#rebuild(first, state);
    }
    this.refusals.drop(iovaPfn, pageCount);
  }

  protected override changePart(
    iovaPfn: number,
    pageCount: number,
    gpaPfn: number,
    access: Access,
    state: AnnouncedState,
  ): void {
    const end = iovaPfn + pageCount;
    let at = iovaPfn;
    for (const first of this.#ledger.touching(iovaPfn, pageCount)) {
      const pages = this.#ledger.pagesAt(first);
      if (pages === 0) continue;
      if (first > at) this.#offerAnew(at, first, state);
      at = first + pages;
      if (this.#freshAt(state).has(first)) continue;
      const whole = first >= iovaPfn && at <= end;
      if (whole && this.notifier.replace !== undefined)
        this.tellReplace(first, pages, gpaPfn + (first - iovaPfn), access);
      else this.#rebuild(first, state);
    }
    if (at < end) this.#offerAnew(at, end, state);
  }

  /** Blocks are no larger than the table entries they come from. */
  protected override pieceAt(pfn: number, left: number, slotPages: number): number {
    return alignedBlock(pfn, left, Math.min(slotPages, this.largestBlock));
  }

  protected override hold(iovaPfn: number, pageCount: number): void {
    this.#ledger.add(iovaPfn, pageCount);
  }

  protected override unhold(iovaPfn: number, pageCount: number): void {
    let left = pageCount;
    for (const first of this.#ledger.touching(iovaPfn, pageCount)) {
      const pages = this.#ledger.pagesAt(first);
      if (first < iovaPfn || first + pages > iovaPfn + pageCount) break;
      left -= pages;
      this.#ledger.remove(first);
    }
    // A part of a block, or frames that it does not hold.
    if (left > 0) this.misreported({ firstPfn: iovaPfn, pageCount });
  }

  protected override forget(): void {
    this.#ledger.clear();
  }

  /** Frames that change and that the consumer had refused. */
  #offerAnew(firstPfn: number, end: number, state: AnnouncedState): void {
    this.refusals.drop(firstPfn, end - firstPfn);
    this.#putBack(firstPfn, end, state, false);
  }

  /** Unmaps a block, and maps whatever of it is still mapped. */
  #rebuild(first: number, state: AnnouncedState): void {
    const pages = this.#ledger.pagesAt(first);
    this.#ledger.remove(first);
    this.tellUnmap(first, pages);
    this.#putBack(first, first + pages, state, true);
  }

  #putBack(firstPfn: number, end: number, state: AnnouncedState, windows: boolean): void {
    const middle = Math.min(end, Math.max(firstPfn, state.cursor));
    const slots = this.#putBackFrom(state.told, firstPfn, middle, windows, MOST_SLOTS_PUT_BACK);
    const fresh = this.#freshAt(state);
    const from = Math.max(firstPfn, middle - FANOUT);
    for (const first of this.#ledger.touching(from, middle - from)) fresh.add(first);
    this.#putBackFrom(state.untold, middle, end, windows, MOST_SLOTS_PUT_BACK - slots);
  }

  /** Puts back what `tree` maps, the first `most` mappings each as it is. Answers how many these were. */
  #putBackFrom(tree: IovaTree, firstPfn: number, end: number, windows: boolean, most: number): number {
    const slot = this.#cursor;
    let windowFirst = firstPfn;
    let windowEnd = firstPfn;
    // A consumer that has failed meanwhile has let go of everything.
    const reportWindow = (): void => {
      if (windows && windowEnd > windowFirst && !this.failed) this.reports.window(windowFirst, windowEnd - windowFirst);
    };
    const add = (start: number, pageCount: number, gpaPfn: number, access: Access, slotPages: number): void => {
      this.addPart(start, pageCount, gpaPfn, access, slotPages);
      if (start !== windowEnd) {
        reportWindow();
        windowFirst = start;
      }
      windowEnd = start + pageCount;
    };
    let at = firstPfn;
    let slots = 0;
    for (; slots < most && at < end && tree.seek(at, slot) && slot.firstPfn < end; slots++) {
      const { gpaPfn, access, pageCount } = slot;
      const start = Math.max(at, slot.firstPfn);
      at = Math.min(end, slot.firstPfn + pageCount);
      add(start, at - start, gpaPfn, access, pageCount);
    }
    // One block may have come from many small mappings, in another domain. What is left of it is nearly one run, and must not be one call for each.
    if (at < end)
      tree.runs((start, pageCount, gpaPfn, access) => add(start, pageCount, gpaPfn, access, WHOLE_RUN), {
        firstPfn: at,
        pageCount: end - at,
      });
    reportWindow();
    return slots;
  }

  /** The blocks put back at this position of this pass. */
  #freshAt(state: AnnouncedState): Set<number> {
    if (this.#freshIn !== state.pass || this.#freshCursor !== state.cursor) {
      this.#freshIn = state.pass;
      this.#freshCursor = state.cursor;
      this.#fresh.clear();
    }
    return this.#fresh;
  }
}

/**
 * One MAP notifier and what it holds: turns differences of the announced state into calls that keep its contract.
 *
 * `PageDelivery` clips to the notifier's range and steps around what the consumer refused. `BlockDelivery` also remembers the blocks, unmaps only whole
 * ones, and reports the frames that were briefly unmapped because a block was cut. State of one consumer lives here, never in the tree (design D5).
 */

import type { Access } from "./access.js";
import { CompletionGroup } from "./completion.js";
import { IommuError } from "./errors.js";
import { IovaTree, Mapping } from "./iova-tree.js";
import { type MapAnswer, type MapNotifier, notifierName } from "./notifier.js";
import { ALL_FRAMES, endOf, type FrameRange, intersect } from "./range.js";
import { BlockLedger, alignedBlock } from "./block-ledger.js";

/** What is announced at this moment of a pass: what precedes the scan is new, the rest is old. */
export interface AnnouncedState {
  find(pfn: number, out: Mapping): boolean;
}

/** Where a delivery reports what its consumer does. */
export interface DeliveryReports {
  window(iovaPfn: number, pageCount: number): void;
  refused(iovaPfn: number, pageCount: number, gpaPfn: number, answer: "full" | "unsupported"): void;
  failed(error: IommuError): void;
  /** Guards a promise of the consumer with the time-out; the answer never rejects. */
  guard<T>(promise: Promise<T>, settled: (value: T) => void): Promise<void>;
}

/** Base of both granularities. Methods are no-ops once the notifier has failed. */
export abstract class MapDelivery {
  readonly notifier: MapNotifier;
  readonly range: FrameRange;
  protected readonly largestBlock: number;
  protected readonly reports: DeliveryReports;
  /** What the consumer would not take, as it should be. Empty for nearly all. */
  protected readonly unheld = new IovaTree();
  readonly #unsupported = new IovaTree();
  readonly #pending = new CompletionGroup();
  #begun = false;
  #failed = false;
  #retryWanted = false;
  readonly #slot = new Mapping();
  /** Frames the consumer holds. */
  heldPages = 0;

  constructor(notifier: MapNotifier, range: FrameRange, reports: DeliveryReports) {
    this.notifier = notifier;
    this.range = range;
    this.reports = reports;
    this.largestBlock = notifier.largestBlock ?? 2 ** 52;
  }

  get failed(): boolean {
    return this.#failed;
  }

  /** Frames the consumer refused and that are still wanted. */
  get refusedPages(): number {
    return this.unheld.pageCount;
  }

  /** These frames are not mapped any more; all of them were. */
  remove(iovaPfn: number, pageCount: number, state: AnnouncedState): void {
    const part = intersect({ firstPfn: iovaPfn, pageCount }, this.range);
    if (part.pageCount > 0 && !this.#failed) this.removePart(part.firstPfn, part.pageCount, state);
  }

  /** These frames map elsewhere or with other rights; all of them were mapped. */
  change(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access, state: AnnouncedState): void {
    const part = intersect({ firstPfn: iovaPfn, pageCount }, this.range);
    if (part.pageCount > 0 && !this.#failed) this.changePart(part, gpaPfn + (part.firstPfn - iovaPfn), access, state);
  }

  /** These frames are mapped now; none of them was. `slotPages` is the size of the table entries they come from. */
  add(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access, slotPages: number): void {
    const part = intersect({ firstPfn: iovaPfn, pageCount }, this.range);
    if (part.pageCount > 0 && !this.#failed) this.addPart(part, gpaPfn + (part.firstPfn - iovaPfn), access, slotPages);
  }

  /** Ends the events of one invalidation; done when the consumer has completed all of them. */
  finish(group: CompletionGroup): void {
    if (this.#retryWanted) this.retry();
    if (this.#begun) {
      this.#begun = false;
      if (!this.#failed) this.call(() => this.notifier.commit?.());
    }
    group.add(this.#pending.take());
  }

  /** Offers again what the consumer refused because it was full. */
  retry(): void {
    this.#retryWanted = false;
    const slot = this.#slot;
    for (let at = 0; !this.#failed && this.unheld.seek(at, slot);) {
      const { firstPfn, pageCount, gpaPfn, access } = slot;
      at = firstPfn + pageCount;
      if (this.#unsupported.find(firstPfn, slot)) continue;
      this.unheld.remove(firstPfn, pageCount);
      this.addPart({ firstPfn, pageCount }, gpaPfn, access, pageCount);
      // Still full: the rest would be refused as well.
      if (this.unheld.find(firstPfn, slot) && !this.#unsupported.find(firstPfn, slot)) return;
    }
  }

  /** Fails this delivery, and no other. */
  fail(error: IommuError): void {
    if (this.#failed) return;
    this.#failed = true;
    this.heldPages = 0;
    this.unheld.clear();
    this.#unsupported.clear();
    this.forget();
    try {
      this.notifier.revoke?.(error);
    } catch (cause) {
      this.reports.failed(
        new IommuError("notifier-failed", `${notifierName(this.notifier)} threw from revoke`, {
          hint: "reset the device behind it",
          cause,
        }),
      );
      return;
    }
    this.reports.failed(error);
  }

  protected abstract removePart(iovaPfn: number, pageCount: number, state: AnnouncedState): void;
  protected abstract changePart(part: FrameRange, gpaPfn: number, access: Access, state: AnnouncedState): void;
  protected abstract addPart(part: FrameRange, gpaPfn: number, access: Access, slotPages: number): void;
  /** The consumer turned out not to hold these frames after all. */
  protected abstract unhold(iovaPfn: number, pageCount: number): void;
  protected abstract forget(): void;

  /** These frames are not wanted any more, or are offered anew. */
  protected dropUnheld(iovaPfn: number, pageCount: number): void {
    if (this.unheld.slotCount > 0) this.unheld.remove(iovaPfn, pageCount);
    if (this.#unsupported.slotCount > 0) this.#unsupported.remove(iovaPfn, pageCount);
  }

  protected tellUnmap(iovaPfn: number, pageCount: number): void {
    this.heldPages -= pageCount;
    if (this.unheld.slotCount > 0) this.#retryWanted = true;
    this.call(() => this.notifier.unmap(iovaPfn, pageCount));
  }

  /** Whether the consumer holds the frames now, as far as is known. */
  protected tellMap(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    this.heldPages += pageCount;
    return this.#offer(
      () => this.notifier.map(iovaPfn, pageCount, gpaPfn, access),
      { firstPfn: iovaPfn, pageCount },
      gpaPfn,
      access,
    );
  }

  protected tellReplace(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    const replace = (): MapAnswer | Promise<MapAnswer> => this.notifier.replace?.(iovaPfn, pageCount, gpaPfn, access);
    return this.#offer(replace, { firstPfn: iovaPfn, pageCount }, gpaPfn, access);
  }

  #offer(tell: () => MapAnswer | Promise<MapAnswer>, range: FrameRange, gpaPfn: number, access: Access): boolean {
    let held = true;
    const settle = (answer: MapAnswer): void => {
      if (answer === undefined || this.#failed) return;
      held = false;
      this.heldPages -= range.pageCount;
      this.unhold(range.firstPfn, range.pageCount);
      // The guest may have moved on while an asynchronous consumer was thinking; `unhold` and later events find the frames by the same bookkeeping.
      this.unheld.insert(range.firstPfn, range.pageCount, gpaPfn, access);
      if (answer === "unsupported") this.#unsupported.insert(range.firstPfn, range.pageCount, gpaPfn, access);
      this.reports.refused(range.firstPfn, range.pageCount, gpaPfn, answer);
    };
    this.call(tell, settle);
    return held && !this.#failed;
  }

  /** Calls the consumer: its failure is its own. */
  protected call<T>(tell: () => T | Promise<T>, settled?: (value: T) => void): void {
    if (this.#failed) return;
    try {
      if (!this.#begun) {
        this.#begun = true;
        this.notifier.begin?.();
      }
      const answer = tell();
      if (answer instanceof Promise) this.#pending.add(this.reports.guard(answer, settled ?? (() => undefined)));
      else settled?.(answer);
    } catch (cause) {
      this.fail(
        new IommuError("notifier-failed", `${notifierName(this.notifier)} threw`, {
          hint: "detach it, mend it, attach it again: it is replayed",
          cause,
        }),
      );
    }
  }
}

/** For consumers that can unmap any part of what they hold. */
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
      if (!held) {
        this.dropUnheld(first, count);
        this.tellMap(first, count, target, access);
      } else if (this.notifier.replace === undefined) {
        this.tellUnmap(first, count);
        if (this.tellMap(first, count, target, access)) this.reports.window(first, count);
      } else {
        this.tellReplace(first, count, target, access);
      }
    });
  }

  protected override addPart(part: FrameRange, gpaPfn: number, access: Access): void {
    const end = endOf(part);
    for (let at = part.firstPfn; at < end;) {
      const left = end - at;
      const count = left <= this.largestBlock ? left : alignedBlock(at, left, this.largestBlock);
      this.tellMap(at, count, gpaPfn + (at - part.firstPfn), access);
      at += count;
    }
  }

  protected override unhold(): void {
    // `unheld` says it all.
  }

  protected override forget(): void {
    // Nothing but `unheld` is kept.
  }

  /** Splits a range into what the consumer holds and what it refused. */
  #heldRuns(iovaPfn: number, pageCount: number, visit: (first: number, count: number, held: boolean) => void): void {
    if (this.unheld.slotCount === 0) {
      visit(iovaPfn, pageCount, true);
      return;
    }
    const refused: [number, number][] = [];
    this.unheld.runs((first, count) => void refused.push([first, count]), { firstPfn: iovaPfn, pageCount });
    let at = iovaPfn;
    for (const [first, count] of refused) {
      if (first > at) visit(at, first - at, true);
      visit(first, count, false);
      at = first + count;
    }
    if (at < iovaPfn + pageCount) visit(at, iovaPfn + pageCount - at, true);
  }
}

/** For consumers that only unmap whole blocks. */
export class BlockDelivery extends MapDelivery {
  readonly #ledger = new BlockLedger();
  readonly #cursor = new Mapping();

  /** Blocks the consumer holds. */
  get blockCount(): number {
    return this.#ledger.blockCount;
  }

  protected override removePart(iovaPfn: number, pageCount: number, state: AnnouncedState): void {
    this.#takeBlocks(iovaPfn, pageCount, state);
    this.dropUnheld(iovaPfn, pageCount);
  }

  protected override changePart(part: FrameRange, gpaPfn: number, access: Access, state: AnnouncedState): void {
    const pages = this.#ledger.pagesAt(part.firstPfn);
    if (pages === part.pageCount && part.firstPfn % pages === 0 && this.notifier.replace !== undefined) {
      if (!this.tellReplace(part.firstPfn, pages, gpaPfn, access)) this.#ledger.remove(part.firstPfn);
      return;
    }
    this.#takeBlocks(part.firstPfn, part.pageCount, state);
    this.dropUnheld(part.firstPfn, part.pageCount);
    this.addPart(part, gpaPfn, access, 1);
  }

  /** Adds what is not held yet, in blocks no larger than the table entries they come from. */
  protected override addPart(part: FrameRange, gpaPfn: number, access: Access, slotPages: number): void {
    const end = endOf(part);
    const limit = Math.min(slotPages, this.largestBlock);
    for (let at = part.firstPfn; at < end;) {
      const held = this.#ledger.pagesAt(at);
      if (held > 0) {
        at = at - (at % held) + held;
        continue;
      }
      const pages = alignedBlock(at, end - at, limit);
      this.#ledger.add(at, pages);
      this.tellMap(at, pages, gpaPfn + (at - part.firstPfn), access);
      at += pages;
    }
  }

  protected override unhold(iovaPfn: number): void {
    this.#ledger.remove(iovaPfn);
  }

  protected override forget(): void {
    this.#ledger.clear();
  }

  /** Unmaps every block that touches the range; what such a block held and stays mapped is mapped again, and reported. */
  #takeBlocks(iovaPfn: number, pageCount: number, state: AnnouncedState): void {
    const end = iovaPfn + pageCount;
    for (let at = iovaPfn; at < end;) {
      const pages = this.#ledger.pagesAt(at);
      if (pages === 0) {
        at += 1;
        continue;
      }
      const first = at - (at % pages);
      this.#ledger.remove(first);
      this.tellUnmap(first, pages);
      const kept = this.#restore(intersect({ firstPfn: first, pageCount: pages }, ALL_FRAMES), state);
      if (kept > 0) this.reports.window(first, kept);
      at = first + pages;
    }
  }

  /** Maps again whatever of a block is still mapped; answers how many frames that were. */
  #restore(block: FrameRange, state: AnnouncedState): number {
    const end = endOf(block);
    let kept = 0;
    for (let at = block.firstPfn; at < end;) {
      if (!state.find(at, this.#cursor)) {
        at += 1;
        continue;
      }
      const { gpaPfn, access, pageCount } = this.#cursor;
      const count = Math.min(end, this.#cursor.firstPfn + pageCount) - at;
      this.addPart({ firstPfn: at, pageCount: count }, gpaPfn, access, pageCount);
      kept += count;
      at += count;
    }
    return kept;
  }
}

/**
 * One MAP notifier and what it holds: turns differences of the announced state into calls that keep its contract.
 *
 * This base clips to the notifier's range, keeps what the consumer refused, and isolates its failures; page-delivery.ts and block-delivery.ts are the two
 * granularities. State of one consumer lives here, never in the tree (design D5).
 */

import type { Access } from "../access.js";
import { threw } from "./consumer-guard.js";
import { isMapping, isPartOf, meaninglessAnswer, untrueReport } from "./breaches.js";
import { type Completion, CompletionGroup, isPending } from "../completion.js";
import type { IommuError } from "../errors.js";
import type { Slice } from "./job-queue.js";
import { Refusals, slotPagesOf } from "./refusals.js";
import type { IovaTree } from "../diff/iova-tree.js";
import type { MapAnswer, MapNotifier, MapReports } from "../notifier.js";
import { OffersUnderWay } from "./offers-under-way.js";
import { endOf, type FrameRange } from "../range.js";

/** What is announced at this moment of a pass: new below the cursor, old from there on. */
export interface AnnouncedState {
  /** A number of this pass, another than any before it. */
  readonly pass: number;
  readonly cursor: number;
  /** Right for frames below the cursor. */
  readonly told: IovaTree;
  /** Right for frames from the cursor on. */
  readonly untold: IovaTree;
}

/** Where a delivery reports what its consumer does. */
export interface DeliveryReports {
  window(iovaPfn: number, pageCount: number): void;
  refused(iovaPfn: number, pageCount: number, gpaPfn: number, answer: "full" | "unsupported"): void;
  /** Revokes the consumer, and reports its failure; done when it has let go. */
  cutOff(error: IommuError): Completion;
  /** Guards a promise of the consumer with the time-out; the answer never rejects. */
  guard<T>(promise: Promise<T>, settled: (value: T) => Completion): Promise<void>;
  /** Asks for a `retry` in the order of jobs: entries freed up while the consumer was still refusing. */
  retryLater(): void;
}

/** Base of both granularities. Methods are no-ops once the notifier has failed. */
export abstract class MapDelivery {
  readonly notifier: MapNotifier;
  readonly range: FrameRange;
  /** Pages of a block at most. */
  readonly largestBlock: number;
  protected readonly reports: DeliveryReports;
  /** What the consumer would not take, as it should be. Empty for nearly all. */
  readonly refusals = new Refusals();
  readonly #asked = new OffersUnderWay();
  #unmaps = 0;
  readonly #pending = new CompletionGroup();
  #introduced = false;
  #begun = false;
  #failed = false;
  /** It has failed, and has not let go of everything yet. */
  #revoking: Completion = undefined;
  #retryWanted = false;
  #retrying = false;
  /** The block offered last found no room. */
  #noRoom = false;
  readonly #firstPfn: number;
  readonly #endPfn: number;
  /** Where the present round of offers goes on. */
  #retryFrom = 0;
  #calls = 0;
  /** What the consumer may hold, in its own largest blocks. */
  readonly #mostBlocks: () => number;
  /** Frames the consumer holds. */
  heldPages = 0;

  /** @param mostBlocks Largest blocks that the consumer may hold; what is beyond them counts as refused, and is not offered. */
  constructor(notifier: MapNotifier, range: FrameRange, reports: DeliveryReports, mostBlocks: () => number) {
    this.notifier = notifier;
    this.range = range;
    this.#firstPfn = range.firstPfn;
    this.#endPfn = endOf(range);
    this.reports = reports;
    this.largestBlock = notifier.largestBlock ?? 2 ** 52;
    this.#mostBlocks = mostBlocks;
  }

  get failed(): boolean {
    return this.#failed;
  }

  /** These frames are not mapped any more; all of them were. */
  remove(iovaPfn: number, pageCount: number, state: AnnouncedState): void {
    const first = Math.max(iovaPfn, this.#firstPfn);
    const count = Math.min(iovaPfn + pageCount, this.#endPfn) - first;
    if (count > 0 && !this.#failed) this.removePart(first, count, state);
  }

  /** These frames map elsewhere or with other rights; all of them were mapped. */
  change(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access, state: AnnouncedState): void {
    const first = Math.max(iovaPfn, this.#firstPfn);
    const count = Math.min(iovaPfn + pageCount, this.#endPfn) - first;
    if (count > 0 && !this.#failed) this.changePart(first, count, gpaPfn + (first - iovaPfn), access, state);
  }

  /** These frames are mapped now; none of them was. `slotPages` is the size of the table entries they come from. */
  add(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access, slotPages: number): void {
    const first = Math.max(iovaPfn, this.#firstPfn);
    const count = Math.min(iovaPfn + pageCount, this.#endPfn) - first;
    if (count <= 0 || this.#failed) return;
    // What was not mapped cannot have been refused either. Taken for refused, it would never be unmapped.
    if (this.refusals.firstIn(first, first + count) < first + count)
      this.misreported({ firstPfn: first, pageCount: count });
    else this.addPart(first, count, gpaPfn + (first - iovaPfn), access, slotPages);
  }

  /** Calls of the consumer since they were last taken. */
  takeCalls(): number {
    const calls = this.#calls;
    this.#calls = 0;
    return calls;
  }

  /** How many of these frames, from the first one on, can be removed or changed with about `most` calls. */
  framesFor(iovaPfn: number, pageCount: number, most: number): number {
    const first = Math.max(iovaPfn, this.#firstPfn);
    const count = Math.min(iovaPfn + pageCount, this.#endPfn) - first;
    if (count <= 0 || this.#failed) return pageCount;
    const frames = this.framesOfPart(first, count, most);
    return frames === count ? pageCount : first - iovaPfn + frames;
  }

  /**
   * Ends the events of one invalidation; done when the consumer has completed all of them. `false`: the slice is spent before everything has been offered again that
   * entries may have become free for: to be called again in the next one. `tree` is what the consumer should hold.
   */
  finish(group: CompletionGroup, tree: IovaTree | undefined, slice: Slice): boolean {
    if (this.#retryWanted && tree !== undefined && !this.#offerUnheld(tree, slice)) return false;
    this.#retryWanted = false;
    const begun = this.#begun;
    this.#begun = false;
    if (begun && !this.#failed) this.#commit();
    group.add(this.#pending.take());
    group.add(this.#revoking);
    return true;
  }

  /** `finish` is to offer again what the consumer refused because it was full. */
  retry(): void {
    this.#retryWanted = true;
    this.#retryFrom = 0;
  }

  /** Fails this delivery, and no other. Done when the consumer has let go. */
  fail(error: IommuError): Completion {
    if (this.#failed) return this.#revoking;
    this.#failed = true;
    this.heldPages = 0;
    this.refusals.clear();
    this.#asked.clear();
    this.forget();
    const revoking = this.reports.cutOff(error);
    this.#revoking = revoking;
    if (revoking !== undefined) void revoking.then(() => (this.#revoking = undefined));
    return revoking;
  }

  /** See `framesFor`: of frames in the consumer's range. */
  protected abstract framesOfPart(iovaPfn: number, pageCount: number, most: number): number;
  protected abstract removePart(iovaPfn: number, pageCount: number, state: AnnouncedState): void;
  protected abstract changePart(
    iovaPfn: number,
    pageCount: number,
    gpaPfn: number,
    access: Access,
    state: AnnouncedState,
  ): void;
  /** Pages of the block that is offered next, of `left` that are still to come. */
  protected abstract pieceAt(pfn: number, left: number, slotPages: number): number;
  /** A block is about to be offered. */
  protected abstract hold(iovaPfn: number, pageCount: number): void;
  /** The consumer turned out not to hold these frames after all: whole blocks. */
  protected abstract unhold(iovaPfn: number, pageCount: number): void;
  protected abstract forget(): void;

  /**
   * Offers these frames, none of which is held, in blocks. Where one finds no room, the rest of the part has none either and is not offered: a superpage
   * costs a full consumer of small blocks one call, however many blocks it is.
   */
  protected addPart(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access, slotPages: number): void {
    const end = iovaPfn + pageCount;
    // What found no room before says nothing about this part: entries may have gone since.
    this.#noRoom = false;
    for (let at = iovaPfn; at < end && !this.#failed;) {
      const left = end - at;
      const pages = this.pieceAt(at, left, slotPages);
      const target = gpaPfn + (at - iovaPfn);
      if (this.#noRoom || this.heldPages + pages > this.#mostBlocks() * this.largestBlock) {
        this.#keepBack({ firstPfn: at, pageCount: left }, target, access, "full");
        return;
      }
      this.hold(at, pages);
      this.tellMap(at, pages, target, access);
      at += pages;
    }
  }

  protected tellUnmap(iovaPfn: number, pageCount: number): void {
    if (this.#failed) return;
    this.heldPages -= pageCount;
    this.#unmaps += 1;
    this.#calls += 1;
    if (!this.refusals.isEmpty) this.#retryWanted = true;
    this.#asked.drop(iovaPfn, pageCount);
    let answer: Completion;
    try {
      this.#begin();
      answer = this.notifier.unmap(iovaPfn, pageCount);
    } catch (cause) {
      void this.fail(threw(this.notifier, cause));
    }
    this.#await(answer);
  }

  /** Whether the consumer holds the frames now, as far as is known. */
  protected tellMap(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    if (this.#failed) return false;
    this.heldPages += pageCount;
    return this.#offer(false, iovaPfn, pageCount, gpaPfn, access);
  }

  /** As `tellMap`. A consumer that refuses the new target does not hold the old one either. */
  protected tellReplace(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    return !this.#failed && this.#offer(true, iovaPfn, pageCount, gpaPfn, access);
  }

  #offer(held: boolean, iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    const { notifier } = this;
    this.#calls += 1;
    if (held) this.#asked.drop(iovaPfn, pageCount);
    let answer: MapAnswer | Promise<MapAnswer>;
    try {
      this.#begin();
      if (held) answer = notifier.replace?.(iovaPfn, pageCount, gpaPfn, access);
      else answer = notifier.map(iovaPfn, pageCount, gpaPfn, access);
    } catch (cause) {
      void this.fail(threw(notifier, cause));
    }
    return this.#heed(answer, iovaPfn, pageCount, gpaPfn, access);
  }

  /** Takes the answer to an offer, now or later. */
  #heed(
    answer: MapAnswer | Promise<MapAnswer>,
    iovaPfn: number,
    pageCount: number,
    gpaPfn: number,
    access: Access,
  ): boolean {
    if (this.#failed) return false;
    if (answer === undefined) return true;
    const range = { firstPfn: iovaPfn, pageCount };
    if (!isPending(answer)) {
      if (!this.#isRefusal(answer)) return false;
      this.#refused(range, gpaPfn, access, answer);
      this.#noRoom = answer === "full";
      return false;
    }
    const ticket = this.#asked.add(range);
    const unmaps = this.#unmaps;
    this.#pending.add(
      this.reports.guard(Promise.resolve(answer), (late) => {
        const left = this.#asked.take(ticket, range);
        if (late === undefined || this.#failed || !this.#isRefusal(late)) return this.#revoking;
        for (const part of left) this.#refused(part, gpaPfn + (part.firstPfn - range.firstPfn), access, late);
        if (late === "full" && left.length > 0 && unmaps !== this.#unmaps) this.reports.retryLater();
        return this.#revoking;
      }),
    );
    return true;
  }

  /** An answer that means nothing may be a success or a refusal: what the consumer holds is not known, so it fails. */
  #isRefusal(answer: unknown): answer is "full" | "unsupported" {
    if (answer === "full" || answer === "unsupported") return true;
    void this.fail(meaninglessAnswer(this.notifier, answer));
    return false;
  }

  /** What the consumer holds is not known any more. */
  protected misreported(range: FrameRange): void {
    void this.fail(untrueReport(this.notifier, range));
  }

  /** The consumer does not hold what it was given: as it answers, or as it reports later. Of a part it may have said so before. */
  #refused(range: FrameRange, gpaPfn: number, access: Access, answer: "full" | "unsupported"): void {
    const end = endOf(range);
    for (let at = range.firstPfn; at < end && !this.#failed;) {
      const stop = this.refusals.firstIn(at, end);
      if (stop === at) {
        at = this.refusals.endOfRun(at, end);
        continue;
      }
      this.heldPages -= stop - at;
      this.unhold(at, stop - at);
      if (this.#failed) return;
      this.#keepBack({ firstPfn: at, pageCount: stop - at }, gpaPfn + (at - range.firstPfn), access, answer);
      at = stop;
    }
  }

  /** Offers what was refused, in blocks no larger than the mappings in `tree`. `false`: the slice is spent, there is more. */
  #offerUnheld(tree: IovaTree, slice: Slice): boolean {
    while (!this.#failed) {
      const part = this.refusals.next(this.#retryFrom, this.largestBlock);
      if (part === undefined) break;
      if (slice.mappingsLeft <= 0) return false;
      const { firstPfn, pageCount } = part;
      this.#retryFrom = firstPfn + pageCount;
      // What a consumer says of itself must not make it map more than the guest does.
      const slotPages = slotPagesOf(tree, part);
      if (slotPages === 0) {
        this.misreported(part);
        break;
      }
      this.refusals.drop(firstPfn, pageCount);
      this.#retrying = true;
      this.addPart(firstPfn, pageCount, part.gpaPfn, part.access, slotPages);
      this.#retrying = false;
      slice.mappingsLeft -= Math.max(1, this.takeCalls());
      // Still full: the rest would be refused as well.
      if (this.refusals.isFull(firstPfn)) break;
    }
    this.#retryFrom = 0;
    return true;
  }

  /** Remembers what the consumer does not hold although it should. */
  #keepBack(range: FrameRange, gpaPfn: number, access: Access, answer: "full" | "unsupported"): void {
    this.refusals.add(range, gpaPfn, access, answer);
    this.reports.refused(range.firstPfn, range.pageCount, gpaPfn, answer);
  }

  #commit(): void {
    let answer: Completion;
    try {
      answer = this.notifier.commit?.();
    } catch (cause) {
      void this.fail(threw(this.notifier, cause));
    }
    this.#await(answer);
  }

  #await(answer: Completion): void {
    if (isPending(answer)) this.#pending.add(this.reports.guard(Promise.resolve(answer), () => this.#revoking));
  }

  /** Before anything is told: the events of one invalidation are enclosed. */
  #begin(): void {
    if (this.#begun) return;
    this.#begun = true;
    if (!this.#introduced) {
      this.#introduced = true;
      this.notifier.reportTo?.(this.#reportsOfConsumer());
    }
    this.notifier.begin?.();
  }

  /** What the consumer may say of itself. Detached or failed it holds nothing: then it comes too late. */
  #reportsOfConsumer(): MapReports {
    return {
      refused: (iovaPfn, pageCount, gpaPfn, access, answer) => {
        if (this.heldPages === 0 || !this.#isRefusal(answer)) return;
        const range = { firstPfn: iovaPfn, pageCount };
        if (!isPartOf(range, this.range) || !isMapping(gpaPfn, pageCount, access)) {
          this.misreported(range);
          return;
        }
        this.#asked.drop(iovaPfn, pageCount);
        this.#refused(range, gpaPfn, access, answer);
      },
      window: (iovaPfn, pageCount) => {
        if (this.heldPages > 0) this.reports.window(iovaPfn, pageCount);
      },
      retry: () => {
        // Asked for by what is offered again, it has a turn of its own: nothing of the guest waits for that.
        if (this.#begun && !this.#retrying) this.retry();
        else if (!this.refusals.isEmpty) this.reports.retryLater();
      },
    };
  }
}

/**
 * Why a view of the oracle may differ from ours right after a register write: traits, each with both sides predicted from the tables in memory.
 */

import type { DeviationName } from "../deviations.js";
import { lowWord, pfnIn } from "../files/numbers.js";
import { PASS_THROUGH, type ReferenceWalk, type Root } from "../reference/walk.js";
import { type Difference, PageView } from "../view/page-view.js";
import type { TouchedRange } from "../view/view-notifier.js";
import type { Told, WatchedDevice } from "../view/watched-devices.js";

/** Pages that an invalidation names: from `first` on, not aligned. */
interface NamedPages {
  readonly first: number;
  readonly pages: number;
}

/** See the file's header. */
export class ViewExplanations {
  /** RTADDR as latched. */
  root: Root = { pfn: 0, scalable: false };
  readonly #walk: ReferenceWalk;
  /** IOTLB invalidations of the present write. */
  #invalidations: NamedPages[] = [];
  /** What the oracle failed to unmap, by source-id. */
  readonly #stale = new Map<number, PageView>();

  constructor(walk: ReferenceWalk) {
    this.#walk = walk;
  }

  /** The oracle fetched a descriptor. */
  descriptor(low: string, high: string): void {
    const word = lowWord(low);
    if ((word & 15) !== 2) return;
    const pageSelective = ((word >> 4) & 3) === 3;
    this.#invalidations.push(
      pageSelective ? { first: pfnIn(high), pages: 2 ** (lowWord(high) & 63) } : { first: 0, pages: 2 ** 52 },
    );
  }

  /** The views after a write have been compared. */
  endOfWrite(): void {
    this.#invalidations = [];
  }

  /** What explains a difference right after a write. */
  afterWrite(device: WatchedDevice, told: Told, difference: Difference): DeviationName | undefined {
    const { iovaPfn, pageCount, mine, other } = difference;
    const inTables = this.#inTables(device.sourceId, iovaPfn);
    const walkedOver = this.#invalidations.some(({ first, pages }) => overlaps(first, pages, difference));
    const named = this.#invalidations.some(({ first, pages }) => overlaps(first - (first % pages), pages, difference));
    // Theirs: what the tables say, because its walk begins at the unaligned base. Ours: as before, because no descriptor names it.
    const untouched = !isIn(told.ours, difference);
    if (inTables === other && walkedOver && !named && untouched) return "page-selective-base-not-aligned";
    // Ours: what the tables say. Theirs: as before, because it heard nothing.
    const untold = !isIn(told.theirs, difference);
    if (!this.root.scalable || inTables !== mine || !untold || other === 0) return undefined;
    this.#staleOf(device.sourceId).set(iovaPfn, pageCount, Math.floor(other / 4), other % 4);
    return "pasid-invalidations-not-announced";
  }

  /** What explains a difference in the end: ours is what the tables say, theirs what went stale before. */
  atEnd({ sourceId }: WatchedDevice, { iovaPfn, mine, other }: Difference): DeviationName | undefined {
    const predicted = mine === this.#inTables(sourceId, iovaPfn) && this.#staleOf(sourceId).at(iovaPfn) === other;
    return predicted && other !== 0 ? "pasid-invalidations-not-announced" : undefined;
  }

  /** What a page reaches by the tables as they are, in the form of views. */
  #inTables(sourceId: number, iovaPfn: number): number {
    const context = this.#walk.context(this.root, sourceId);
    if (!context.valid || context.levels === PASS_THROUGH) return 0;
    for (const access of [1, 2]) {
      const walked = this.#walk.walk(context, iovaPfn, access);
      if (typeof walked !== "number") return (walked.gpaPfn + iovaPfn - walked.firstPfn) * 4 + walked.access;
    }
    return 0;
  }

  #staleOf(sourceId: number): PageView {
    let stale = this.#stale.get(sourceId);
    if (stale === undefined) this.#stale.set(sourceId, (stale = new PageView()));
    return stale;
  }
}

function isIn(ranges: readonly TouchedRange[], difference: Difference): boolean {
  return ranges.some(({ firstPfn, pageCount }) => overlaps(firstPfn, pageCount, difference));
}

function overlaps(first: number, pages: number, { iovaPfn, pageCount }: Difference): boolean {
  return first < iovaPfn + pageCount && iovaPfn < first + pages;
}

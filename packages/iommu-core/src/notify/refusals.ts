/**
 * What a consumer would not take although it should hold it: where each frame should lead, and whether it is worth another offer.
 */

import type { Access } from "../access.js";
import { IovaTree } from "../diff/iova-tree.js";
import { Mapping, type RunVisitor } from "../diff/mapping.js";
import { FANOUT } from "../diff/slot.js";
import type { FrameRange } from "../range.js";

/** A part of what was refused, and where it goes. */
export interface RefusedPart extends FrameRange {
  readonly gpaPfn: number;
  readonly access: Access;
}

/** Of one consumer. Frames are here from the refusal until they are offered anew or the guest takes them away. */
export class Refusals {
  readonly #frames = new IovaTree();
  /** Those of them that found no room: what is offered again. The others the consumer cannot hold at all. */
  readonly #full = new IovaTree();
  readonly #slot = new Mapping();

  get isEmpty(): boolean {
    return this.#frames.slotCount === 0;
  }

  get pageCount(): number {
    return this.#frames.pageCount;
  }

  /** A copy, ascending. */
  get ranges(): FrameRange[] {
    const ranges: FrameRange[] = [];
    this.#frames.runs((firstPfn, pageCount) => void ranges.push({ firstPfn, pageCount }));
    return ranges;
  }

  /** The refused runs of a range, ascending. */
  runs(visit: RunVisitor, range: FrameRange): void {
    if (!this.isEmpty) this.#frames.runs(visit, range);
  }

  /** The first frame from `pfn` on that was refused; `end` if there is none below it. */
  firstIn(pfn: number, end: number): number {
    const slot = this.#slot;
    return !this.isEmpty && this.#frames.seek(pfn, slot) ? Math.min(end, Math.max(pfn, slot.firstPfn)) : end;
  }

  /** Where the refused run ends that begins at `pfn`, or `end` before that. */
  endOfRun(pfn: number, end: number): number {
    return endOfRun(this.#frames, pfn, end);
  }

  /** Whether this frame was refused for want of room. */
  isFull(pfn: number): boolean {
    return this.#full.find(pfn, this.#slot);
  }

  add(range: FrameRange, gpaPfn: number, access: Access, answer: "full" | "unsupported"): void {
    this.#frames.insert(range.firstPfn, range.pageCount, gpaPfn, access);
    if (answer === "full") this.#full.insert(range.firstPfn, range.pageCount, gpaPfn, access);
  }

  /** These frames are not wanted any more, or are offered anew. */
  drop(firstPfn: number, pageCount: number): void {
    if (!this.isEmpty) this.#frames.remove(firstPfn, pageCount);
    if (this.#full.slotCount > 0) this.#full.remove(firstPfn, pageCount);
  }

  clear(): void {
    this.#frames.clear();
    this.#full.clear();
  }

  /** What was refused for want of room from `pfn` on, as far as one leaf table or as many blocks go: one step of a slice. */
  next(pfn: number, largestBlock: number): RefusedPart | undefined {
    const slot = this.#slot;
    if (!this.#full.seek(pfn, slot)) return undefined;
    const { gpaPfn, access } = slot;
    const firstPfn = Math.max(pfn, slot.firstPfn);
    const single = slot.pageCount === 1;
    const step = single ? FANOUT : FANOUT * largestBlock;
    let end = Math.min(firstPfn - (firstPfn % step) + step, single ? Infinity : slot.firstPfn + slot.pageCount);
    if (single) end = endOfRun(this.#full, firstPfn, end);
    return { firstPfn, pageCount: end - firstPfn, gpaPfn, access };
  }
}

/** Where the run of `tree` ends that begins at `pfn`, or `end` before that. */
function endOfRun(tree: IovaTree, pfn: number, end: number): number {
  let stop = pfn;
  tree.runs(
    (_first, pageCount) => {
      stop += pageCount;
      return false;
    },
    { firstPfn: pfn, pageCount: end - pfn },
  );
  return stop;
}

/** Pages of the mapping in `tree` that a part comes from; 0 if it does not map it in this way. */
export function slotPagesOf(tree: IovaTree, part: RefusedPart): number {
  const slot = new Mapping();
  let pages = 0;
  tree.runs((_first, pageCount, gpaPfn, access) => {
    if (
      pageCount === part.pageCount &&
      gpaPfn === part.gpaPfn &&
      access === part.access &&
      tree.find(part.firstPfn, slot)
    )
      pages = slot.pageCount;
    return false;
  }, part);
  return pages;
}

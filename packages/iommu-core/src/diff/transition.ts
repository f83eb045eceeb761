/**
 * One ascending pass that brings announced state to what it should be, and tells only the differences.
 *
 * `before` is what has been announced; the other side arrives through `MappingSink`, from a backend's scan or from another tree. Within one leaf table (512 frames) the
 * order is removals, changes, additions. The pass can stop between any two calls, when its slice is spent, and goes on from `cursor` later.
 */

import { type Access, accessOf } from "../access.js";
import type { Domain, MappingSink } from "../backend.js";
import { IovaTree } from "./iova-tree.js";
import type { AnnouncedState, MapDelivery } from "../notify/map-delivery.js";
import type { Slice } from "../notify/job-queue.js";
import { DirectoryProof } from "./directory-proof.js";
import { EntriesRead } from "./entries-read.js";
import { Difference, LeafDiff } from "./leaf-diff.js";
import { DECODED, LeafTable } from "./leaf-table.js";
import { Mapping } from "./mapping.js";
import { contains, endOf, type FrameRange } from "../range.js";
import { RunGatherer } from "../notify/run-gatherer.js";
import { FANOUT, fillSlots, slotSpan, slotTarget } from "./slot.js";

/** Told what the pass does, for observation. */
export interface TransitionObserver {
  /** `gpaPfn` is -1 and `access` 0 for a removal; `wasMapped` tells a change from an addition. */
  announced(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access, wasMapped: boolean): void;
  /** Optional: removals come here instead, in runs of consecutive targets, with what they were mapped to. */
  removed?(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void;
}

/** The other side of a pass: see `Domain.scan`. */
export type Scanned = Pick<Domain, "scan">;

/** What a pass works on. */
export interface TransitionPlan {
  readonly range: FrameRange;
  /** What has been announced. */
  readonly before: IovaTree;
  /** `undefined`: `before` is updated as the pass goes. Else `before` stays as it is, and this tree says what the deliveries are being brought to. */
  readonly after: IovaTree | undefined;
  readonly deliveries: readonly MapDelivery[];
  readonly holes: readonly FrameRange[];
  readonly observer: TransitionObserver | undefined;
  /** What `before` is brought to. */
  readonly source: Scanned;
  /** Whether what has been announced, after reading so many table entries, is more than the view may have. The pass stops there as if its slice were spent. */
  readonly isTooMuch: ((entriesRead: number) => boolean) | undefined;
}

/** Levels at which a slot may stand, largest first. */
const SUPERPAGE_LEVELS = [4, 3, 2];

const NOTHING = new LeafTable();
NOTHING.words = new Int32Array(FANOUT * 2);

const NO_PLAN: TransitionPlan = {
  range: { firstPfn: 0, pageCount: 0 },
  before: new IovaTree(),
  after: undefined,
  deliveries: [],
  holes: [],
  observer: undefined,
  source: { scan: () => undefined },
  isTooMuch: undefined,
};

/** A pass, from `start` to the `step` that answers `true`. One object carries out one pass after the other: nothing is allocated for an invalidation. */
export class Transition implements MappingSink, AnnouncedState {
  readonly #diff = new LeafDiff();
  readonly #gatherer = new RunGatherer();
  readonly #proof = new DirectoryProof();
  /** A superpage spelled out as single frames. */
  readonly #spelled = new LeafTable();
  readonly #slot = new Mapping();
  readonly #slice: Slice;
  #plan = NO_PLAN;
  #end = 0;
  /** The smallest block that any delivery takes: one call for each that a superpage is cut into. */
  #blockPages = 0;
  pass = 0;
  /** Every frame below it is done. */
  cursor = 0;
  readonly #read = new EntriesRead();
  /** Whether the scan has told everything. */
  #scanned = false;
  /** Whether the last scan was told to stop: there is more to come from the cursor on. */
  #stopped = false;
  #from = 0;

  constructor(slice: Slice) {
    this.#slice = slice;
    this.#spelled.words = new Int32Array(FANOUT * 2);
  }

  /** Begins a pass; `step` carries it out. */
  start(plan: TransitionPlan): void {
    this.#plan = plan;
    this.#gatherer.end();
    this.#proof.forget();
    this.pass += 1;
    this.cursor = plan.range.firstPfn;
    this.#end = endOf(plan.range);
    this.#read.reset();
    this.#scanned = false;
    let blockPages = Infinity;
    for (const delivery of plan.deliveries) blockPages = Math.min(blockPages, delivery.largestBlock);
    this.#blockPages = blockPages;
  }

  /** Goes on until the pass is done or its slice is spent. Whatever is left of the slice, a step gets further. `true`: the pass is done. */
  step(): boolean {
    this.#from = this.cursor;
    if (!this.#scanned) {
      this.#stopped = false;
      this.#read.enter();
      this.#plan.source.scan({ firstPfn: this.cursor, pageCount: this.#end - this.cursor }, this);
      if (this.#stopped) return false;
      this.#scanned = true;
      this.#from = this.cursor;
    }
    // Nothing further is mapped: what is left of the range goes.
    this.#release();
    if (!this.#removeUpTo(this.#end)) return false;
    this.#proof.finish(this.#plan.before, this.cursor);
    this.#plan = NO_PLAN;
    return true;
  }

  /** Table entries read so far by the scan, those of a table that it had to enter again counted once. */
  get entriesRead(): number {
    return this.#read.total;
  }

  get told(): IovaTree {
    return this.#plan.after ?? this.#plan.before;
  }

  get untold(): IovaTree {
    return this.#plan.before;
  }

  run(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    if (access === 0) return true;
    const end = Math.min(iovaPfn + pageCount, this.#end);
    for (let at = Math.max(iovaPfn, this.cursor); at < end;) {
      const stop = this.#holeFree(at, end);
      if (stop === at) {
        at = this.#behindHole(at);
        continue;
      }
      if (!this.#leaveTable(at)) return this.#stop();
      at = this.#runPart(at, stop, gpaPfn + (at - iovaPfn), access);
    }
    return true;
  }

  reach(iovaPfn: number, entriesRead: number, again = false): boolean {
    // A table that has been begun is finished first: a slice makes progress by whole tables.
    if (!this.#gatherer.isAt(iovaPfn)) {
      this.#release();
      if (!this.#removeUpTo(Math.min(iovaPfn, this.#end)) || this.#spent) return this.#stop();
    }
    this.#proof.enter(this.#plan.before, this.cursor);
    if (!again) this.#read.add(this.cursor, entriesRead);
    this.#slice.entriesLeft -= entriesRead;
    return true;
  }

  table(iovaPfn: number, table: LeafTable): boolean {
    const first = Math.max(iovaPfn, this.cursor);
    const end = Math.min(iovaPfn + FANOUT, this.#end);
    if (first >= end) return true;
    this.#release();
    if (!this.#removeUpTo(first)) return this.#stop();
    this.#leaf(first, end, table, 1);
    this.#proof.told(this.#plan.before, iovaPfn, table);
    return !this.#spent || this.#stop();
  }

  isProved(iovaPfn: number, directory: LeafTable, generationOf: (pfn: number) => number): boolean {
    const { before, after, holes } = this.#plan;
    const end = iovaPfn + FANOUT * FANOUT;
    if (after !== undefined || directory.generation === -1 || this.cursor !== iovaPfn || end > this.#end) return false;
    for (const hole of holes) if (hole.firstPfn < end && endOf(hole) > iovaPfn) return false;
    if (before.leavesAt(iovaPfn)?.isProvedWhole(directory, generationOf) !== true) {
      this.#proof.watch(iovaPfn, directory);
      return false;
    }
    this.cursor = end;
    return true;
  }

  /** Whether the slice is used up, and something came of it. */
  get #spent(): boolean {
    if (this.cursor <= this.#from) return false;
    if (this.#slice.entriesLeft <= 0 || this.#slice.mappingsLeft <= 0) return true;
    return this.#plan.isTooMuch?.(this.entriesRead) === true;
  }

  #stop(): false {
    this.#proof.forget();
    this.#stopped = true;
    return false;
  }

  /** Before something at `iovaPfn`: finishes the tables in front of its own. `false`: the slice is spent. */
  #leaveTable(iovaPfn: number): boolean {
    if (this.#gatherer.isAt(iovaPfn)) return true;
    this.#release();
    return this.#removeUpTo(Math.max(this.cursor, iovaPfn - (iovaPfn % FANOUT))) && !this.#spent;
  }

  /** Compares the table that was gathered. */
  #release(): void {
    const base = this.#gatherer.end();
    if (base < 0 || this.cursor >= base + FANOUT) return;
    const { table, starts } = this.#gatherer;
    this.#leaf(Math.max(base, this.cursor), Math.min(base + FANOUT, this.#end), table, FANOUT, starts);
  }

  /** Where the hole-free part that starts at `at` ends: `at` itself when it lies in a hole. */
  #holeFree(at: number, end: number): number {
    let stop = end;
    for (const hole of this.#plan.holes) {
      if (contains(hole, at)) return at;
      if (hole.firstPfn > at && hole.firstPfn < stop) stop = hole.firstPfn;
    }
    return stop;
  }

  #behindHole(at: number): number {
    for (const hole of this.#plan.holes) if (contains(hole, at)) return endOf(hole);
    return at;
  }

  /** Handles one slot, or part of a leaf, of a run; answers where it ended. */
  #runPart(at: number, end: number, gpaPfn: number, access: Access): number {
    for (const level of SUPERPAGE_LEVELS) {
      const span = slotSpan(level);
      if (at % span === 0 && at + span <= end && this.#superpage(at, level, gpaPfn, access)) return at + span;
    }
    const base = at - (at % FANOUT);
    const stop = Math.min(end, base + FANOUT);
    this.#gatherer.add(at, stop - at, gpaPfn, access);
    if (stop - at < FANOUT) return stop;
    this.#release();
    // 512 frames that are one superpage again go back into one slot.
    if (this.#plan.after === undefined) this.#plan.before.setSlot(at, 2, gpaPfn, access);
    return stop;
  }

  /** Handles a superpage whose frames are all free, all the same already, or all one other superpage. `false`: look at it in smaller parts. */
  #superpage(at: number, level: number, gpaPfn: number, access: Access): boolean {
    const { before, after, deliveries } = this.#plan;
    const span = slotSpan(level);
    const slot = this.#slot;
    const found = before.seek(at, slot) && slot.firstPfn < at + span;
    if (found && slot.pageCount < span) return false;
    const same = found && slot.gpaPfn === gpaPfn && slot.access === access;
    if (!same && (this.#isManyBlocks(span) || (found && this.#framesFor(at, span) < span))) return false;
    if (after === undefined && !(same && slot.pageCount > span)) before.setSlot(at, level, gpaPfn, access);
    this.cursor = at + span;
    if (same) return true;
    this.#plan.observer?.announced(at, span, gpaPfn, access, found);
    for (const delivery of deliveries) {
      if (found) delivery.change(at, span, gpaPfn, access, this);
      else delivery.add(at, span, gpaPfn, access, span);
    }
    this.#charge(1);
    return true;
  }

  /** Whether a superpage is more calls of a delivery than a leaf table: then it is told in parts, and slices end between them. */
  #isManyBlocks(pageCount: number): boolean {
    return pageCount > FANOUT * this.#blockPages;
  }

  /** How many frames of a superpage can be removed or changed at once: a consumer may hold it in many blocks, of other tables or of another domain. */
  #framesFor(first: number, pageCount: number): number {
    let frames = pageCount;
    if (pageCount <= FANOUT) return frames;
    for (const delivery of this.#plan.deliveries) frames = delivery.framesFor(first, frames, FANOUT);
    const beyond = (first + frames) % FANOUT;
    return frames < pageCount && frames > beyond ? frames - beyond : frames;
  }

  /** Counts what was told: mappings, or the calls that it took with the consumer that needed most. */
  #charge(mappings: number): void {
    let most = mappings;
    for (const delivery of this.#plan.deliveries) most = Math.max(most, delivery.takeCalls());
    this.#slice.mappingsLeft -= most;
  }

  /** Removes what is announced between the cursor and `pfn`. `false`: the slice is spent, the cursor says how far it came. */
  #removeUpTo(pfn: number): boolean {
    const { before, after } = this.#plan;
    const slot = this.#slot;
    while (this.cursor < pfn) {
      if (!before.seek(this.cursor, slot) || slot.firstPfn >= pfn) {
        this.cursor = pfn;
        return true;
      }
      if (this.#spent) return false;
      const first = Math.max(slot.firstPfn, this.cursor);
      if (slot.pageCount === 1) {
        this.#leaf(first, Math.min(pfn, first - (first % FANOUT) + FANOUT), NOTHING, 1);
        continue;
      }
      const most = this.#isManyBlocks(slot.pageCount) ? FANOUT * this.#blockPages : slot.pageCount;
      const count = this.#framesFor(first, Math.min(pfn, slot.firstPfn + slot.pageCount, first + most) - first);
      // What was sought is the frame itself, also in the middle of a superpage.
      const { gpaPfn } = slot;
      if (after === undefined) before.remove(first, count);
      this.cursor = first + count;
      const { observer } = this.#plan;
      if (observer?.removed === undefined) observer?.announced(first, count, -1, 0, true);
      else observer.removed(first, count, gpaPfn, slot.access);
      for (const delivery of this.#plan.deliveries) delivery.remove(first, count, this);
      this.#charge(1);
    }
    return true;
  }

  /** Brings frames `first` to `end - 1`, all of one leaf table, to what `table` says. `slotPages` is the size of the table entries they come from. */
  #leaf(first: number, end: number, table: LeafTable, slotPages: number, starts?: Uint8Array): void {
    const { before, after } = this.#plan;
    const base = first - (first % FANOUT);
    const leaf = before.leafAt(base);
    const holed = this.#hasHole(base);
    const whole = end - first === FANOUT;
    this.cursor = end;
    if (whole && !holed && leaf?.isProved(table) === true && after === undefined) {
      // Nothing was read after all.
      this.#slice.entriesLeft += FANOUT - 1;
      return;
    }
    const superpage = leaf === undefined && before.find(base, this.#slot);
    if (superpage) fillSlots(this.#spelled.words, 0, FANOUT, this.#slot.gpaPfn, this.#slot.access);
    const announced = leaf ?? (superpage ? this.#spelled : NOTHING);
    // Words that have been seen in this format need no second look.
    const familiar = table.format === DECODED || leaf === undefined || leaf.format === table.format;
    const diff = this.#diff;
    diff.compare(announced, table, first - base, end - base, !familiar || holed || superpage);
    if (holed) for (const hole of this.#plan.holes) diff.blank(hole.firstPfn - base, endOf(hole) - base);
    const kinds = diff.classify();
    // Where a hole was cut out, the slots are not the table's contents: the hole may go.
    if (after === undefined && (kinds !== 0 || leaf !== undefined || superpage))
      before.writeSlots(base, diff, table.format, whole && !holed ? table : undefined);
    if (kinds === 0) return;
    let told = 0;
    if ((kinds & Difference.REMOVED) !== 0) told += this.#tell(Difference.REMOVED, base, 1, starts);
    if ((kinds & Difference.CHANGED) !== 0) told += this.#tell(Difference.CHANGED, base, 1, starts);
    if ((kinds & Difference.ADDED) !== 0) told += this.#tell(Difference.ADDED, base, slotPages, starts);
    this.#charge(told);
  }

  #hasHole(base: number): boolean {
    for (const hole of this.#plan.holes) if (hole.firstPfn < base + FANOUT && endOf(hole) > base) return true;
    return false;
  }

  /** Tells the runs of one kind of difference; answers how many frames they have. */
  #tell(kind: number, base: number, slotPages: number, starts: Uint8Array | undefined): number {
    let told = 0;
    const { index, next, kinds, count } = this.#diff;
    const { observer, deliveries } = this.#plan;
    for (let k = 0; k < count;) {
      if (kinds[k] !== kind) {
        k += 1;
        continue;
      }
      const length = this.#diff.runLength(k, starts);
      const at = base + (index[k] ?? 0);
      const low = next[k * 2] ?? 0;
      const access = accessOf(low);
      const gpaPfn = access === 0 ? -1 : slotTarget(low, next[k * 2 + 1] ?? 0);
      told += length;
      if (access === 0 && observer?.removed !== undefined) this.#reportRemoved(base, k, length);
      else observer?.announced(at, length, gpaPfn, access, kind !== Difference.ADDED);
      for (const delivery of deliveries) {
        if (access === 0) delivery.remove(at, length, this);
        else if (kind === Difference.CHANGED) delivery.change(at, length, gpaPfn, access, this);
        else delivery.add(at, length, gpaPfn, access, slotPages);
      }
      k += length;
    }
    return told;
  }

  /** Says what removed frames were mapped to, run by run. */
  #reportRemoved(base: number, first: number, count: number): void {
    const { index, old } = this.#diff;
    for (let k = first; k < first + count;) {
      const length = this.#diff.oldRunLength(k, first + count - k);
      const low = old[k * 2] ?? 0;
      const gpaPfn = slotTarget(low, old[k * 2 + 1] ?? 0);
      this.#plan.observer?.removed?.(base + (index[k] ?? 0), length, gpaPfn, accessOf(low));
      k += length;
    }
  }
}

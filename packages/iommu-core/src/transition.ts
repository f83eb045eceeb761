/**
 * One ascending pass that brings announced state to what it should be, and tells only the differences.
 *
 * `before` is what has been announced; the other side arrives through `MappingSink`, from a backend's scan or from another tree. Within one leaf table (512 frames) the
 * order is removals, changes, additions. The pass can stop between any two calls, when its slice is spent, and goes on from `cursor` later.
 */

import type { Access } from "./access.js";
import type { MappingSink } from "./backend.js";
import { type IovaTree, Mapping } from "./iova-tree.js";
import type { AnnouncedState, MapDelivery } from "./map-delivery.js";
import { contains, endOf, type FrameRange, intersect } from "./range.js";
import type { Slice } from "./job-queue.js";
import { FANOUT, fillSlots, slotSpan, slotTarget } from "./slot.js";

/** Told what the pass does, for observation. */
export interface TransitionObserver {
  /** `gpaPfn` is -1 and `access` 0 for a removal; `wasMapped` tells a change from an addition. */
  announced(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access, wasMapped: boolean): void;
  /** Optional: removals come here instead, in runs of consecutive targets, with what they were mapped to. */
  removed?(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void;
}

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
  /** Optional: whether what has been announced, after reading so many table entries, is more than the view may have. The pass stops there as if its slice were spent. */
  readonly isTooMuch?: (entriesRead: number) => boolean;
}

/** Levels at which a slot may stand, largest first. */
const SUPERPAGE_LEVELS = [4, 3, 2];

/** Two leaf tables of work space. Only used inside a call, so passes may share it: 8 KiB less for each invalidation. */
export class TransitionScratch {
  readonly old = new Int32Array(FANOUT * 2);
  readonly next = new Int32Array(FANOUT * 2);
}

/** See the file's header. */
export class Transition implements MappingSink, AnnouncedState {
  readonly #plan: TransitionPlan;
  readonly #end: number;
  readonly #old: Int32Array;
  readonly #new: Int32Array;
  /** Runs shorter than a leaf table wait here until their table is complete: removals come first. */
  readonly #gathered = new Int32Array(FANOUT * 2);
  /** 1 where a gathered run begins: blocks are no larger than what the backend reported at once. */
  readonly #starts = new Uint8Array(FANOUT);
  #gatheredAt = -1;
  readonly #slot = new Mapping();
  readonly #slice: Slice;
  /** The smallest block that any delivery takes: one call for each that a superpage is cut into. */
  readonly #blockPages: number;
  /** Every frame below it is done. */
  cursor: number;
  /** Table entries read so far by the scan, those of a table that it had to enter again counted once. */
  entriesRead = 0;
  /** Whether the last scan was told to stop: there is more to come from the cursor on. */
  stopped = false;
  #from = 0;

  constructor(plan: TransitionPlan, slice: Slice, scratch = new TransitionScratch()) {
    this.#old = scratch.old;
    this.#new = scratch.next;
    this.#plan = plan;
    this.#slice = slice;
    this.cursor = plan.range.firstPfn;
    this.#end = endOf(plan.range);
    let blockPages = Infinity;
    for (const delivery of plan.deliveries) blockPages = Math.min(blockPages, delivery.largestBlock);
    this.#blockPages = blockPages;
  }

  /** To be called before each scan. Whatever is left of the slice, a scan that begins gets one step further. */
  begin(): void {
    this.#from = this.cursor;
    this.stopped = false;
  }

  /** Nothing further is mapped: removes what is left of the range. `true`: the pass is done. */
  finish(): boolean {
    this.#from = this.cursor;
    this.#release();
    return this.#removeUpTo(this.#end);
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
    if (!this.#isGathering(iovaPfn)) {
      this.#release();
      if (!this.#removeUpTo(Math.min(iovaPfn, this.#end)) || this.#spent) return this.#stop();
    }
    if (!again) this.entriesRead += entriesRead;
    this.#slice.entriesLeft -= entriesRead;
    return true;
  }

  unchanged(iovaPfn: number, words: Int32Array, firstWord: number, masks: Int32Array): boolean {
    if (iovaPfn < this.cursor || iovaPfn + FANOUT > this.#end || this.#plan.after !== undefined) return false;
    const leaf = this.#plan.before.leafAt(iovaPfn);
    if (leaf === undefined) return false;
    const low = masks[0] ?? 0;
    const high = masks[1] ?? 0;
    let differing = 0;
    for (let i = 0; i < FANOUT * 2; i += 2) {
      differing |= ((words[firstWord + i] ?? 0) ^ (leaf[i] ?? 0)) & low;
      differing |= ((words[firstWord + i + 1] ?? 0) ^ (leaf[i + 1] ?? 0)) & high;
    }
    if (differing !== 0 || !this.#removeUpTo(iovaPfn)) return false;
    this.cursor = iovaPfn + FANOUT;
    return true;
  }

  table(iovaPfn: number, entries: Int32Array): boolean {
    const first = Math.max(iovaPfn, this.cursor);
    const end = Math.min(iovaPfn + FANOUT, this.#end);
    if (first >= end) return true;
    this.#release();
    if (!this.#removeUpTo(first)) return this.#stop();
    this.#new.set(entries);
    for (const hole of this.#plan.holes) {
      const part = intersect(hole, { firstPfn: iovaPfn, pageCount: FANOUT });
      if (part.pageCount > 0) this.#new.fill(0, (part.firstPfn - iovaPfn) * 2, (endOf(part) - iovaPfn) * 2);
    }
    this.#chunk(iovaPfn, first, end);
    return !this.#spent || this.#stop();
  }

  /** Whether the slice is used up, and something came of it. */
  get #spent(): boolean {
    if (this.cursor <= this.#from) return false;
    if (this.#slice.entriesLeft <= 0 || this.#slice.mappingsLeft <= 0) return true;
    return this.#plan.isTooMuch?.(this.entriesRead) === true;
  }

  #stop(): false {
    this.stopped = true;
    return false;
  }

  #isGathering(iovaPfn: number): boolean {
    return this.#gatheredAt >= 0 && iovaPfn >= this.#gatheredAt && iovaPfn < this.#gatheredAt + FANOUT;
  }

  /** Before something at `iovaPfn`: finishes the tables in front of its own. `false`: the slice is spent. */
  #leaveTable(iovaPfn: number): boolean {
    if (this.#isGathering(iovaPfn)) return true;
    this.#release();
    return this.#removeUpTo(Math.max(this.cursor, iovaPfn - (iovaPfn % FANOUT))) && !this.#spent;
  }

  /** Compares the table that was gathered. */
  #release(): void {
    const base = this.#gatheredAt;
    this.#gatheredAt = -1;
    if (base < 0 || this.cursor >= base + FANOUT) return;
    this.#new.set(this.#gathered);
    this.#chunk(base, Math.max(base, this.cursor), Math.min(base + FANOUT, this.#end), FANOUT);
    this.#starts.fill(0);
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
    if (stop - at < FANOUT) {
      if (this.#gatheredAt < 0) this.#gathered.fill(0);
      this.#starts[at - base] = 1;
      this.#gatheredAt = base;
      fillSlots(this.#gathered, at - base, stop - at, gpaPfn, access);
      return stop;
    }
    fillSlots(this.#new, 0, FANOUT, gpaPfn, access);
    this.#chunk(base, at, stop, FANOUT);
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
    if (!same && this.#isManyBlocks(span)) return false;
    if (after === undefined && !(same && slot.pageCount > span)) before.setSlot(at, level, gpaPfn, access);
    this.cursor = at + span;
    if (same) return true;
    this.#charge(span);
    this.#plan.observer?.announced(at, span, gpaPfn, access, found);
    for (const delivery of deliveries) {
      if (found) delivery.change(at, span, gpaPfn, access, this);
      else delivery.add(at, span, gpaPfn, access, span);
    }
    return true;
  }

  /** Whether a superpage is more calls of a delivery than a leaf table: then it is told in parts, and slices end between them. */
  #isManyBlocks(pageCount: number): boolean {
    return pageCount > FANOUT * this.#blockPages;
  }

  /** Counts a superpage, or part of one, by the blocks it is told in. */
  #charge(pageCount: number): void {
    this.#slice.mappingsLeft -= Math.max(1, Math.ceil(pageCount / this.#blockPages));
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
        const base = first - (first % FANOUT);
        this.#new.fill(0);
        this.#chunk(base, first, Math.min(pfn, base + FANOUT));
        continue;
      }
      const most = this.#isManyBlocks(slot.pageCount) ? FANOUT * this.#blockPages : slot.pageCount;
      const count = Math.min(pfn, slot.firstPfn + slot.pageCount, first + most) - first;
      const gpaPfn = slot.gpaPfn + (first - slot.firstPfn);
      if (after === undefined) before.remove(first, count);
      this.cursor = first + count;
      this.#charge(count);
      const { observer } = this.#plan;
      if (observer?.removed === undefined) observer?.announced(first, count, -1, 0, true);
      else observer.removed(first, count, gpaPfn, slot.access);
      for (const delivery of this.#plan.deliveries) delivery.remove(first, count, this);
    }
    return true;
  }

  /** Brings frames `first` to `end - 1` of the leaf table at `base` to what `#new` says. */
  #chunk(base: number, first: number, end: number, slotPages = 1): void {
    const { before, after } = this.#plan;
    const old = this.#old;
    const next = this.#new;
    const had = before.readChunk(base, old);
    if (first > base) next.set(old.subarray(0, (first - base) * 2));
    if (end < base + FANOUT) next.set(old.subarray((end - base) * 2), (end - base) * 2);
    this.cursor = end;
    let kinds = 0;
    for (let i = (first - base) * 2; i < (end - base) * 2; i += 2) kinds |= difference(old, next, i);
    // A superpage that the guest now spells out in 512 equal entries becomes a leaf without an event.
    if (after === undefined && (kinds !== 0 || (had && before.leafAt(base) === undefined)))
      before.writeChunk(base, next);
    if (kinds === 0) return;
    if ((kinds & REMOVED) !== 0) this.#tell(REMOVED, base, first, end, 1);
    if ((kinds & CHANGED) !== 0) this.#tell(CHANGED, base, first, end, 1);
    if ((kinds & ADDED) !== 0) this.#tell(ADDED, base, first, end, slotPages);
  }

  /** Tells the runs of one kind of difference between `#old` and `#new`. */
  #tell(kind: number, base: number, first: number, end: number, slotPages: number): void {
    const next = this.#new;
    for (let at = first; at < end;) {
      const i = (at - base) * 2;
      if (difference(this.#old, next, i) !== kind) {
        at += 1;
        continue;
      }
      const access = ((next[i] ?? 0) & 3) as Access;
      const gpaPfn = kind === REMOVED ? -1 : slotTarget(next[i] ?? 0, next[i + 1] ?? 0);
      let count = 1;
      while (
        at + count < end &&
        difference(this.#old, next, i + count * 2) === kind &&
        this.#continues(i + count * 2, gpaPfn, count, access)
      )
        count += 1;
      this.#slice.mappingsLeft -= count;
      if (kind === REMOVED && this.#plan.observer?.removed !== undefined) this.#reportRemoved(base, at, count);
      else this.#plan.observer?.announced(at, count, gpaPfn, access, kind !== ADDED);
      for (const delivery of this.#plan.deliveries) {
        if (kind === REMOVED) delivery.remove(at, count, this);
        else if (kind === CHANGED) delivery.change(at, count, gpaPfn, access, this);
        else delivery.add(at, count, gpaPfn, access, slotPages);
      }
      at += count;
    }
  }

  /** Says what removed frames were mapped to, run by run. */
  #reportRemoved(base: number, first: number, pageCount: number): void {
    const old = this.#old;
    const end = (first - base + pageCount) * 2;
    for (let i = (first - base) * 2; i < end;) {
      const access = ((old[i] ?? 0) & 3) as Access;
      const gpaPfn = slotTarget(old[i] ?? 0, old[i + 1] ?? 0);
      let count = 1;
      for (let next = i + 2; next < end; next += 2, count++) {
        const low = old[next] ?? 0;
        if ((low & 3) !== access || slotTarget(low, old[next + 1] ?? 0) !== gpaPfn + count) break;
      }
      this.#plan.observer?.removed?.(base + i / 2, count, gpaPfn, access);
      i += count * 2;
    }
  }

  #continues(i: number, gpaPfn: number, offset: number, access: Access): boolean {
    const low = this.#new[i] ?? 0;
    if (this.#starts[i / 2] === 1) return false;
    return (low & 3) === access && (gpaPfn === -1 || slotTarget(low, this.#new[i + 1] ?? 0) === gpaPfn + offset);
  }
}

const REMOVED = 1;
const CHANGED = 2;
const ADDED = 4;

/** 0, or how the pairs of words at `i` differ. */
function difference(old: Int32Array, next: Int32Array, i: number): number {
  const was = (old[i] ?? 0) & 3;
  const is = (next[i] ?? 0) & 3;
  if (was === 0) return is === 0 ? 0 : ADDED;
  if (is === 0) return REMOVED;
  return old[i] === next[i] && old[i + 1] === next[i + 1] ? 0 : CHANGED;
}

/** Drives a pass from a tree instead of a backend. */
export function scanTree(tree: IovaTree, range: FrameRange, sink: MappingSink): void {
  const slot = new Mapping();
  const scratch = new Int32Array(FANOUT * 2);
  const end = endOf(range);
  for (let at = range.firstPfn; at < end && tree.seek(at, slot) && slot.firstPfn < end;) {
    if (slot.pageCount === 1) {
      const base = slot.firstPfn - (slot.firstPfn % FANOUT);
      tree.readChunk(base, scratch);
      if (!sink.table(base, scratch)) return;
      at = base + FANOUT;
    } else {
      const first = Math.max(at, slot.firstPfn);
      const count = slot.firstPfn + slot.pageCount - first;
      if (!sink.run(first, count, slot.gpaPfn, slot.access)) return;
      at = first + count;
    }
  }
}

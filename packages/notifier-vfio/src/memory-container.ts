/**
 * A DMA container in memory that keeps the rules of a profile. It stands in for a kernel or a server in tests, and is
 * the far side of device models that live in the emulator's own process: they reach memory through `translate`.
 *
 * With `type1` and `type1v2` it answers as Linux 6.1 was measured to answer. Order of checks as there: shape of the
 * range, overlap, entry limit, usable ranges.
 */
import { Access, checkGiven, FRAME_LIMIT } from "@iommu-kit/iommu-core";
import {
  MAPPED,
  refused,
  type Answer,
  type ContainerRefusal,
  type DirtyResult,
  type DirtyLog,
  type DmaContainer,
  type MapResult,
  type UnmapResult,
} from "./container.js";
import { DirtyPages, setBits } from "./dirty-pages.js";
import type { ContainerProfile } from "./profiles/profile.js";
import { shadowBlock, ShadowPageTable, type ShadowBlock, type ShadowTarget } from "./shadow-page-table.js";
import { StepOverlay } from "./step-overlay.js";

/** An in-memory container. */
export class MemoryContainer implements DmaContainer {
  /** The rules that it keeps. */
  readonly profile: ContainerProfile;
  /** The log of what devices wrote through `translate`, by the rules of the profile. */
  readonly dirtyLog: DirtyLog;

  readonly #table = new ShadowPageTable();
  readonly #overlay = new StepOverlay();
  readonly #dirty = new DirtyPages();
  readonly #freedListeners = new Set<() => void>();
  readonly #block = shadowBlock();
  #atCommit: (() => void)[] = [];
  #stepOpen = false;
  #logging = false;

  /** @param profile The rules to keep; spread one of the profiles to change a figure. */
  constructor(profile: ContainerProfile) {
    checkGiven(profile, "MemoryContainer", "new MemoryContainer(type1v2)");
    this.profile = profile;
    this.dirtyLog = this.#makeDirtyLog();
  }

  /** By the profile. */
  get granularity(): "page" | "block" {
    return this.profile.granularity;
  }

  /** By the profile. */
  get entryLimit(): number {
    return this.profile.entryLimit;
  }

  /** Entries held now. */
  get entriesHeld(): number {
    return this.#table.blockCount;
  }

  /** Frames mapped: the sum of all entries. */
  get pagesHeld(): number {
    return this.#table.pageCount;
  }

  /** Entries as they were mapped, ascending; each a copy. While a step is open, with its changes. */
  entries(): IterableIterator<ShadowBlock> {
    return this.#table.blocks();
  }

  /** What devices can reach as the longest possible runs, ascending; each a copy. */
  ranges(): IterableIterator<ShadowBlock> {
    return this.#table.ranges();
  }

  /**
   * A device's access to one frame, as it is outside of any open step. Writes are logged while the log is active.
   * @param wanted What the device is about to do.
   * @returns False where the device reaches nothing or lacks a right; else `out` holds the target frame.
   */
  translate(iovaPfn: number, wanted: Access, out: ShadowTarget): boolean {
    if (!this.#lookup(iovaPfn, out) || (out.access & wanted) !== wanted) return false;
    if (this.#logging && (wanted & Access.write) !== 0) this.#dirty.add(Math.floor(iovaPfn));
    return true;
  }

  /** As in `DmaContainer`, at once. */
  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapResult {
    const { profile } = this;
    const bad = this.#badRange(iovaPfn, pageCount);
    if (bad !== undefined) return refused(bad);
    if (!aligned(gpaPfn, profile.alignmentBytes)) return refused("invalid");
    if (access === Access.none) return refused("invalid");

    const block = this.#block;
    if (this.#table.blockBefore(iovaPfn + pageCount, block) && block.iovaPfn + block.pageCount > iovaPfn) {
      const identical =
        block.iovaPfn === iovaPfn &&
        block.pageCount === pageCount &&
        block.gpaPfn === gpaPfn &&
        block.access === access;
      const answer = identical ? profile.overlap.identical : profile.overlap.other;
      return answer === "accept" ? MAPPED : refused(answer);
    }
    if (this.#table.blockCount >= profile.entryLimit) return refused("no-space");
    if (!this.#usable(iovaPfn, pageCount)) return refused("invalid");

    if (this.#stepOpen) this.#overlay.keep(this.#table, iovaPfn, pageCount);
    this.#table.insert(iovaPfn, pageCount, gpaPfn, access);
    return MAPPED;
  }

  /** As in `DmaContainer`, at once. */
  unmap(iovaPfn: number, pageCount: number): UnmapResult {
    const bad = this.#badRange(iovaPfn, pageCount);
    if (bad !== undefined) return refused(bad);
    const refusal = this.#unmapRefusal(iovaPfn, pageCount);
    if (refusal !== undefined) return refused(refusal);

    const removedPageCount =
      this.profile.cut === "split" ? this.#cutOut(iovaPfn, pageCount) : this.#removeWhole(iovaPfn, pageCount);
    if (removedPageCount === 0 && this.profile.hole === "no-entry") return refused("no-entry");
    return this.#freed(removedPageCount);
  }

  /** As in `DmaContainer`, at once. */
  unmapAll(): UnmapResult {
    const removedPageCount = this.#table.pageCount;
    if (this.#stepOpen) this.#overlay.keep(this.#table, 0, FRAME_LIMIT);
    this.#table.clear();
    return this.#freed(removedPageCount);
  }

  /** Opens a step: until `commit`, `translate` answers from the table as it is now. */
  begin(): void {
    this.#stepOpen = true;
  }

  /** Closes the step; `translate` sees all of it from here on. Without an open step it does nothing. */
  commit(): void {
    this.#stepOpen = false;
    this.#overlay.clear();
    const waiting = this.#atCommit;
    this.#atCommit = [];
    for (const finish of waiting) finish();
  }

  /** As in `DmaContainer`; called before the unmap answers. */
  onEntriesFreed(listener: () => void): () => void {
    this.#freedListeners.add(listener);
    return () => this.#freedListeners.delete(listener);
  }

  #lookup(iovaPfn: number, out: ShadowTarget): boolean {
    return this.#stepOpen ? this.#overlay.lookup(this.#table, iovaPfn, out) : this.#table.lookup(iovaPfn, out);
  }

  #badRange(firstPfn: number, pageCount: number): ContainerRefusal | undefined {
    const { alignmentBytes, wrap } = this.profile;
    if (!aligned(firstPfn, alignmentBytes) || !aligned(pageCount, alignmentBytes)) return "invalid";
    if (firstPfn < 0 || pageCount <= 0) return "invalid";
    return firstPfn + pageCount > FRAME_LIMIT ? wrap : undefined;
  }

  #usable(firstPfn: number, pageCount: number): boolean {
    return this.profile.usableRanges.some(
      (range) => firstPfn >= range.firstPfn && firstPfn + pageCount <= range.firstPfn + range.pageCount,
    );
  }

  #unmapRefusal(firstPfn: number, pageCount: number): ContainerRefusal | undefined {
    const { cut, unions } = this.profile;
    if (!unions) return this.#isEntry(firstPfn, pageCount) ? undefined : "no-entry";
    if (cut !== "invalid" && cut !== "no-entry") return undefined;
    return this.#cutsEntry(firstPfn, pageCount) ? cut : undefined;
  }

  #isEntry(firstPfn: number, pageCount: number): boolean {
    const block = this.#block;
    return this.#table.blockAt(firstPfn, block) && block.iovaPfn === firstPfn && block.pageCount === pageCount;
  }

  #cutsEntry(firstPfn: number, pageCount: number): boolean {
    const block = this.#block;
    const endPfn = firstPfn + pageCount;
    if (this.#table.blockAt(firstPfn, block) && block.iovaPfn < firstPfn) return true;
    return this.#table.blockBefore(endPfn, block) && block.iovaPfn + block.pageCount > endPfn;
  }

  #cutOut(firstPfn: number, pageCount: number): number {
    if (this.#stepOpen) this.#overlay.keep(this.#table, firstPfn, pageCount);
    return this.#table.remove(firstPfn, pageCount);
  }

  /** Removes the entries that begin in the range, ascending; one that reaches into it from below ends the pass. */
  #removeWhole(firstPfn: number, pageCount: number): number {
    const endPfn = firstPfn + pageCount;
    const block = this.#block;
    let removed = 0;
    while (this.#table.blockFrom(firstPfn, block) && block.iovaPfn < endPfn) {
      if (block.iovaPfn < firstPfn) return removed;
      if (this.#stepOpen) this.#overlay.keep(this.#table, block.iovaPfn, block.pageCount);
      this.#table.removeBlock(block.iovaPfn);
      removed += block.pageCount;
    }
    return removed;
  }

  #freed(removedPageCount: number): UnmapResult {
    if (removedPageCount > 0) for (const listener of this.#freedListeners) listener();
    return { ok: true, removedPageCount };
  }

  #makeDirtyLog(): DirtyLog {
    const isActive = (): boolean => this.#logging;
    const log: DirtyLog = {
      get active() {
        return isActive();
      },
      start: () => this.#startLog(),
      stop: () => this.#stopLog(),
      read: (iovaPfn, pageCount, bitmap) => this.#readLog(iovaPfn, pageCount, bitmap),
    };
    if (!this.profile.dirty.withUnmap) return log;
    log.unmapAndRead = (iovaPfn, pageCount, bitmap) => this.#unmapAndRead(iovaPfn, pageCount, bitmap);
    return log;
  }

  #startLog(): DirtyResult {
    const { log } = this.profile.dirty;
    if (log === "denied" || log === "unsupported") return refused(log);
    this.#logging = true;
    return MAPPED;
  }

  #stopLog(): DirtyResult {
    const { log } = this.profile.dirty;
    if (log === "denied" || log === "unsupported") return refused(log);
    this.#logging = false;
    this.#dirty.clear();
    return MAPPED;
  }

  #readLog(firstPfn: number, pageCount: number, bitmap: Uint8Array): DirtyResult {
    const refusal = this.#readRefusal(firstPfn, pageCount, bitmap);
    if (refusal !== undefined) return refused(refusal);
    this.#report(firstPfn, pageCount, bitmap);
    return MAPPED;
  }

  #unmapAndRead(firstPfn: number, pageCount: number, bitmap: Uint8Array): Answer<UnmapResult> {
    const refusal = this.#readRefusal(firstPfn, pageCount, bitmap);
    if (refusal !== undefined) return refused(refusal);
    if (this.profile.dirty.log === "all-mapped") this.#report(firstPfn, pageCount, bitmap);
    const answer = this.unmap(firstPfn, pageCount);
    if (!answer.ok || this.profile.dirty.log === "all-mapped") return answer;
    if (!this.#stepOpen) {
      this.#report(firstPfn, pageCount, bitmap);
      return answer;
    }
    // Devices go on writing through the old entries until the step closes: only then is the report complete.
    return new Promise((resolve) => {
      this.#atCommit.push(() => {
        this.#report(firstPfn, pageCount, bitmap);
        resolve(answer);
      });
    });
  }

  #readRefusal(firstPfn: number, pageCount: number, bitmap: Uint8Array): ContainerRefusal | undefined {
    const { dirty } = this.profile;
    if (dirty.log === "denied" || dirty.log === "unsupported") return dirty.log;
    if (!this.#logging) return "invalid";
    const bad = this.#badRange(firstPfn, pageCount);
    if (bad !== undefined) return bad;
    if (bitmap.length * 8 < pageCount) return "invalid";
    return dirty.range === "whole" && this.#cutsEntry(firstPfn, pageCount) ? "invalid" : undefined;
  }

  #report(firstPfn: number, pageCount: number, bitmap: Uint8Array): void {
    if (this.profile.dirty.log === "written") {
      this.#dirty.takeInto(firstPfn, pageCount, bitmap);
      return;
    }
    const endPfn = firstPfn + pageCount;
    for (const block of this.#table.blocks(firstPfn, pageCount)) {
      const fromPfn = Math.max(block.iovaPfn, firstPfn);
      setBits(bitmap, fromPfn - firstPfn, Math.min(block.iovaPfn + block.pageCount, endPfn) - fromPfn);
    }
  }
}

/** Is a figure in frames a multiple of so many bytes? Not finite is not aligned. */
function aligned(frames: number, alignmentBytes: number): boolean {
  return Number.isInteger((frames * 4096) / alignmentBytes);
}

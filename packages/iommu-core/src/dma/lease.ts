/**
 * Zero-copy access to guest memory, with an end (design D10).
 *
 * A lease is a list of pieces of guest memory that a device may touch without asking again. An invalidation that covers any page of it completes only when
 * the lease is released, or is revoked at its deadline: a completed unmap means that nothing touches the page through it.
 */

import type { Completion } from "../completion.js";
import { CompletionGroup } from "../completion.js";
import type { Scheduler } from "../ports.js";
import { Access } from "../access.js";
import { PAGE_BYTES } from "../address.js";
import type { FrameRange } from "../range.js";
import { intersect } from "../range.js";

/** A piece of guest memory: bytes. */
export interface Segment {
  /** First byte, guest-physical. */
  readonly gpa: number;
  /** 1 or more. */
  readonly byteLength: number;
}

/** Pieces in the order of the request. */
export interface Lease {
  /** The pieces of memory, in the order of the buffer; neighbours are joined. */
  readonly segments: readonly Segment[];
  /** Input frames it covers. */
  readonly range: FrameRange;
  /** `false` once released or revoked: the pieces must not be touched any more. */
  readonly valid: boolean;
  /** Called when an invalidation asks for the pages back: stop, then release. Set it at once after taking the lease. */
  onRecall: (() => void) | undefined;
  /** Gives the pages back. Releasing twice is harmless. */
  release(): void;
}

/** Told that pages may have been written: `pageCount` input frames and as many target frames. */
export type WriteObserver = (iovaPfn: number, gpaPfn: number, pageCount: number) => void;

class HeldLease implements Lease {
  readonly segments: readonly Segment[];
  readonly range: FrameRange;
  valid = true;
  onRecall: (() => void) | undefined;
  readonly #table: Set<HeldLease>;
  readonly #written: WriteObserver | undefined;
  #released: (() => void)[] = [];
  #recalled = false;

  /** @param written For a lease that may be written: told of its pages whenever they count as written. */
  constructor(
    segments: readonly Segment[],
    range: FrameRange,
    table: Set<HeldLease>,
    written: WriteObserver | undefined,
  ) {
    this.segments = segments;
    this.range = range;
    this.#table = table;
    this.#written = written;
    table.add(this);
  }

  /** Its holder may have written every page of it. */
  markWritten(): void {
    if (this.#written === undefined) return;
    let pfn = this.range.firstPfn;
    for (const { gpa, byteLength } of this.segments) {
      const gpaPfn = Math.floor(gpa / PAGE_BYTES);
      const pageCount = Math.ceil((gpa + byteLength) / PAGE_BYTES) - gpaPfn;
      this.#written(pfn, gpaPfn, pageCount);
      pfn += pageCount;
    }
  }

  release(): void {
    if (!this.valid) return;
    this.markWritten();
    this.valid = false;
    this.#table.delete(this);
    for (const released of this.#released) released();
    this.#released = [];
  }

  /** Asks for the pages; done when they are back. */
  recall(scheduler: Scheduler, deadline: number): Completion {
    if (!this.#recalled) {
      this.#recalled = true;
      try {
        this.onRecall?.();
      } catch (error) {
        // The holder is broken: take the pages at once, and let the host see why.
        this.release();
        scheduler.defer(() => {
          throw error;
        });
      }
      if (!this.valid) return undefined;
      const cancel = scheduler.after(deadline, () => this.release());
      this.#released.push(cancel);
    }
    return this.valid ? new Promise((resolve) => this.#released.push(resolve)) : undefined;
  }
}

/** The leases of one address space. */
export class LeaseTable {
  readonly #leases = new Set<HeldLease>();
  readonly #scheduler: Scheduler;
  readonly #deadline: number;
  readonly #written: WriteObserver;

  /** @param written Told of the pages of a lease that may be written, at its end and when they are asked for. */
  constructor(scheduler: Scheduler, deadlineMilliseconds: number, written: WriteObserver) {
    this.#scheduler = scheduler;
    this.#deadline = deadlineMilliseconds;
    this.#written = written;
  }

  /** Leases out now. */
  get size(): number {
    return this.#leases.size;
  }

  grant(segments: readonly Segment[], range: FrameRange, access: Access): Lease {
    const written = (access & Access.write) === 0 ? undefined : this.#written;
    return new HeldLease(segments, range, this.#leases, written);
  }

  /** Reports the pages of every lease out now that may be written. */
  markWritten(): void {
    for (const lease of this.#leases) lease.markWritten();
  }

  /** Recalls every lease that touches the range. */
  recall(range: FrameRange): Completion {
    if (this.#leases.size === 0) return undefined;
    const group = new CompletionGroup();
    for (const lease of [...this.#leases]) {
      if (intersect(lease.range, range).pageCount > 0) group.add(lease.recall(this.#scheduler, this.#deadline));
    }
    return group.take();
  }
}

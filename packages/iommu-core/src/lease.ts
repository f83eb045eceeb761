/**
 * Zero-copy access to guest memory, with an end (design D10).
 *
 * A lease is a list of pieces of guest memory that a device may touch without asking again. An invalidation that covers any page of it completes only when
 * the lease is released, or is revoked at its deadline: a completed unmap means that nothing touches the page through it.
 */

import type { Completion } from "./completion.js";
import { CompletionGroup } from "./completion.js";
import type { Scheduler } from "./ports.js";
import type { FrameRange } from "./range.js";
import { intersect } from "./range.js";

/** A piece of guest memory: bytes. */
export interface Segment {
  readonly gpa: number;
  readonly byteLength: number;
}

/** Pieces in the order of the request. */
export interface Lease {
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

class HeldLease implements Lease {
  readonly segments: readonly Segment[];
  readonly range: FrameRange;
  valid = true;
  onRecall: (() => void) | undefined;
  readonly #table: Set<HeldLease>;
  #released: (() => void)[] = [];
  #recalled = false;

  constructor(segments: readonly Segment[], range: FrameRange, table: Set<HeldLease>) {
    this.segments = segments;
    this.range = range;
    this.#table = table;
    table.add(this);
  }

  release(): void {
    if (!this.valid) return;
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

  constructor(scheduler: Scheduler, deadlineMilliseconds: number) {
    this.#scheduler = scheduler;
    this.#deadline = deadlineMilliseconds;
  }

  /** Leases out now. */
  get size(): number {
    return this.#leases.size;
  }

  grant(segments: readonly Segment[], range: FrameRange): Lease {
    return new HeldLease(segments, range, this.#leases);
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

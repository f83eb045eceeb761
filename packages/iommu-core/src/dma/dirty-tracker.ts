/**
 * Which pages a device wrote, by IOVA and by guest frame: for live migration, displays and incremental snapshots.
 *
 * The frame is noted when the write happens, so pages that the guest unmaps or moves afterwards are reported all the same. A write lease counts for as long as it is held:
 * its pages are in every collection until the one after its end. Writes that a device makes with addresses it has translated itself (ATS) have no IOVA; they are
 * reported by frame only. While a tracker runs, `unmap` events carry the target that the pages had. Devices behind a MAP notifier write past this package: ask the notifier.
 */

import type { AddressSpace } from "../address-space.js";
import { IommuError } from "../errors.js";
import { type FrameVisitor, FrameSet } from "./frame-set.js";

/** Where a collection goes. Runs come in ascending order, each page once. */
export interface DirtySink {
  /** Pages by input frame. */
  iova?: FrameVisitor;
  /** Pages by guest frame. */
  gpa?: FrameVisitor;
}

/** Tracks one address space. Off until `start`. */
export class DirtyTracker {
  readonly #space: AddressSpace;
  readonly #iova = new FrameSet();
  readonly #gpa = new FrameSet();
  #running = false;

  constructor(space: AddressSpace) {
    this.#space = space;
  }

  /** Between `start` and `stop`. */
  get running(): boolean {
    return this.#running;
  }

  /**
   * Starts; what was written before is not reported. No effect while it runs.
   * @throws {IommuError} `already-attached` if another tracker of this address space runs.
   */
  start(): void {
    if (this.#running) return;
    if (this.#space.onWrite !== undefined) {
      throw new IommuError(
        "already-attached",
        `${this.#space.label}: expected no other dirty tracker, got a second one`,
        {
          hint: "share one tracker, or stop the other first",
        },
      );
    }
    this.#running = true;
    this.#space.onWrite = (iovaPfn, gpaPfn, pageCount) => {
      if (iovaPfn >= 0) this.#iova.add(iovaPfn, pageCount);
      this.#gpa.add(gpaPfn, pageCount);
    };
  }

  /** Stops, and forgets what was not collected. */
  stop(): void {
    if (!this.#running) return;
    this.#running = false;
    this.#space.onWrite = undefined;
    this.#iova.clear();
    this.#gpa.clear();
  }

  /** Tells every page that may have been written since the last collection, and begins the next one. */
  collect(sink: DirtySink): void {
    if (!this.#running) return;
    this.#space.leases.markWritten();
    this.#iova.takeRuns((firstPfn, pageCount) => sink.iova?.(firstPfn, pageCount));
    this.#gpa.takeRuns((firstPfn, pageCount) => sink.gpa?.(firstPfn, pageCount));
  }
}

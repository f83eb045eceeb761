/**
 * Device-TLB invalidations (§6.5.2.5, §6.5.2.6, §4.3): sent to the device's notifiers, complete when the device says so, time out when it does not.
 */

import {
  type AddressSpace,
  type Completion,
  CompletionGroup,
  type FrameRange,
  type Scheduler,
} from "@iommu-kit/iommu-core";

/** What the invalidations need. */
export interface DeviceTlbParts {
  readonly scheduler: Scheduler;
  readonly deadlineMilliseconds: number;
  readonly spaces: () => readonly AddressSpace[];
  readonly invalidate: (space: AddressSpace, range: FrameRange) => Completion;
  /** A device did not answer in time, or failed. */
  readonly timedOut: (sourceId: number) => void;
}

/** See the file's header. */
export class DeviceTlbInvalidation {
  readonly #parts: DeviceTlbParts;
  /** Completions that are being watched: of more requests than a device has tags for, several share one. */
  readonly #watched = new WeakMap<Promise<void>, Promise<void>>();
  #epoch = 0;

  constructor(parts: DeviceTlbParts) {
    this.#parts = parts;
  }

  /** The unit was reset or restored: what has been sent no longer times out. */
  reset(): void {
    this.#epoch += 1;
  }

  /** Invalidates a range of one requester; `pasid` `"every"` means all its PASIDs. An unknown device has nothing cached. */
  invalidate(sourceId: number, pasid: number | undefined | "every", range: FrameRange): Completion {
    const group = new CompletionGroup();
    for (const space of this.#parts.spaces()) {
      const named = pasid === "every" ? space.pasid !== undefined : space.pasid === pasid;
      if (space.sourceId === sourceId && named)
        group.add(this.#bounded(sourceId, this.#parts.invalidate(space, range)));
    }
    return group.take();
  }

  #bounded(sourceId: number, completion: Completion): Completion {
    if (completion === undefined) return undefined;
    const { scheduler, deadlineMilliseconds, timedOut } = this.#parts;
    const epoch = this.#epoch;
    const watched = this.#watched.get(completion);
    if (watched !== undefined) return watched;
    const bounded = new Promise<void>((resolve) => {
      let open = true;
      const end = (failed: boolean): void => {
        if (!open) return;
        open = false;
        cancel();
        if (failed && epoch === this.#epoch) timedOut(sourceId);
        resolve();
      };
      const cancel = scheduler.after(deadlineMilliseconds, () => end(true));
      completion.then(
        () => end(false),
        () => end(true),
      );
    });
    this.#watched.set(completion, bounded);
    return bounded;
  }
}

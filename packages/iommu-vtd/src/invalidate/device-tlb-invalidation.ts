/**
 * Device-TLB invalidations (§6.5.2.5, §6.5.2.6, §4.3): sent to the device's notifiers, complete when the device says so, time out when it does not.
 */

import {
  type AddressSpace,
  Backlog,
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

/** Invalidation requests that a device may leave unanswered: as many as there are tags for them in ATS. */
const MOST_REQUESTS = 32;

/**
 * Sends each request once a tag is free, with the whole deadline from then on. A time-out gives the tag back: what was given up never stands for a later
 * request.
 */
export class DeviceTlbInvalidation {
  readonly #parts: DeviceTlbParts;
  #requests = new WeakMap<AddressSpace, Backlog<AddressSpace>>();
  #epoch = 0;

  constructor(parts: DeviceTlbParts) {
    this.#parts = parts;
  }

  /** The unit was reset or restored: what has been sent no longer times out, what waits for a tag is not sent. */
  reset(): void {
    this.#epoch += 1;
    this.#requests = new WeakMap();
  }

  /** Invalidates a range of one requester; `pasid` `"every"` means all its PASIDs. An unknown device has nothing cached. */
  invalidate(sourceId: number, pasid: number | undefined | "every", range: FrameRange): Completion {
    const group = new CompletionGroup();
    for (const space of this.#parts.spaces()) {
      const named = pasid === "every" ? space.pasid !== undefined : space.pasid === pasid;
      if (space.sourceId === sourceId && named) group.add(this.#requestsTo(space).add([space], range));
    }
    return group.take();
  }

  #requestsTo(space: AddressSpace): Backlog<AddressSpace> {
    const known = this.#requests.get(space);
    if (known !== undefined) return known;
    const epoch = this.#epoch;
    const requests = new Backlog<AddressSpace>(MOST_REQUESTS, (_spaces, range) =>
      epoch === this.#epoch ? this.#bounded(space, this.#parts.invalidate(space, range)) : undefined,
    );
    this.#requests.set(space, requests);
    return requests;
  }

  /** Done when the device has answered, or has not in time. */
  #bounded({ sourceId }: AddressSpace, completion: Completion): Completion {
    if (completion === undefined) return undefined;
    const { scheduler, deadlineMilliseconds, timedOut } = this.#parts;
    const epoch = this.#epoch;
    return new Promise<void>((resolve) => {
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
  }
}

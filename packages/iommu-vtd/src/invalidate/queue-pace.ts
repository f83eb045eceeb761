/**
 * The invalidation queue's share of a slice: each descriptor counts, and where the slice is spent the queue goes on from the event loop, with a new one (design D9).
 */

import type { BackendIommu, Scheduler } from "@iommu-kit/iommu-core";
import type { QueuePace } from "./invalidation-queue.js";

/** The pace of one queue. */
export function queuePace(iommu: BackendIommu, scheduler: Scheduler): QueuePace {
  let resumed: (() => void) | undefined;
  return {
    take: () => iommu.spend(),
    defer: (resume) => {
      // One that was abandoned when the queue was switched off leaves its turn to the next.
      const planned = resumed !== undefined;
      resumed = resume;
      if (planned) return;
      scheduler.defer(() => {
        const next = resumed;
        resumed = undefined;
        iommu.enter();
        next?.();
      });
    },
  };
}

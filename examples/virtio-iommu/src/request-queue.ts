/**
 * Takes requests from the queue in order, and gives each back when it is done: a request that waits for a notifier holds up those behind it, as slow hardware would.
 */

import { type BackendIommu, type Scheduler, whenDone } from "@iommu-kit/iommu-core";
import type { Requests } from "./requests.js";
import type { Virtqueue } from "./virtqueue.js";

/** What the queue works with. */
export interface RequestQueueOptions {
  readonly queue: Virtqueue;
  readonly requests: Requests;
  readonly iommu: BackendIommu;
  readonly scheduler: Scheduler;
  /** A buffer was used, and the driver wants to know. */
  readonly interrupt: () => void;
}

/** See the file's header. */
export class RequestQueue {
  readonly #options: RequestQueueOptions;
  #busy = false;
  /** Counts resets: what was pending before one comes to nothing. */
  #epoch = 0;

  constructor(options: RequestQueueOptions) {
    this.#options = options;
  }

  /** The driver has added requests. */
  notified(): void {
    if (!this.#busy) this.#run();
  }

  /** Abandons what is pending. */
  reset(): void {
    this.#busy = false;
    this.#epoch += 1;
  }

  #run(): void {
    const { queue, requests, iommu, scheduler, interrupt } = this.#options;
    const epoch = this.#epoch;
    const goOn = (): void => {
      if (epoch !== this.#epoch) return;
      this.#busy = false;
      iommu.enter();
      this.#run();
    };
    let used = false;
    while (!this.#busy) {
      if (!iommu.spend()) {
        this.#busy = true;
        scheduler.defer(goOn);
        break;
      }
      const chain = queue.take(() => void iommu.spend());
      if (chain === undefined) break;
      const { bytes, done } = requests.carryOut(chain);
      if (done === undefined) {
        used = queue.give(chain, bytes) || used;
        continue;
      }
      this.#busy = true;
      whenDone(done, () => {
        if (epoch !== this.#epoch) return;
        if (queue.give(chain, bytes)) interrupt();
        goOn();
      });
    }
    if (used) interrupt();
  }
}

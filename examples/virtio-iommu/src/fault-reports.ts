/**
 * Tells the driver of refused requests on the event queue (virtio 1.3, §5.13.6.7). Without a buffer the report is dropped, and counted.
 */

import { Access, type ByteAddress, byteAddress, offsetInPage } from "@iommu-kit/iommu-core";
import { FAULT, FaultFlag } from "./spec/iommu.js";
import type { Virtqueue } from "./virtqueue.js";

/** A refused request. */
export interface RefusedRequest {
  readonly endpoint: number;
  readonly iovaPfn: number;
  readonly access: Access;
  /** Where it began, if that is known; else the page is reported. */
  readonly address: ByteAddress | undefined;
  /** One of `FaultReason`. */
  readonly reason: number;
}

/** See the file's header. */
export class FaultReports {
  /** Reports for which there was no buffer, or only one that was too small. */
  dropped = 0;
  readonly #queue: Virtqueue;
  readonly #interrupt: () => void;

  constructor(queue: Virtqueue, interrupt: () => void) {
    this.#queue = queue;
    this.#interrupt = interrupt;
  }

  report({ endpoint, iovaPfn, access, address, reason }: RefusedRequest): void {
    const chain = this.#queue.take();
    if (chain === undefined) {
      this.dropped += 1;
      return;
    }
    const read = access === Access.none || (access & Access.read) !== 0 ? FaultFlag.READ : 0;
    const write = (access & Access.write) !== 0 ? FaultFlag.WRITE : 0;
    const words = FAULT.pack({
      REASON: reason,
      FLAGS: read | write | FaultFlag.ADDRESS,
      ENDPOINT: endpoint,
      OFFSET: offsetInPage(address ?? byteAddress(iovaPfn)),
      PFN: iovaPfn,
    });
    const report = new Uint8Array(words.buffer);
    const fits = chain.writableLength >= report.length;
    if (!fits) this.dropped += 1;
    if (this.#queue.give(chain, fits ? report : new Uint8Array(0))) this.#interrupt();
  }
}

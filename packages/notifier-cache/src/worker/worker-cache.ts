/**
 * The two notifiers for a device in a worker: as an UNMAP-only cache, and as the device TLB of ATS.
 */

import type { AddressSpace, Completion, DeviceTlbNotifier, UnmapNotifier } from "@iommu-kit/iommu-core";
import { HostCache, type WorkerCacheOptions } from "./host-cache.js";

/** The cache of a device in a worker, flushed by the unit. If the worker hangs, the hub cuts it off and the guest goes on. */
export class WorkerCacheNotifier extends HostCache implements UnmapNotifier {
  readonly kind = "unmap";
  readonly contract = 1;
  readonly name: string;

  /** @throws {IommuError} `bad-option` for a shape that is not powers of two in range. */
  constructor(space: AddressSpace, options: WorkerCacheOptions) {
    super(space, options);
    this.name = options.name ?? "worker cache";
  }

  /** Told by the unit. Done when the worker has dropped its entries and has no access in flight through them. */
  unmap(iovaPfn: number, pageCount: number): Completion {
    return this.flush(iovaPfn, pageCount);
  }

  protected get self(): this {
    return this;
  }
}

/** The device TLB of a device in a worker, invalidated by the guest. If the worker hangs, the guest gets the architected time-out. */
export class WorkerDeviceTlb extends HostCache implements DeviceTlbNotifier {
  readonly kind = "device-tlb";
  readonly contract = 1;
  readonly name: string;

  /** @throws {IommuError} `bad-option` for a shape that is not powers of two in range. */
  constructor(space: AddressSpace, options: WorkerCacheOptions) {
    super(space, options);
    this.name = options.name ?? "worker device TLB";
  }

  /** An invalidation request of the guest. Done when the worker has dropped its entries and has no access in flight through them. */
  invalidate(iovaPfn: number, pageCount: number): Completion {
    return this.flush(iovaPfn, pageCount);
  }

  protected get self(): this {
    return this;
  }
}

/**
 * The translation cache inside a device that uses ATS (PCIe address translation services): the guest's driver invalidates it by name.
 *
 * It hears of device-TLB invalidations only, so it may answer with what the guest has taken out of its tables but not yet invalidated here: as real devices do.
 */

import type { AddressSpace, Completion, DeviceTlbNotifier } from "@iommu-kit/iommu-core";
import { DeviceCache, type DeviceCacheOptions } from "./device-cache.js";

/** How a `DeviceTlb` is made. */
export type DeviceTlbOptions = DeviceCacheOptions;

/** A device's own translation cache: an entry stays until the guest's driver invalidates it in this device. Attach it to the address space it was made for: it holds nothing before that, and nothing after it was detached. */
export class DeviceTlb extends DeviceCache implements DeviceTlbNotifier {
  readonly kind = "device-tlb";
  readonly contract = 1;
  readonly name: string;

  /**
   * @param space Whose requests it answers.
   * @throws {IommuError} `bad-option` for a shape that is not powers of two in range.
   */
  constructor(space: AddressSpace, options: DeviceTlbOptions = {}) {
    super(space, options);
    this.name = options.name ?? "device TLB";
  }

  /** An invalidation request of the guest. While `onFlush` has not answered the guest waits; when it waits too long, the unit reports a time-out to the guest. */
  invalidate(iovaPfn: number, pageCount: number): Completion {
    return this.flush(iovaPfn, pageCount);
  }

  protected get self(): this {
    return this;
  }
}

/**
 * The UNMAP-only notifier: a translation cache of a device that lives in the host's own thread (design, "Two kinds of notifier").
 *
 * It fills on demand and is flushed by the unit: one call for each invalidation, however many pages it covers, and no walk of the guest's tables.
 */

import type { AddressSpace, Completion, UnmapNotifier } from "@iommu-kit/iommu-core";
import { DeviceCache, type DeviceCacheOptions } from "./device-cache.js";

/** How a `CacheNotifier` is made. */
export type CacheNotifierOptions = DeviceCacheOptions;

/** A translation cache that the unit keeps true: an entry is dropped before the guest's invalidation of it completes. Attach it to the address space it was made for: it holds nothing before that, and nothing after it was detached. */
export class CacheNotifier extends DeviceCache implements UnmapNotifier {
  readonly kind = "unmap";
  readonly contract = 1;
  readonly name: string;

  /**
   * @param space Whose requests it answers.
   * @throws {IommuError} `bad-option` for a shape that is not powers of two in range.
   */
  constructor(space: AddressSpace, options: CacheNotifierOptions = {}) {
    super(space, options);
    this.name = options.name ?? "translation cache";
  }

  /** Told by the unit: drops every entry that touches these frames. The range may be larger than anything that is held. */
  unmap(iovaPfn: number, pageCount: number): Completion {
    return this.flush(iovaPfn, pageCount);
  }

  protected get self(): this {
    return this;
  }
}

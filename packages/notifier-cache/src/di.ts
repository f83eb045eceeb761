/**
 * Dependency injection with tsyringe: tokens and registrations. The classes themselves need none of it (design D3).
 *
 * @packageDocumentation
 */

import { container, IOMMU, registerPerContainer, resolveRequired } from "@iommu-kit/iommu-core/di";
import type { AddressSpace, SourceId } from "@iommu-kit/iommu-core";
import type { DependencyContainer, InjectionToken } from "tsyringe";
import { CacheNotifier } from "./cache-notifier.js";
import type { DeviceCacheOptions } from "./device-cache.js";
import { DeviceTlb } from "./device-tlb.js";

/** tsyringe, loaded after reflect-metadata. */
export { container };

/** The UNMAP-only notifier. */
export const CACHE_NOTIFIER: InjectionToken<CacheNotifier> = Symbol.for("@iommu-kit/notifier-cache/CacheNotifier");

/** The device TLB. */
export const DEVICE_TLB: InjectionToken<DeviceTlb> = Symbol.for("@iommu-kit/notifier-cache/DeviceTlb");

/** How to register: the options of the cache, and whose it is. */
export interface RegisterCacheOptions extends DeviceCacheOptions {
  /** The device: bus, device and function, see `sourceId()`. */
  readonly sourceId: SourceId;
  /** Its PASID. Default: requests without PASID. */
  readonly pasid?: number;
}

/**
 * Registers `CACHE_NOTIFIER` for one device of the machine's `IOMMU`; made once for each container that resolves it. Attach it: `cache.space.attach(cache)`.
 * Resolving throws an `IommuError` `bad-option` if there is no unit.
 */
export function registerCacheNotifier(into: DependencyContainer, options: RegisterCacheOptions): void {
  registerPerContainer(into, CACHE_NOTIFIER, (from) => new CacheNotifier(spaceOf(from, options), options));
}

/**
 * Registers `DEVICE_TLB` for one device of the machine's `IOMMU`; made once for each container that resolves it. Attach it: `tlb.space.attach(tlb)`.
 * Resolving throws an `IommuError` `bad-option` if there is no unit.
 */
export function registerDeviceTlb(into: DependencyContainer, options: RegisterCacheOptions): void {
  registerPerContainer(into, DEVICE_TLB, (from) => new DeviceTlb(spaceOf(from, options), options));
}

function spaceOf(from: DependencyContainer, { sourceId, pasid }: RegisterCacheOptions): AddressSpace {
  return resolveRequired(from, IOMMU, "IOMMU").addressSpace(sourceId, pasid === undefined ? {} : { pasid });
}

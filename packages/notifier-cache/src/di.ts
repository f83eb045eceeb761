/**
 * Dependency injection with tsyringe: tokens and registrations. The classes themselves need none of it.
 *
 * Register in the child container of a machine: everything resolved there is one instance, and another machine has its own. The unit is the container's
 * `IOMMU` of iommu-core's `./di`, by the name of its token. `container` is exported again because reflect-metadata must be loaded before tsyringe, as it is here.
 */
import "reflect-metadata";
import type { AddressSpace, Iommu, SourceId } from "@iommu-kit/iommu-core";
import { container, type DependencyContainer, type InjectionToken, instancePerContainerCachingFactory } from "tsyringe";
import { CacheNotifier } from "./cache-notifier.js";
import type { DeviceCacheOptions } from "./device-cache.js";
import { DeviceTlb } from "./device-tlb.js";

export { container, type DependencyContainer, type InjectionToken };

const token = <T>(name: string): InjectionToken<T> => Symbol.for(`@iommu-kit/${name}`);

const IOMMU: InjectionToken<Iommu> = token<Iommu>("iommu-core/Iommu");

/** The UNMAP-only notifier. */
export const CACHE_NOTIFIER: InjectionToken<CacheNotifier> = token<CacheNotifier>("notifier-cache/CacheNotifier");

/** The device TLB. */
export const DEVICE_TLB: InjectionToken<DeviceTlb> = token<DeviceTlb>("notifier-cache/DeviceTlb");

/** How to register: the options of the cache, and whose it is. */
export interface RegisterCacheOptions extends DeviceCacheOptions {
  /** The device: bus, device and function, see `sourceId()`. */
  readonly sourceId: SourceId;
  /** Its PASID. Default: requests without PASID. */
  readonly pasid?: number;
}

/** Registers `CACHE_NOTIFIER` for one device of the container's unit; made once per container. Attach it: `cache.space.attach(cache)`. */
export function registerCacheNotifier(into: DependencyContainer, options: RegisterCacheOptions): void {
  const make = (from: DependencyContainer): CacheNotifier => new CacheNotifier(spaceOf(from, options), options);
  into.register(CACHE_NOTIFIER, { useFactory: instancePerContainerCachingFactory(make) });
}

/** Registers `DEVICE_TLB` for one device of the container's unit; made once per container. Attach it: `tlb.space.attach(tlb)`. */
export function registerDeviceTlb(into: DependencyContainer, options: RegisterCacheOptions): void {
  const make = (from: DependencyContainer): DeviceTlb => new DeviceTlb(spaceOf(from, options), options);
  into.register(DEVICE_TLB, { useFactory: instancePerContainerCachingFactory(make) });
}

function spaceOf(from: DependencyContainer, { sourceId, pasid }: RegisterCacheOptions): AddressSpace {
  return from.resolve(IOMMU).addressSpace(sourceId, pasid === undefined ? {} : { pasid });
}

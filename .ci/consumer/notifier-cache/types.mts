import { Access, type AddressSpace, Translation, type UnmapNotifier } from "@iommu-kit/iommu-core";
import { CacheNotifier } from "@iommu-kit/notifier-cache";
import { CACHE_NOTIFIER, container, registerCacheNotifier } from "@iommu-kit/notifier-cache/di";

declare const space: AddressSpace;

const notifier = new CacheNotifier(space, { name: "device 3" });
export const asNotifier: UnmapNotifier = notifier;
export const hit: boolean = notifier.lookup(0x10, Access.read, new Translation());

registerCacheNotifier(container, { sourceId: space.sourceId });
export const resolved: CacheNotifier = container.resolve(CACHE_NOTIFIER);

// @ts-expect-error a cache is made for one address space
export const wrong = new CacheNotifier();

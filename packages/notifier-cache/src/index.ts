export { CacheNotifier, type CacheNotifierOptions } from "./cache-notifier.js";
export { DeviceTlb, type DeviceTlbOptions } from "./device-tlb.js";
export { ALWAYS_INVALIDATED, DeviceCache, type DeviceCacheOptions } from "./device-cache.js";
export type { CacheStatistics } from "./cache-statistics.js";
export {
  type CachedBlock,
  type CacheShape,
  type CacheStorage,
  cacheStorage,
  cacheStorageBytes,
  ENTRY_SPANS,
  TranslationCache,
} from "./translation-cache.js";

/**
 * Caches of translations on the device's side, which fill on demand and are flushed when the guest invalidates: `CacheNotifier` for a device model, `DeviceTlb` for a
 * device with ATS. Neither needs caching mode.
 *
 * @packageDocumentation
 */

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

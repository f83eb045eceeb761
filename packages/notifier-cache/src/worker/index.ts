/**
 * `@iommu-kit/notifier-cache/worker`: a device model in a worker thread, of Node or a browser, with a cache of its own in a SharedArrayBuffer. An invalidation is complete
 * when the worker has acknowledged it; one that hangs is cut off.
 *
 * @packageDocumentation
 */

// The host's side.
export { WorkerCacheNotifier, WorkerDeviceTlb } from "./worker-cache.js";
export { HostCache, NOT_ATTACHED, type WorkerCacheOptions, type WorkerSetup, type WorkerStatus } from "./host-cache.js";
// The worker's side.
export { NO_ANSWER, WORKER_REVOKED, WorkerDma, type WorkerDmaOptions } from "./worker-dma.js";
// Both.
export type { NodePort, WebPort, WorkerPort } from "./message-port.js";

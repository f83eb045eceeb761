/**
 * `@iommu-kit/iommu-vtd/snapshot`: the state of units as plain, versioned data, and back.
 *
 * Saved: registers, latched pointers, queue position with the wait descriptor in flight, commands in flight, pending messages. Not saved: caches, and what notifiers hold. A
 * restore brings every notifier to the right view by the same differences as an invalidation, so a page that stays mapped is never unmapped.
 *
 * @packageDocumentation
 */

export { restore, restoreAll } from "./restore.js";
export { save, saveAll, SNAPSHOT_VERSION, type VtdSnapshot } from "./save.js";

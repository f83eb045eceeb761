/**
 * Mirrors what a device may reach into a DMA container: VFIO, iommufd, or a table of your own. `VfioNotifier` is told exact differences and keeps the container's rules
 * (its `ContainerProfile`); `MemoryContainer` is a container in memory with the same rules.
 *
 * @packageDocumentation
 */

export {
  type Answer,
  type ContainerRefusal,
  type DirtyLog,
  type DirtyResult,
  type DmaContainer,
  type MapResult,
  MAPPED,
  refused,
  type Refused,
  type UnmapResult,
} from "./container.js";
export {
  type ContainerProfile,
  type CutRule,
  type DirtyRules,
  type OverlapRule,
  usableRangesOf,
} from "./profiles/profile.js";
export { iommufd } from "./profiles/iommufd.js";
export { shadow } from "./profiles/shadow.js";
export { type1 } from "./profiles/type1.js";
export { type1v2 } from "./profiles/type1v2.js";
export { vfioUser } from "./profiles/vfio-user.js";
export { MemoryContainer } from "./memory-container.js";
export { type ShadowBlock, shadowBlock, ShadowPageTable, type ShadowTarget } from "./shadow-page-table.js";
export type { Coalescing } from "./coalescing.js";
export type { PressureEvent } from "./entry-pressure.js";
export type { CutEvent, RefusalEvent, VfioEventEmitter, VfioNotifierEvents } from "./events.js";
export type { VfioNotifierOptions } from "./options.js";
export { VfioNotifier } from "./vfio-notifier.js";

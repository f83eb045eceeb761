/**
 * `@iommu-kit/iommu-vtd/testing`: a guest with its driver, for tests of anything that sits on the unit. Uses no test framework.
 *
 * @packageDocumentation
 */

export { Command, GuestDriver, type GuestFault, type GuestMapping, type GuestOptions } from "./guest-driver.js";
export {
  type ContextFields,
  type GuestContext,
  GuestContexts,
  type GuestPasid,
  type GuestScalableContext,
  type PasidFields,
  type ScalableFields,
} from "./guest-contexts.js";
export {
  type DescriptorFields,
  GuestInterrupts,
  type PostedFields,
  remappableMessage,
  type RemappedFields,
} from "./guest-interrupts.js";
export { QueuedInvalidation, RegisterCommands, type RegisterOutcome } from "./guest-invalidate.js";
export { descriptor, GuestQueue, type GuestQueueOptions } from "./guest-queue.js";
export { FirstStageTables, type FirstStageLeafOptions } from "./first-stage-tables.js";
export { FrameAllocator } from "./frame-allocator.js";
export { ContextEntry, ScalableContextEntry } from "../spec/context-entry.js";
export { PostedDescriptor, PostedEntry, RemappedEntry } from "../spec/interrupt-entry.js";
export { PasidEntry } from "../spec/pasid.js";

/**
 * `@iommu-kit/iommu-vtd/testing`: a guest with its driver, for tests of anything that sits on the unit. Uses no test framework.
 */

export { Command, GuestDriver, type GuestFault, type GuestMapping, type GuestOptions } from "./guest-driver.js";
export { type GuestContext, GuestContexts, type GuestPasid, type GuestScalableContext } from "./guest-contexts.js";
export { GuestInterrupts, remappableMessage } from "./guest-interrupts.js";
export { QueuedInvalidation, RegisterCommands, type RegisterOutcome } from "./guest-invalidate.js";
export { descriptor, GuestQueue, type GuestQueueOptions } from "./guest-queue.js";
export { FirstStageTables, type FirstStageLeafOptions } from "./first-stage-tables.js";
export { FrameAllocator } from "./frame-allocator.js";

/**
 * `@iommu-kit/iommu-vtd/inspect`: what a unit is doing, for people. Reads, changes nothing, never throws whatever the guest wrote.
 *
 * @packageDocumentation
 */

export { formatInspection } from "./format.js";
export { inspect, type InspectOptions, type Inspection } from "./inspect.js";
export type { DeviceInspection, EntryInspection, NotifierInspection, ViewInspection } from "./devices.js";
export type { FaultInspection } from "./faults.js";
export type { MappingRange, Mappings } from "./mappings.js";
export type { DescriptorInspection, QueueInspection } from "./queue.js";
export { inspectRegisterBlock, type RegisterBlockInspection } from "./register-block.js";
export type { RegisterInspection } from "./registers.js";

/**
 * The part of a pluggable IOMMU that knows no architecture: vocabulary, ports, the IOVA tree, the hub that tells notifiers, and the DMA port of a device.
 *
 * Make a unit with a backend (`BackendIommu`, or one such as `VtdIommu` of iommu-vtd), give each device its `addressSpace`, and attach what has to follow it.
 *
 * @packageDocumentation
 */

export { Access, accessOf, formatAccess } from "./access.js";
export {
  byteAddress,
  type ByteAddress,
  FRAME_LIMIT,
  formatAddress,
  formatPfn,
  offsetInPage,
  PAGE_BYTES,
  pfnOf,
} from "./address.js";
export { formatSourceId, parseSourceId, type SourceId, sourceId } from "./source-id.js";
export { ALL_FRAMES, contains, endOf, type FrameRange, formatRange, intersect } from "./range.js";
export { BACKEND_CONTRACT, NOTIFIER_CONTRACT } from "./contract.js";
export { checkGiven, IommuError, type IommuErrorCode, withoutUndefined } from "./errors.js";
export { Backlog } from "./notify/backlog.js";
export { type Completion, CompletionGroup, isPending, whenDone } from "./completion.js";
export {
  type GuestMemory,
  type MsiMessage,
  type MsiSink,
  type RamWindow,
  type Scheduler,
  timerScheduler,
} from "./ports.js";
export { sharedEntries } from "./shared-entries.js";
export { BufferMemory, type BufferMemoryOptions, type RamRegion } from "./buffer-memory.js";
export { LocalReason } from "./local-reason.js";
export { TRANSLATED, Translation } from "./translation.js";
export {
  type DeviceTlbNotifier,
  type MapAnswer,
  type MapNotifier,
  type MapReports,
  type Notifier,
  type NotifierCommon,
  notifierName,
  type UnmapNotifier,
} from "./notifier.js";
export type { Announce, Backend, Change, Domain, MappingSink, MessageWindow, Requester } from "./backend.js";
export { DECODED, type EntryFormat, LeafTable } from "./diff/leaf-table.js";
export { IovaTree } from "./diff/iova-tree.js";
export { Mapping, type RunVisitor } from "./diff/mapping.js";
export type { Attachment, AttachmentState, AttachOptions } from "./attachment.js";
export { AddressSpace, UNPLUGGED } from "./address-space.js";
export { type DmaFailure, DmaPort, type ScatterPiece } from "./dma/dma-port.js";
export type { Lease, Segment } from "./dma/lease.js";
export { type DirtySink, DirtyTracker } from "./dma/dirty-tracker.js";
export type { FrameVisitor } from "./dma/frame-set.js";
export type {
  AttachmentEvent,
  BudgetEvent,
  FailedEvent,
  FaultEvent,
  InvalidateEvent,
  IommuEventEmitter,
  IommuEvents,
  MappingEvent,
  MoveEvent,
  RefusedEvent,
  WindowEvent,
} from "./events.js";
export type { Limits } from "./limits.js";
export { type AddressSpaceOptions, BackendIommu, type BackendIommuOptions, type Iommu } from "./iommu.js";
export {
  address,
  bit,
  BitAccess,
  bits,
  describeFields,
  type Field,
  fieldMask,
  type FieldNames,
  type FieldText,
  ignored,
  type Layout,
  layout,
  markBits,
  type Part,
  reserved,
  reservedMask,
  ro,
  ros,
  rw,
  rw1c,
  rw1cs,
  type TableRow,
  tableRows,
  type TextOf,
  wo,
} from "./layout.js";

/**
 * `@iommu-kit/notifier-cache/vhost-user`: the front-end's side of a vhost-user back-end with an IOTLB, over a UNIX socket. Node only: memory is shared by file
 * descriptor.
 *
 * @packageDocumentation
 */

export { type SendWithFds, socketChannel, type UnixSocket, type VhostChannel } from "./channel.js";
export { VhostFrontEnd, type VhostFrontEndOptions, type VhostLog } from "./front-end.js";
export { VhostIotlb, type VhostIotlbOptions, type VhostIotlbStatistics } from "./vhost-iotlb.js";
export { MemoryTable, type VhostRegion } from "./memory-table.js";
export type { IotlbMessage, VhostRing } from "./messages.js";
export { Feature, ProtocolFeature } from "./protocol.js";

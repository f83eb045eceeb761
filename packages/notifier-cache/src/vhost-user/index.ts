export { type SendWithFds, socketChannel, type UnixSocket, type VhostChannel } from "./channel.js";
export { VhostFrontEnd, type VhostFrontEndOptions, type VhostLog } from "./front-end.js";
export { VhostIotlb, type VhostIotlbOptions, type VhostIotlbStatistics } from "./vhost-iotlb.js";
export { MemoryTable, type VhostRegion } from "./memory-table.js";
export type { IotlbMessage, VhostRing } from "./messages.js";
export { Feature, ProtocolFeature } from "./protocol.js";

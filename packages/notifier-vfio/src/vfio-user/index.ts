/**
 * `@iommu-kit/notifier-vfio/vfio-user`: a client of the vfio-user protocol, for a device in another process at the far side of a UNIX socket. Node only.
 *
 * @packageDocumentation
 */

export { type SendWithFds, socketTransport, type UnixSocket, type VfioUserTransport } from "./transport.js";
export { VfioUserClient, type VfioUserClientOptions } from "./client.js";
export type { IrqAction } from "./irq-action.js";
export type { DeviceInfo, IrqInfo, RegionInfo } from "./messages.js";
export type { Capabilities, Negotiated } from "./version.js";
export { type SharedMemory, VfioUserContainer, type VfioUserContainerOptions } from "./vfio-user-container.js";
export { type VfioUserConnection, VfioUserDevice, type VfioUserDeviceOptions } from "./vfio-user-device.js";

/** The byte streams under vhost-user: UNIX sockets that carry file descriptors. */

import type { Scheduler } from "@iommu-kit/iommu-core";
import { type FdStream, fdStream, type SendWithFds, type UnixSocket } from "@iommu-kit/iommu-core/fd-stream";

export type { SendWithFds, UnixSocket };

/** An ordered, reliable stream of bytes in both directions, which carries file descriptors. */
export type VhostChannel = Pick<FdStream, "send" | "close" | "onBytes" | "onClose">;

/**
 * A channel on a connected UNIX socket.
 * @param sendWithFds Sends bytes with file descriptors on the socket's own descriptor.
 * @param scheduler For another try where the socket was full. Default: the host's timers.
 */
export function socketChannel(socket: UnixSocket, sendWithFds: SendWithFds, scheduler?: Scheduler): VhostChannel {
  return fdStream(socket, sendWithFds, scheduler);
}

/** The byte stream under vfio-user: a UNIX socket. */

import type { Scheduler } from "@iommu-kit/iommu-core";
import { type FdStream, fdStream, type SendWithFds, type UnixSocket } from "@iommu-kit/iommu-core/fd-stream";

export type { SendWithFds, UnixSocket };

/** An ordered, reliable stream of bytes in both directions. Where it sends no descriptors, the server reaches memory by messages only. */
export type VfioUserTransport = FdStream;

/**
 * A transport on a connected UNIX socket. Without `sendWithFds` it carries no file descriptors.
 * @param scheduler For another try where the socket was full. Default: the host's timers.
 */
export function socketTransport(
  socket: UnixSocket,
  sendWithFds?: SendWithFds,
  scheduler?: Scheduler,
): VfioUserTransport {
  return fdStream(socket, sendWithFds, scheduler);
}

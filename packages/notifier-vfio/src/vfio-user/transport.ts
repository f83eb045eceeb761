/**
 * The byte stream under vfio-user: a UNIX socket. Node's own sockets carry bytes only; sending file descriptors needs a native call, which the host supplies.
 */

/** An ordered, reliable stream of bytes in both directions. */
export interface VfioUserTransport {
  /** Whether file descriptors can be sent. Without, the server reaches memory by messages only. */
  readonly sendsFds: boolean;
  /** Bytes that wait to be sent. */
  readonly pendingBytes: number;
  /** Sends a whole message; the file descriptors travel with its first byte and stay the caller's. May throw: the connection then ends. */
  send(message: Uint8Array, fds: readonly number[]): void;
  /** Ends the stream. */
  close(): void;
  /** Set by the client: bytes came in, in pieces of any size; they are not used again. */
  onBytes: ((bytes: Uint8Array) => void) | undefined;
  /** Set by the client: the stream has ended. Called once. */
  onClose: ((error: Error | undefined) => void) | undefined;
}

/** What `socketTransport` needs of a socket: Node's `net.Socket` has it. */
export interface UnixSocket {
  write(bytes: Uint8Array): boolean;
  destroy(): unknown;
  readonly writableLength: number;
  on(event: "data", listener: (bytes: Uint8Array) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "close" | "drain", listener: () => void): unknown;
}

/** Sends bytes with file descriptors (SCM_RIGHTS) on the socket's own descriptor, all of the bytes, and throws if that fails. */
export type SendWithFds = (message: Uint8Array, fds: readonly number[]) => void;

interface Waiting {
  readonly message: Uint8Array;
  readonly fds: readonly number[];
}

/** A transport on a connected UNIX socket. Without `sendWithFds` it carries no file descriptors. */
export function socketTransport(socket: UnixSocket, sendWithFds?: SendWithFds): VfioUserTransport {
  // Messages with descriptors bypass the socket's buffer, so they wait until it is empty, and everything behind them waits too.
  const waiting: Waiting[] = [];
  let next = 0;
  let waitingBytes = 0;
  let failure: Error | undefined;
  const flush = (): void => {
    for (let first = waiting[next]; first !== undefined; first = waiting[next]) {
      if (first.fds.length > 0 && socket.writableLength > 0) return;
      next += 1;
      waitingBytes -= first.message.length;
      if (first.fds.length === 0) socket.write(first.message);
      else sendWithFds?.(first.message, first.fds);
    }
    waiting.length = 0;
    next = 0;
  };
  const transport: VfioUserTransport = {
    sendsFds: sendWithFds !== undefined,
    get pendingBytes() {
      return waitingBytes + socket.writableLength;
    },
    send(message, fds) {
      waiting.push({ message, fds });
      waitingBytes += message.length;
      flush();
    },
    close: () => void socket.destroy(),
    onBytes: undefined,
    onClose: undefined,
  };
  socket.on("data", (bytes) => transport.onBytes?.(bytes));
  socket.on("drain", () => {
    try {
      flush();
    } catch (error) {
      failure = error instanceof Error ? error : new Error(String(error));
      socket.destroy();
    }
  });
  socket.on("error", (error) => (failure = error));
  socket.on("close", () => transport.onClose?.(failure));
  return transport;
}

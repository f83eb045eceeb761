/**
 * A UNIX socket as a stream that carries file descriptors: what vfio-user and vhost-user speak over. Node's own sockets carry bytes only; sending descriptors
 * (SCM_RIGHTS) needs a native call, which the host supplies, so no package here has native code.
 *
 * @packageDocumentation
 */

import { IommuError } from "./errors.js";
import { type Scheduler, timerScheduler } from "./ports.js";

/** An ordered, reliable stream of bytes in both directions. */
export interface FdStream {
  /** Whether file descriptors can be sent. */
  readonly sendsFds: boolean;
  /** Bytes that wait to be sent. */
  readonly pendingBytes: number;
  /** Sends a whole message; the file descriptors travel with its first byte and stay the caller's. May throw: the connection then ends. */
  send(message: Uint8Array, fds: readonly number[]): void;
  /** Ends the stream. */
  close(): void;
  /** Set by the user of the stream: bytes came in, in pieces of any size; they are not used again. */
  onBytes: ((bytes: Uint8Array) => void) | undefined;
  /** Set by the user of the stream: it has ended. Called once, with the cause if it was not wanted. */
  onClose: ((error: Error | undefined) => void) | undefined;
}

/** What `fdStream` needs of a socket: Node's `net.Socket` has it. */
export interface UnixSocket {
  /** `written` is called once the kernel has taken the bytes. */
  write(bytes: Uint8Array, written?: () => void): boolean;
  destroy(): unknown;
  readonly writableLength: number;
  on(event: "data", listener: (bytes: Uint8Array) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "close", listener: () => void): unknown;
}

/**
 * Sends bytes with file descriptors (SCM_RIGHTS) on the socket's own descriptor, which does not block. Answers how many bytes went out, 0 where the socket is full
 * (EAGAIN): what is left is sent by the stream. Throws if it fails otherwise.
 */
export type SendWithFds = (message: Uint8Array, fds: readonly number[]) => number;

interface Waiting {
  readonly message: Uint8Array;
  readonly fds: readonly number[];
}

/** A socket that is full for a native call tells nobody when it no longer is. */
const FULL_SOCKET_MILLISECONDS = 1;

/**
 * A stream on a connected UNIX socket. Without `sendWithFds` it carries no file descriptors.
 * @param scheduler For another try where the socket was full. Default: the host's timers.
 */
export function fdStream(
  socket: UnixSocket,
  sendWithFds?: SendWithFds,
  scheduler: Scheduler = timerScheduler,
): FdStream {
  // Messages with descriptors bypass the socket's buffer, so they wait until it is empty, and everything behind them waits too.
  const waiting: Waiting[] = [];
  let waitingBytes = 0;
  let failure: Error | undefined;
  let cancelRetry: (() => void) | undefined;
  const flush = (): void => {
    for (let first = waiting[0]; first !== undefined; first = waiting[0]) {
      const { message, fds } = first;
      let sent = 0;
      if (fds.length > 0 && sendWithFds !== undefined) {
        // Either of them goes on from here when it is time.
        if (cancelRetry !== undefined || socket.writableLength > 0) return;
        sent = checkedCount(sendWithFds(message, fds), message.length);
        if (sent === 0) {
          cancelRetry = scheduler.after(FULL_SOCKET_MILLISECONDS, retry);
          return;
        }
      }
      waiting.shift();
      waitingBytes -= message.length;
      if (sent < message.length) socket.write(message.subarray(sent), written);
    }
  };
  /** As `flush`, where nobody would hear of an error. */
  const written = (): void => {
    try {
      flush();
    } catch (error) {
      failure = error instanceof Error ? error : new Error(String(error));
      socket.destroy();
    }
  };
  const retry = (): void => {
    cancelRetry = undefined;
    written();
  };
  const stream: FdStream = {
    sendsFds: sendWithFds !== undefined,
    get pendingBytes() {
      return waitingBytes + socket.writableLength;
    },
    send(message, fds) {
      if (fds.length > 0 && sendWithFds === undefined) throw cannotSendFds(fds.length);
      waiting.push({ message, fds });
      waitingBytes += message.length;
      flush();
    },
    close: () => void socket.destroy(),
    onBytes: undefined,
    onClose: undefined,
  };
  socket.on("data", (bytes) => stream.onBytes?.(bytes));
  socket.on("error", (error) => (failure = error));
  socket.on("close", () => {
    cancelRetry?.();
    waiting.length = 0;
    stream.onClose?.(failure);
  });
  return stream;
}

function checkedCount(sent: number, byteLength: number): number {
  if (Number.isInteger(sent) && sent >= 0 && sent <= byteLength) return sent;
  throw new IommuError("bad-option", `sendWithFds: expected a count of bytes from 0 to ${byteLength}, got ${sent}`, {
    hint: "answer what sendmsg answered, 0 for EAGAIN, and throw for any other error",
  });
}

function cannotSendFds(count: number): IommuError {
  return new IommuError("not-supported", `expected a message without file descriptors, got ${count}`, {
    hint: "give a function that sends them, sendWithFds, with the socket",
  });
}

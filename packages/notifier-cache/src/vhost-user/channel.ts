/**
 * The byte streams under vhost-user: UNIX sockets that can carry file descriptors. Sending descriptors needs a native call, which the host supplies.
 */

import { IommuError, type Scheduler, timerScheduler } from "@iommu-kit/iommu-core";
import { HEADER_BYTES, LARGEST_PAYLOAD_BYTES } from "./protocol.js";
import type { VhostMessage } from "./messages.js";

/** An ordered, reliable stream of bytes in both directions. */
export interface VhostChannel {
  /** Sends a whole message; the file descriptors travel with its first byte and stay the caller's. May throw: the connection then ends. */
  send(message: Uint8Array, fds: readonly number[]): void;
  /** Ends the stream. */
  close(): void;
  /** Set by the front-end: bytes came in, in pieces of any size. */
  onBytes: ((bytes: Uint8Array) => void) | undefined;
  /** Set by the front-end: the stream has ended. Called once. */
  onClose: ((error: Error | undefined) => void) | undefined;
}

/** What `socketChannel` needs of a socket: Node's `net.Socket` has it. */
export interface StreamSocket {
  /** `written` is called once the kernel has taken the bytes. */
  write(bytes: Uint8Array, written?: () => void): boolean;
  destroy(): unknown;
  readonly writableLength: number;
  on(event: "data", listener: (bytes: Uint8Array) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "close", listener: () => void): unknown;
}

/** A socket that is full for a native call tells nobody when it no longer is. */
const FULL_SOCKET_MILLISECONDS = 1;

/**
 * A channel on a connected UNIX socket.
 * @param sendWithFds Sends bytes with file descriptors (SCM_RIGHTS) on the socket's own descriptor, which does not block. Answers how many bytes went out, 0 where the
 * socket is full (EAGAIN): what is left is sent by the channel. Throws if it fails otherwise.
 * @param scheduler For another try where the socket was full. Default: the host's timers.
 */
export function socketChannel(
  socket: StreamSocket,
  sendWithFds: (message: Uint8Array, fds: readonly number[]) => number,
  scheduler: Scheduler = timerScheduler,
): VhostChannel {
  // Messages with descriptors bypass the socket's buffer, so they wait until it is empty, and everything behind them waits too.
  const waiting: { readonly message: Uint8Array; readonly fds: readonly number[] }[] = [];
  let failure: Error | undefined;
  let cancelRetry: (() => void) | undefined;
  const flush = (): void => {
    for (let first = waiting[0]; first !== undefined; first = waiting[0]) {
      const { message, fds } = first;
      let sent = 0;
      if (fds.length > 0) {
        // Either of them goes on from here when it is time.
        if (cancelRetry !== undefined || socket.writableLength > 0) return;
        sent = checkedCount(sendWithFds(message, fds), message.length);
        if (sent === 0) {
          cancelRetry = scheduler.after(FULL_SOCKET_MILLISECONDS, retry);
          return;
        }
      }
      waiting.shift();
      if (sent < message.length) socket.write(sent === 0 ? message : message.subarray(sent), written);
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
  const channel: VhostChannel = {
    send(message, fds) {
      waiting.push({ message, fds });
      flush();
    },
    close: () => void socket.destroy(),
    onBytes: undefined,
    onClose: undefined,
  };
  socket.on("data", (bytes) => channel.onBytes?.(bytes));
  socket.on("error", (error) => (failure = error));
  socket.on("close", () => {
    cancelRetry?.();
    waiting.length = 0;
    channel.onClose?.(failure);
  });
  return channel;
}

function checkedCount(sent: number, byteLength: number): number {
  if (Number.isInteger(sent) && sent >= 0 && sent <= byteLength) return sent;
  throw new IommuError("bad-option", `sendWithFds: expected a count of bytes from 0 to ${byteLength}, got ${sent}`, {
    hint: "answer what sendmsg answered, 0 for EAGAIN, and throw for any other error",
  });
}

/** Cuts a stream into messages. A payload longer than the protocol allows ends it: `onBroken`, and nothing further. */
export class MessageReader {
  #pending = new Uint8Array(0);
  #broken = false;
  readonly #onMessage: (message: VhostMessage) => void;
  readonly #onBroken: (why: string) => void;

  constructor(onMessage: (message: VhostMessage) => void, onBroken: (why: string) => void) {
    this.#onMessage = onMessage;
    this.#onBroken = onBroken;
  }

  /** Takes bytes as they come. */
  push(bytes: Uint8Array): void {
    if (this.#broken) return;
    const joined = new Uint8Array(this.#pending.length + bytes.length);
    joined.set(this.#pending);
    joined.set(bytes, this.#pending.length);
    this.#pending = joined.subarray(this.#consume(joined));
  }

  #consume(bytes: Uint8Array): number {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = 0;
    while (!this.#broken && bytes.length - at >= HEADER_BYTES) {
      const payloadBytes = view.getUint32(at + 8, true);
      if (payloadBytes > LARGEST_PAYLOAD_BYTES) {
        this.#broken = true;
        this.#onBroken(`expected a payload of at most ${LARGEST_PAYLOAD_BYTES} bytes, got ${payloadBytes}`);
        return bytes.length;
      }
      if (bytes.length - at < HEADER_BYTES + payloadBytes) break;
      const payload = new DataView(bytes.buffer, bytes.byteOffset + at + HEADER_BYTES, payloadBytes);
      this.#onMessage({ request: view.getUint32(at, true), flags: view.getUint32(at + 4, true), payload });
      at += HEADER_BYTES + payloadBytes;
    }
    return at;
  }
}

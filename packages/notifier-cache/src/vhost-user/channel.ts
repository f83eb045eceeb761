/**
 * The byte streams under vhost-user: UNIX sockets that can carry file descriptors. Sending descriptors needs a native call, which the host supplies.
 */

import { HEADER_BYTES, LARGEST_PAYLOAD_BYTES } from "./protocol.js";
import type { VhostMessage } from "./messages.js";

/** An ordered, reliable stream of bytes in both directions. */
export interface VhostChannel {
  /** Sends a whole message; the file descriptors travel with its first byte and stay the caller's. */
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
  write(bytes: Uint8Array): boolean;
  destroy(): unknown;
  readonly writableLength: number;
  on(event: "data", listener: (bytes: Uint8Array) => void): unknown;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "close" | "drain", listener: () => void): unknown;
}

/**
 * A channel on a connected UNIX socket.
 * @param sendWithFds Sends bytes with file descriptors (SCM_RIGHTS) on the socket's own descriptor, all of the bytes, and throws if that fails.
 */
export function socketChannel(
  socket: StreamSocket,
  sendWithFds: (message: Uint8Array, fds: readonly number[]) => void,
): VhostChannel {
  // Messages with descriptors bypass the socket's buffer, so they wait until it is empty, and everything behind them waits too.
  const waiting: { readonly message: Uint8Array; readonly fds: readonly number[] }[] = [];
  const flush = (): void => {
    for (let next = waiting[0]; next !== undefined; next = waiting[0]) {
      if (next.fds.length === 0) socket.write(next.message);
      else if (socket.writableLength > 0) return;
      else sendWithFds(next.message, next.fds);
      waiting.shift();
    }
  };
  let failure: Error | undefined;
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
  socket.on("drain", flush);
  socket.on("error", (error) => (failure = error));
  socket.on("close", () => channel.onClose?.(failure));
  return channel;
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

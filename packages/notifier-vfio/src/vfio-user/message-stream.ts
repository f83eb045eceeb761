/**
 * Cuts a stream of bytes into vfio-user messages.
 *
 * What comes in is the work of another program and may be anything: a message longer than both sides agreed on, or shorter than its header, ends the stream.
 * No more memory than one such message is ever set aside.
 */

import { HEADER_BYTES, HeaderFlag } from "./protocol.js";

/** A message as it came in. The payload stays valid: its bytes are not used again. */
export interface VfioUserMessage {
  readonly id: number;
  readonly command: number;
  readonly isReply: boolean;
  /** A command whose sender wants no reply. */
  readonly noReply: boolean;
  /** The error number of a reply that refuses, 0 if the sender gave none; `undefined`: no refusal. */
  readonly errno: number | undefined;
  readonly payload: DataView;
}

/** The messages of one connection, in order. */
export class MessageStream {
  readonly #maxMessageBytes: number;
  readonly #onMessage: (message: VfioUserMessage) => void;
  readonly #onBroken: (why: string) => void;
  /** The message that is incomplete, at first only its header. */
  #partial: Uint8Array | undefined;
  #filled = 0;
  #broken = false;

  /** @param onBroken Called once; nothing comes after it. */
  constructor(maxMessageBytes: number, onMessage: (message: VfioUserMessage) => void, onBroken: (why: string) => void) {
    this.#maxMessageBytes = maxMessageBytes;
    this.#onMessage = onMessage;
    this.#onBroken = onBroken;
  }

  /** Takes bytes as they come; the stream keeps them. */
  push(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length && !this.#broken) {
      const partial = this.#partial;
      at += partial === undefined ? this.#whole(bytes, at) : this.#fill(partial, bytes, at);
    }
  }

  /** Nothing further is told. */
  stop(): void {
    this.#broken = true;
    this.#partial = undefined;
  }

  /** A message that lies in the bytes as a whole, else the beginning of one. Answers the bytes taken. */
  #whole(bytes: Uint8Array, at: number): number {
    const left = bytes.length - at;
    const byteLength = left < HEADER_BYTES ? HEADER_BYTES : this.#sizeOf(bytes.subarray(at));
    if (byteLength === undefined) return left;
    if (left >= byteLength) {
      this.#tell(bytes.subarray(at, at + byteLength));
      return byteLength;
    }
    this.#partial = new Uint8Array(byteLength);
    this.#partial.set(bytes.subarray(at));
    this.#filled = left;
    return left;
  }

  /** More of the message that is incomplete. Answers the bytes taken. */
  #fill(partial: Uint8Array, bytes: Uint8Array, at: number): number {
    const taken = Math.min(partial.length - this.#filled, bytes.length - at);
    partial.set(bytes.subarray(at, at + taken), this.#filled);
    this.#filled += taken;
    if (this.#filled < partial.length) return taken;
    const byteLength = partial.length === HEADER_BYTES ? this.#sizeOf(partial) : partial.length;
    if (byteLength === undefined) return taken;
    if (byteLength > partial.length) {
      this.#partial = new Uint8Array(byteLength);
      this.#partial.set(partial);
      return taken;
    }
    this.#partial = undefined;
    this.#tell(partial);
    return taken;
  }

  /** The size that a header names, if it may. */
  #sizeOf(message: Uint8Array): number | undefined {
    const byteLength = viewOf(message).getUint32(4, true);
    if (byteLength >= HEADER_BYTES && byteLength <= this.#maxMessageBytes) return byteLength;
    this.stop();
    this.#onBroken(`expected a message of ${HEADER_BYTES} to ${this.#maxMessageBytes} bytes, got ${byteLength}`);
    return undefined;
  }

  #tell(message: Uint8Array): void {
    const view = viewOf(message);
    const flags = view.getUint32(8, true);
    const type = flags & HeaderFlag.TYPE;
    if (type > HeaderFlag.REPLY) {
      this.stop();
      this.#onBroken(`expected a command or a reply, got a message of type ${type}`);
      return;
    }
    this.#onMessage({
      id: view.getUint16(0, true),
      command: view.getUint16(2, true),
      isReply: type === HeaderFlag.REPLY,
      noReply: (flags & HeaderFlag.NO_REPLY) !== 0,
      errno: (flags & HeaderFlag.ERROR) === 0 ? undefined : view.getUint32(12, true),
      payload: new DataView(message.buffer, message.byteOffset + HEADER_BYTES, message.length - HEADER_BYTES),
    });
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

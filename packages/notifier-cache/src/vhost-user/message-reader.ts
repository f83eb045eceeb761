/** Messages in the byte stream of vhost-user. */

import type { VhostMessage } from "./messages.js";
import { HEADER_BYTES, LARGEST_PAYLOAD_BYTES } from "./protocol.js";

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

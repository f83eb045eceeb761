/**
 * Requests of devices to the interrupt window (§3.15): a 4-byte aligned write is a message, everything else is refused.
 */

import type { MessageWindow, Requester } from "@iommu-kit/iommu-core";
import { INTERRUPT_WINDOW } from "../spec/interrupt-window.js";
import type { InterruptRemap } from "./interrupt-remap.js";

const MESSAGE_BYTES = 4;

/** The message window of requests without PASID, the same for all devices of a unit. */
export class MessagePort implements MessageWindow {
  readonly range = INTERRUPT_WINDOW;
  readonly #interrupts: InterruptRemap;

  constructor(interrupts: InterruptRemap) {
    this.#interrupts = interrupts;
  }

  write(requester: Requester, address: number, bytes: Uint8Array): boolean {
    if (bytes.length !== MESSAGE_BYTES || address % MESSAGE_BYTES !== 0) return this.read(requester);
    const data = new DataView(bytes.buffer, bytes.byteOffset, MESSAGE_BYTES).getUint32(0, true);
    return this.#interrupts.request(requester.sourceId, { address, addressHigh: 0, data });
  }

  read(requester: Requester): boolean {
    this.#interrupts.malformed(requester.sourceId);
    return false;
  }
}

/**
 * Posting an interrupt into its descriptor in guest memory (§5.2.3), and the notification that may follow.
 *
 * The 64 bytes are one unit to the architecture. A host of one thread can do that with word-sized compare-and-set: PIR first, then ON.
 */

import type { GuestMemory, MsiMessage } from "@iommu-kit/iommu-core";
import { FaultReason } from "../spec/fault-reasons.js";
import { DeliveryMode } from "../spec/interrupt.js";
import { destinationOf, PostedDescriptor, postedDescriptorReserved } from "../spec/interrupt-entry.js";
import { anyBit } from "../spec/word.js";
import type { PostedInterrupt } from "./interrupt-entry-cache.js";
import { interruptMessage } from "./interrupt-table.js";

/** How often a word that keeps changing under us is tried: a guest must not be able to hold the host. */
const ATTEMPTS = 64;
const { ON, SN, NV, NDST } = PostedDescriptor.fields;

/** A notification to send, nothing, or a fault reason. */
export type PostResult = MsiMessage | undefined | number;

/** Posts the interrupts of one unit. */
export class InterruptPosting {
  readonly #memory: GuestMemory;
  readonly #reserved: readonly [Int32Array, Int32Array];
  readonly #words = new Int32Array(PostedDescriptor.wordCount);

  constructor(memory: GuestMemory) {
    this.#memory = memory;
    this.#reserved = [postedDescriptorReserved(false), postedDescriptorReserved(true)];
  }

  /** Posts one; answers the notification that is to be sent, if any, or the fault reason. */
  post(entry: PostedInterrupt, extended: boolean): PostResult {
    const words = this.#words;
    if (!this.#memory.fetch(entry.descriptorGpa, words)) return FaultReason.INTERRUPT_POSTED_ACCESS;
    if (anyBit(words, this.#reserved[extended ? 1 : 0])) return FaultReason.INTERRUPT_POSTED_RESERVED;
    const request = entry.vector >> 5;
    if (!this.#setBits(entry.descriptorGpa, request, 1 << (entry.vector & 31)))
      return FaultReason.INTERRUPT_POSTED_ACCESS;
    if (ON.get(words, 0) === 1 || (!entry.urgent && SN.get(words, 0) === 1)) return undefined;
    if (!this.#setBits(entry.descriptorGpa, ON.word, ON.mask)) return FaultReason.INTERRUPT_POSTED_ACCESS;
    return interruptMessage({
      destination: destinationOf(NDST.get(words, 0), extended),
      logical: 0,
      redirection: 0,
      levelTriggered: 0,
      deliveryMode: DeliveryMode.FIXED,
      vector: NV.get(words, 0),
    });
  }

  #setBits(descriptorGpa: number, word: number, bits: number): boolean {
    const current = new Int32Array(1);
    const gpa = descriptorGpa + word * 4;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if (!this.#memory.fetch(gpa, current)) return false;
      const value = current[0] ?? 0;
      if (this.#memory.compareExchange(gpa, value, value | bits)) return true;
    }
    return false;
  }
}

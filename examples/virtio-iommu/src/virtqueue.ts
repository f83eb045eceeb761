/**
 * The device's side of a split virtqueue (virtio 1.3, §2.7) in guest memory.
 *
 * The guest owns every byte of it: indexes, lengths and links are checked before they are used, and a chain is at most as long as the queue. A ring that breaks the
 * rules is `broken` for good: the device then asks to be reset.
 */

import type { GuestMemory } from "@iommu-kit/iommu-core";
import { Descriptor, NO_INTERRUPT } from "./spec/virtio.js";

/** A piece of guest memory that the device may write. */
interface Piece {
  readonly gpa: number;
  readonly byteLength: number;
}

/** A request of the driver: what the device reads, and where it may answer. */
export interface Chain {
  readonly head: number;
  /** The device-readable part, cut after `readLimit` bytes. */
  readonly readable: Uint8Array;
  readonly readableLength: number;
  readonly writable: readonly Piece[];
  readonly writableLength: number;
}

/** What a queue needs of its device. */
export interface QueueOptions {
  readonly memory: GuestMemory;
  /** A power of two. */
  readonly sizeMax: number;
  /** Bytes of a request that are read at most: the longest that the device knows. */
  readonly readLimit: number;
  /** The ring is broken: ask the driver for a reset. */
  readonly onBroken: () => void;
}

/** One queue. Its registers are set by the transport while it is not ready. */
export class Virtqueue {
  readonly sizeMax: number;
  size = 0;
  ready = false;
  /** Byte addresses of the descriptor table, the available ring and the used ring. */
  descGpa = 0;
  driverGpa = 0;
  deviceGpa = 0;
  readonly #options: QueueOptions;
  readonly #word = new Uint8Array(8);
  readonly #view = new DataView(this.#word.buffer);
  #broken = false;
  #availIndex = 0;
  #usedIndex = 0;

  constructor(options: QueueOptions) {
    this.#options = options;
    this.sizeMax = options.sizeMax;
  }

  /** Back to the state after a device reset. */
  reset(): void {
    Object.assign(this, { size: 0, ready: false, descGpa: 0, driverGpa: 0, deviceGpa: 0 });
    this.#broken = false;
    this.#availIndex = 0;
    this.#usedIndex = 0;
  }

  /** The next chain of the driver; `undefined` when there is none. `spend` is called for every descriptor read. */
  take(spend: () => void = () => undefined): Chain | undefined {
    if (!this.ready || this.#broken) return undefined;
    const index = this.#read16(this.driverGpa + 2);
    if (index === undefined) return this.#break();
    const waiting = (index - this.#availIndex) & 0xffff;
    if (waiting > this.size) return this.#break();
    if (waiting === 0) return undefined;
    const head = this.#read16(this.driverGpa + 4 + 2 * (this.#availIndex % this.size));
    const chain = head === undefined ? undefined : this.#follow(head, spend);
    if (chain === undefined) return this.#break();
    this.#availIndex = (this.#availIndex + 1) & 0xffff;
    return chain;
  }

  /** Gives a chain back with `answer` at the start of its writable part; empty: nothing is written. Answers whether the driver wants an interrupt. */
  give(chain: Chain, answer: Uint8Array): boolean {
    if (!this.ready || this.#broken) return false;
    let at = 0;
    for (const { gpa, byteLength } of chain.writable) {
      const part = answer.subarray(at, at + byteLength);
      if (part.length > 0 && !this.#options.memory.write(gpa, part)) return this.#break() ?? false;
      at += part.length;
    }
    this.#view.setUint32(0, chain.head, true);
    this.#view.setUint32(4, answer.length, true);
    const element = this.deviceGpa + 4 + 8 * (this.#usedIndex % this.size);
    this.#usedIndex = (this.#usedIndex + 1) & 0xffff;
    const stored =
      this.#options.memory.write(element, this.#word) && this.#write16(this.deviceGpa + 2, this.#usedIndex);
    const flags = stored ? this.#read16(this.driverGpa) : undefined;
    if (flags === undefined) return this.#break() ?? false;
    return (flags & NO_INTERRUPT) === 0;
  }

  /** Follows links from a head, through at most one indirect table; `undefined` if they break a rule. */
  #follow(head: number, spend: () => void): Chain | undefined {
    const { memory, readLimit } = this.#options;
    const parts: Uint8Array[] = [];
    const writable: Piece[] = [];
    let readableLength = 0;
    let kept = 0;
    let writableLength = 0;
    let table = { gpa: this.descGpa, size: this.size, indirect: false };
    let next = head;
    for (let steps = 0; ; steps++) {
      spend();
      const bytes = new Uint8Array(Descriptor.byteLength);
      if (steps > table.size || next >= table.size) return undefined;
      if (!memory.read(table.gpa + next * Descriptor.byteLength, bytes)) return undefined;
      const { gpa, byteLength, flags, link } = decode(bytes);
      if ((flags & Descriptor.INDIRECT) !== 0) {
        const size = byteLength / Descriptor.byteLength;
        // §2.7.5.3.1: not both, not within another, not empty, not longer than the queue.
        const wrong = table.indirect || (flags & Descriptor.NEXT) !== 0 || steps > 0;
        if (wrong || !Number.isInteger(size) || size < 1 || size > this.size) return undefined;
        table = { gpa, size, indirect: true };
        next = 0;
        continue;
      }
      if ((flags & Descriptor.WRITE) !== 0) {
        writable.push({ gpa, byteLength });
        writableLength += byteLength;
      } else {
        // §2.7.4.2: what the device writes comes last.
        if (writable.length > 0) return undefined;
        const part = new Uint8Array(Math.min(byteLength, readLimit - kept));
        if (part.length > 0 && !memory.read(gpa, part)) return undefined;
        parts.push(part);
        kept += part.length;
        readableLength += byteLength;
      }
      if ((flags & Descriptor.NEXT) === 0) break;
      next = link;
    }
    const readable = new Uint8Array(kept);
    let at = 0;
    for (const part of parts) {
      readable.set(part, at);
      at += part.length;
    }
    return { head, readable, readableLength, writable, writableLength };
  }

  #break(): undefined {
    if (this.#broken) return;
    this.#broken = true;
    this.#options.onBroken();
  }

  #read16(gpa: number): number | undefined {
    const two = this.#word.subarray(0, 2);
    return this.#options.memory.read(gpa, two) ? this.#view.getUint16(0, true) : undefined;
  }

  #write16(gpa: number, value: number): boolean {
    this.#view.setUint16(0, value, true);
    return this.#options.memory.write(gpa, this.#word.subarray(0, 2));
  }
}

/** A descriptor (§2.7.5). Addresses beyond 2^53 are no memory anywhere, so rounding them does no harm. */
function decode(bytes: Uint8Array): { gpa: number; byteLength: number; flags: number; link: number } {
  const view = new DataView(bytes.buffer);
  return {
    gpa: view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32,
    byteLength: view.getUint32(8, true),
    flags: view.getUint16(12, true),
    link: view.getUint16(14, true),
  };
}

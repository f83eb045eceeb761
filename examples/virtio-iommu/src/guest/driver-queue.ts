/**
 * The driver's side of a split virtqueue (virtio 1.3, §2.7): places buffers, kicks, and takes back what was used.
 */

import type { GuestMemory } from "@iommu-kit/iommu-core";
import type { MmioTransport } from "../mmio-transport.js";
import { Descriptor, Register } from "../spec/virtio.js";

/** How a request is laid out: the device must not care (§2.7.4). */
export interface Shape {
  /** Descriptors for each part, at least one. Default 1. */
  readonly pieces?: number;
  /** Whether they lie in a table of their own. Default false. */
  readonly indirect?: boolean;
}

/** A buffer that the device has used. */
export interface UsedBuffer {
  readonly head: number;
  /** Bytes that the device says it wrote. */
  readonly length: number;
  /** The writable part. */
  readonly bytes: Uint8Array;
}

interface Placed {
  readonly descriptors: readonly number[];
  readonly gpa: number;
  readonly byteLength: number;
}

/** Bytes of a queue's rings and buffers in guest memory. */
export const QUEUE_BYTES = 0x20000;
const BUFFER_BYTES = 1024;
/** Behind the three rings. */
const BUFFERS = 0x8000;

/** See the file's header. Lies in `QUEUE_BYTES` of zeroed guest memory. */
export class DriverQueue {
  readonly size: number;
  readonly #memory: GuestMemory;
  readonly #mmio: MmioTransport;
  readonly #index: number;
  readonly #gpa: number;
  readonly #free: number[] = [];
  readonly #placed = new Map<number, Placed>();
  #availIndex = 0;
  #usedIndex = 0;

  /** Tells the device where the queue lies, and makes it ready. */
  constructor(memory: GuestMemory, mmio: MmioTransport, index: number, gpa: number) {
    this.#memory = memory;
    this.#mmio = mmio;
    this.#index = index;
    this.#gpa = gpa;
    mmio.write(Register.QUEUE_SEL, 4, index);
    this.size = Math.min(64, mmio.read(Register.QUEUE_SIZE_MAX, 4));
    memory.write(gpa, new Uint8Array(QUEUE_BYTES));
    for (let head = this.size - 1; head >= 0; head--) this.#free.push(head);
    mmio.write(Register.QUEUE_SIZE, 4, this.size);
    mmio.write(Register.QUEUE_DESC, 4, gpa);
    mmio.write(Register.QUEUE_DRIVER, 4, this.#avail);
    mmio.write(Register.QUEUE_DEVICE, 4, this.#used);
    mmio.write(Register.QUEUE_READY, 4, 1);
  }

  get #avail(): number {
    return this.#gpa + 0x2000;
  }

  get #used(): number {
    return this.#gpa + 0x4000;
  }

  /** Places a request; answers its head. The device learns of it with the next `kick`. */
  place(readable: Uint8Array, writableLength: number, { pieces = 1, indirect = false }: Shape = {}): number {
    const head = this.#take();
    const buffer = this.#gpa + BUFFERS + head * BUFFER_BYTES;
    this.#memory.write(buffer, readable);
    const writable = buffer + Math.ceil(readable.length / 4) * 4;
    const parts = [
      ...cut(buffer, readable.length, pieces).map((part) => ({ ...part, flags: 0 })),
      ...cut(writable, writableLength, pieces).map((part) => ({ ...part, flags: Descriptor.WRITE })),
    ];
    const more = indirect ? [] : parts.slice(1).map(() => this.#take());
    const table = indirect ? buffer + BUFFER_BYTES / 2 : this.#gpa;
    const indexes = indirect ? parts.map((_part, i) => i) : [head, ...more];
    for (const [i, part] of parts.entries()) {
      const next = indexes[i + 1];
      const flags = part.flags | (next === undefined ? 0 : Descriptor.NEXT);
      this.#describe(table + (indexes[i] ?? 0) * Descriptor.byteLength, { ...part, flags, next: next ?? 0 });
    }
    if (indirect) {
      const byteLength = parts.length * Descriptor.byteLength;
      const own = this.#gpa + head * Descriptor.byteLength;
      this.#describe(own, { gpa: table, byteLength, flags: Descriptor.INDIRECT, next: 0 });
    }
    this.#placed.set(head, { descriptors: [head, ...more], gpa: writable, byteLength: writableLength });
    this.#write16(this.#avail + 4 + 2 * (this.#availIndex % this.size), head);
    this.#availIndex += 1;
    return head;
  }

  /** Hands over what was placed, and notifies the device. */
  kick(): void {
    this.#write16(this.#avail + 2, this.#availIndex);
    this.#mmio.write(Register.QUEUE_NOTIFY, 4, this.#index);
  }

  /** Takes back the next buffer that the device has used. */
  take(): UsedBuffer | undefined {
    const index = new Uint8Array(2);
    this.#memory.read(this.#used + 2, index);
    if (new DataView(index.buffer).getUint16(0, true) === (this.#usedIndex & 0xffff)) return undefined;
    const element = new Uint8Array(8);
    this.#memory.read(this.#used + 4 + 8 * (this.#usedIndex % this.size), element);
    const view = new DataView(element.buffer);
    const head = view.getUint32(0, true);
    const placed = this.#placed.get(head);
    if (placed === undefined) throw new Error(`the device used buffer ${head}, which it was not given`);
    this.#usedIndex += 1;
    this.#placed.delete(head);
    this.#free.push(...placed.descriptors);
    const bytes = new Uint8Array(placed.byteLength);
    this.#memory.read(placed.gpa, bytes);
    return { head, length: view.getUint32(4, true), bytes };
  }

  #take(): number {
    const free = this.#free.pop();
    if (free === undefined) throw new Error("expected a free descriptor, all are with the device");
    return free;
  }

  #describe(
    at: number,
    part: { readonly gpa: number; readonly byteLength: number; readonly flags: number; readonly next: number },
  ): void {
    const view = new DataView(new ArrayBuffer(Descriptor.byteLength));
    view.setUint32(0, part.gpa, true);
    view.setUint32(8, part.byteLength, true);
    view.setUint16(12, part.flags, true);
    view.setUint16(14, part.next, true);
    this.#memory.write(at, new Uint8Array(view.buffer));
  }

  #write16(gpa: number, value: number): void {
    this.#memory.write(gpa, Uint8Array.of(value & 0xff, (value >> 8) & 0xff));
  }
}

/** Cuts a buffer into at most so many pieces; nothing for an empty one. */
function cut(gpa: number, byteLength: number, pieces: number): { gpa: number; byteLength: number }[] {
  const step = Math.max(1, Math.ceil(byteLength / pieces));
  const parts = [];
  for (let at = 0; at < byteLength; at += step)
    parts.push({ gpa: gpa + at, byteLength: Math.min(step, byteLength - at) });
  return parts;
}

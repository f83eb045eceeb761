/**
 * DMA of v86's own devices through their address spaces.
 *
 * Such a device reaches memory through its `cpu` field. `translatedCpu` makes a stand-in for that field: everything of the real processor, except that
 * memory accesses take IOVAs and go through a DMA port. Refused writes vanish. What a refused read gives is chosen so that v86's device comes to an
 * end: its IDE controller follows a list whose last entry has a bit set, and would never end on zeros; its virtio queues follow a chain that goes on
 * while a bit is set, and would never end on ones.
 */

import type { SourceId } from "@iommu-kit/iommu-core";
import type { V86Cpu, V86DmaUser } from "./v86-internals.js";

/** What a device needs of memory: satisfied by `AddressSpace.dma`, and by guest memory itself. `false`: refused. */
export interface DeviceMemory {
  read(address: number, into: Uint8Array): boolean;
  write(address: number, from: Uint8Array): boolean;
}

/** Hears of every DMA before it is made: who, the first byte's IOVA, and how many bytes. */
export type DmaObserver = (sourceId: SourceId, address: number, byteLength: number) => void;

/** `memory` with an observer in front of it. */
export function observed(memory: DeviceMemory, sourceId: SourceId, observer: DmaObserver): DeviceMemory {
  return {
    read: (address, into) => {
      observer(sourceId, address, into.length);
      return memory.read(address, into);
    },
    write: (address, from) => {
      observer(sourceId, address, from.length);
      return memory.write(address, from);
    },
  };
}

/** Counts of one device, for people. */
export interface DmaCounters {
  reads: number;
  writes: number;
  bytesRead: number;
  bytesWritten: number;
  refused: number;
}

const NOTHING = new Uint8Array(0);

/** A stand-in for `cpu` that reaches memory through `memory`; `counters` are counted up. Refused reads are filled with `refusedByte`. */
export function translatedCpu(
  cpu: V86Cpu,
  memory: DeviceMemory,
  counters: DmaCounters,
  refusedByte: 0x00 | 0xff,
): V86Cpu {
  const small = new Uint8Array(4);
  const view = new DataView(small.buffer);
  const pieces = [0, 1, 2, 3, 4].map((length) => small.subarray(0, length));

  const read = (address: number, into: Uint8Array): boolean => {
    counters.reads += 1;
    counters.bytesRead += into.length;
    if (memory.read(address >>> 0, into)) return true;
    counters.refused += 1;
    into.fill(refusedByte);
    return false;
  };
  const write = (address: number, from: Uint8Array): void => {
    counters.writes += 1;
    counters.bytesWritten += from.length;
    if (!memory.write(address >>> 0, from)) counters.refused += 1;
  };
  const piece = (length: number): Uint8Array => pieces[length] ?? NOTHING;
  /** A refused range has no bytes at all: the length in a made-up descriptor could make the device overrun its own buffer. */
  const readRange = (address: number, length: number): Uint8Array => {
    const bytes = new Uint8Array(length);
    return read(address, bytes) ? bytes : NOTHING;
  };

  // Small accesses pass through four bytes of scratch.
  const read8 = (address: number): number => {
    read(address, piece(1));
    return view.getUint8(0);
  };
  const read16 = (address: number): number => {
    read(address, piece(2));
    return view.getUint16(0, true);
  };
  const read32s = (address: number): number => {
    read(address, piece(4));
    return view.getInt32(0, true);
  };
  const write8 = (address: number, value: number): void => {
    view.setUint8(0, value);
    write(address, piece(1));
  };
  const write16 = (address: number, value: number): void => {
    view.setUint16(0, value, true);
    write(address, piece(2));
  };
  const write32 = (address: number, value: number): void => {
    view.setInt32(0, value, true);
    write(address, piece(4));
  };
  const overrides: Partial<V86Cpu> = {
    ...{ read8, read16, read32s, write8, write16, write32 },
    read_blob: readRange,
    write_blob: (bytes, address) => write(address, bytes),
    mem8: { byteOffset: 0, length: 0, subarray: (begin, end) => readRange(begin, end - begin) },
  };
  const descriptors = Object.entries(overrides).map(([name, value]) => [name, { value }] as const);
  return Object.create(cpu, Object.fromEntries(descriptors)) as V86Cpu;
}

/** Puts `users` behind `cpu`. Answers how to put them back. */
export function redirect(users: readonly V86DmaUser[], cpu: V86Cpu): () => void {
  const before = users.map((user) => user.cpu);
  for (const user of users) user.cpu = cpu;
  return () => {
    users.forEach((user, index) => {
      const original = before[index];
      if (original !== undefined) user.cpu = original;
    });
  };
}

/** Counters at zero. */
export function newCounters(): DmaCounters {
  return { reads: 0, writes: 0, bytesRead: 0, bytesWritten: 0, refused: 0 };
}

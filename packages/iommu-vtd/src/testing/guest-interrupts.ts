/**
 * The interrupt remapping table of a test guest (§9.9, §9.10) and the messages that use it (§5.1.2).
 */

import type { MsiMessage } from "@iommu-kit/iommu-core";
import type { FakeMemory } from "@iommu-kit/iommu-core/testing";
import { MESSAGE_WINDOW, RemappableAddress } from "../spec/interrupt.js";
import { PostedDescriptor, PostedEntry, RemappedEntry } from "../spec/interrupt-entry.js";
import { type FrameAllocator, pokeWords } from "./frame-allocator.js";
import { wordAt } from "../spec/word.js";

/** Fields of an interrupt entry with IM = 0. */
export type RemappedFields = Parameters<typeof RemappedEntry.pack>[0];
/** Fields of an interrupt entry with IM = 1. */
export type PostedFields = Parameters<typeof PostedEntry.pack>[0];
/** Fields of a posted-interrupt descriptor. */
export type DescriptorFields = Parameters<typeof PostedDescriptor.pack>[0];

/** Writes and edits interrupt entries by their index. The unit is not told: invalidate, or it may use what it has cached. */
export class GuestInterrupts {
  /** First frame of the table: 65,536 entries. */
  readonly tablePfn: number;
  readonly #memory: FakeMemory;
  readonly #frames: FrameAllocator;

  constructor(memory: FakeMemory, frames: FrameAllocator) {
    this.#memory = memory;
    this.#frames = frames;
    this.tablePfn = frames.reserve(256);
  }

  /** Byte address of an entry. */
  entryGpa(index: number): number {
    return this.tablePfn * 4096 + index * 16;
  }

  /** Writes an entry with IM = 0. Without EIME, `DST` holds the APIC id in its bits 15:8. */
  remapped(index: number, fields: RemappedFields): void {
    pokeWords(this.#memory, this.entryGpa(index), RemappedEntry.pack({ P: 1, ...fields }));
  }

  /** Writes an entry with IM = 1 for a descriptor at a byte address (a multiple of 64). */
  posted(index: number, descriptorGpa: number, fields: PostedFields): void {
    const words = PostedEntry.pack({
      P: 1,
      IM: 1,
      PDA_LO: (descriptorGpa % 2 ** 32) / 64,
      PDA_HI: Math.floor(descriptorGpa / 2 ** 32),
      ...fields,
    });
    pokeWords(this.#memory, this.entryGpa(index), words);
  }

  /** Writes a posted-interrupt descriptor in a frame of its own; answers its byte address. */
  postedDescriptor(fields: DescriptorFields): number {
    const gpa = this.#frames.take() * 4096;
    pokeWords(this.#memory, gpa, PostedDescriptor.pack(fields));
    return gpa;
  }

  /** Clears an entry. */
  clear(index: number): void {
    pokeWords(this.#memory, this.entryGpa(index), new Int32Array(4));
  }
}

/** A message in remappable format. `subhandle` makes it SHV = 1. */
export function remappableMessage(handle: number, subhandle?: number): MsiMessage {
  const address = RemappableAddress.pack({
    WINDOW: MESSAGE_WINDOW,
    FORMAT: 1,
    HANDLE_LO: handle % 2 ** 15,
    HANDLE_HI: Math.floor(handle / 2 ** 15),
    SHV: subhandle === undefined ? 0 : 1,
  });
  return { address: wordAt(address, 0) >>> 0, addressHigh: 0, data: subhandle ?? 0 };
}

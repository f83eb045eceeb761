/**
 * Guest RAM in shared memory, as both sides reach it: one contiguous range of frames.
 */

import { PAGE_BYTES } from "@iommu-kit/iommu-core";

/** See the file's header. The host may use any memory of its own on the same buffer. */
export class SharedRam {
  readonly #bytes: Uint8Array;
  readonly #firstGpa: number;

  /** @param firstPfn Frame of the buffer's first byte. */
  constructor(buffer: SharedArrayBuffer, firstPfn = 0) {
    this.#bytes = new Uint8Array(buffer);
    this.#firstGpa = firstPfn * PAGE_BYTES;
  }

  /** Copies out. `false` if any byte is not RAM. */
  read(gpa: number, into: Uint8Array): boolean {
    const at = this.#at(gpa, into.length);
    if (at < 0) return false;
    into.set(this.#bytes.subarray(at, at + into.length));
    return true;
  }

  /** Copies in. `false`, with nothing written, if any byte is not RAM. */
  write(gpa: number, from: Uint8Array): boolean {
    const at = this.#at(gpa, from.length);
    if (at < 0) return false;
    this.#bytes.set(from, at);
    return true;
  }

  #at(gpa: number, byteLength: number): number {
    const at = gpa - this.#firstGpa;
    return at >= 0 && at + byteLength <= this.#bytes.length ? at : -1;
  }
}

/**
 * Reads bytes of guest memory, straight from RAM where the host shows it (`GuestMemory.window`).
 *
 * Writes never go this way: a host may have to know of them (compiled guest code, dirty pages).
 */

import { PAGE_BYTES } from "../address.js";
import type { GuestMemory, RamWindow } from "../ports.js";

/** A reader that keeps the window used last. */
export class RamReader {
  readonly #memory: GuestMemory;
  #window: RamWindow | undefined;
  /** The same bytes as `#words`, the words of the window when it was found. */
  #words: Int32Array | undefined;
  #bytes: Uint8Array = new Uint8Array(0);
  #firstGpa = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Copies `byteLength` bytes from `gpa` on to offset `at` of `into`. `false` if any byte is not RAM. */
  read(gpa: number, into: Uint8Array, at: number, byteLength: number): boolean {
    if (!this.#shows(gpa, byteLength) && !this.#seek(gpa, byteLength)) {
      return this.#memory.read(gpa, byteLength === into.length ? into : into.subarray(at, at + byteLength));
    }
    const first = gpa - this.#firstGpa;
    into.set(this.#bytes.subarray(first, first + byteLength), at);
    return true;
  }

  /** Whether the window holds all of these bytes, and is still valid. */
  #shows(gpa: number, byteLength: number): boolean {
    const first = gpa - this.#firstGpa;
    return first >= 0 && first + byteLength <= this.#bytes.length && this.#window?.words === this.#words;
  }

  #seek(gpa: number, byteLength: number): boolean {
    const window = this.#memory.window?.(Math.floor(gpa / PAGE_BYTES));
    if (window === undefined) return false;
    const { words, firstPfn } = window;
    this.#window = window;
    this.#words = words;
    this.#bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
    this.#firstGpa = firstPfn * PAGE_BYTES;
    return this.#shows(gpa, byteLength);
  }
}

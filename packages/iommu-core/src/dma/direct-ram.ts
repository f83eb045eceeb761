/**
 * Bytes of guest memory, straight in RAM where the host shows it (`GuestMemory.window`).
 *
 * Reads go this way wherever there is a window. Writes do only while the host says that nobody has to know of them (`GuestMemory.directWrites`): compiled guest code and logs
 * of dirty pages depend on `write`.
 */

import { PAGE_BYTES } from "../address.js";
import type { GuestMemory, RamWindow } from "../ports.js";

/** Reads and writes, with the window used last at hand. */
export class DirectRam {
  readonly #memory: GuestMemory;
  #window: RamWindow | undefined;
  /** The words of the window when it was found, and the same bytes: other words in the window, and these are no longer RAM. */
  #words: Int32Array | undefined;
  #bytes: Uint8Array = new Uint8Array(0);
  // Kept beside it: to ask a typed array for its buffer is a call out of compiled code (bench dma).
  #buffer: ArrayBufferLike = this.#bytes.buffer;
  #firstGpa = 0;
  #byteOffset = 0;
  /** The host counts changes (`generation`): its windows are not written. */
  #counted = false;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Copies `byteLength` bytes from `gpa` on to offset `at` of `into`. `false` if any byte is not RAM. */
  read(gpa: number, into: Uint8Array, at: number, byteLength: number): boolean {
    if (this.readShown(gpa, into, at, byteLength)) return true;
    if (this.#seek(gpa, byteLength)) return this.readShown(gpa, into, at, byteLength);
    return this.#memory.read(gpa, byteLength === into.length ? into : into.subarray(at, at + byteLength));
  }

  /** The same, if the window used last holds all of the bytes. `false`: it does not, and nothing happened. */
  readShown(gpa: number, into: Uint8Array, at: number, byteLength: number): boolean {
    if (!this.#shows(gpa, byteLength)) return false;
    into.set(new Uint8Array(this.#buffer, gpa - this.#firstGpa + this.#byteOffset, byteLength), at);
    return true;
  }

  /** Copies `from` to `gpa`. `false` if any byte is not RAM; bytes before it may have been written. */
  write(gpa: number, from: Uint8Array): boolean {
    if (this.writeShown(gpa, from)) return true;
    if (this.#memory.directWrites === true && this.#seek(gpa, from.length) && this.writeShown(gpa, from)) return true;
    return this.#memory.write(gpa, from);
  }

  /** The same, if the window used last holds all of the bytes and may be written. `false`: nothing happened. */
  writeShown(gpa: number, from: Uint8Array): boolean {
    if (this.#memory.directWrites !== true || this.#counted || !this.#shows(gpa, from.length)) return false;
    this.#bytes.set(from, gpa - this.#firstGpa);
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
    this.#counted = this.#memory.generation !== undefined;
    this.#words = words;
    this.#buffer = words.buffer;
    this.#byteOffset = words.byteOffset;
    this.#bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
    this.#firstGpa = firstPfn * PAGE_BYTES;
    return this.#shows(gpa, byteLength);
  }
}

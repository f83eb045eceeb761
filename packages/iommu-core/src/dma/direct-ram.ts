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
  /** The same bytes as `#words`, the words of the window when it was found. */
  #words: Int32Array | undefined;
  #bytes: Uint8Array = new Uint8Array(0);
  #firstGpa = 0;
  /** The host counts changes (`generation`): its windows are not written. */
  #counted = false;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
  }

  /** Copies `byteLength` bytes from `gpa` on to offset `at` of `into`. `false` if any byte is not RAM. */
  read(gpa: number, into: Uint8Array, at: number, byteLength: number): boolean {
    if (!this.#shows(gpa, byteLength) && !this.#seek(gpa, byteLength))
      return this.#memory.read(gpa, part(into, at, byteLength));
    into.set(view(this.#bytes, gpa - this.#firstGpa, byteLength), at);
    return true;
  }

  /** Copies `byteLength` bytes at offset `at` of `from` to `gpa`. `false` if any byte is not RAM; bytes before it may have been written. */
  write(gpa: number, from: Uint8Array, at: number, byteLength: number): boolean {
    const bytes = part(from, at, byteLength);
    const memory = this.#memory;
    const direct = memory.directWrites === true && (this.#shows(gpa, byteLength) || this.#seek(gpa, byteLength));
    if (!direct || this.#counted) return memory.write(gpa, bytes);
    this.#bytes.set(bytes, gpa - this.#firstGpa);
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
    this.#bytes = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
    this.#firstGpa = firstPfn * PAGE_BYTES;
    return this.#shows(gpa, byteLength);
  }
}

function part(bytes: Uint8Array, at: number, byteLength: number): Uint8Array {
  return byteLength === bytes.length ? bytes : view(bytes, at, byteLength);
}

/** As `subarray`, which takes twice the time: it has to ask for the class of its result. */
function view(bytes: Uint8Array, at: number, byteLength: number): Uint8Array {
  return new Uint8Array(bytes.buffer, bytes.byteOffset + at, byteLength);
}

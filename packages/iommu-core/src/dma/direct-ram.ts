/**
 * Bytes of guest memory, straight in RAM where the host shows it (`GuestMemory.window`).
 *
 * Reads go this way wherever there is a window. Writes do only while the host says that nobody has to know of them (`GuestMemory.directWrites`): compiled guest code and logs
 * of dirty pages depend on `write`.
 */

import { Access } from "../access.js";
import type { KnownPages } from "./known-pages.js";
import type { GuestMemory, RamWindow } from "../ports.js";

// A constant of this module: engines do not fold an imported one into arithmetic (bench dma).
const PAGE_BYTES = 4096;

/** Reads and writes, with the window used last at hand. */
export class DirectRam {
  readonly #memory: GuestMemory;
  readonly #known: KnownPages | undefined;
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

  constructor(memory: GuestMemory, known?: KnownPages) {
    this.#memory = memory;
    this.#known = known;
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

  /**
   * Copies to or from pages that are known, `offset` bytes behind the start of the first, in order, up to the first page that is not known, is part of a larger block, or
   * lies outside the window used last; answers how many bytes: all, or up to the end of a page. No code of others runs meanwhile, so what they might change is asked once and
   * not for each page (bench dma).
   */
  copyKnown(stamp: number, pfn: number, offset: number, bytes: Uint8Array, access: Access): number {
    const known = this.#known;
    const toRam = access === Access.write;
    if (known === undefined || this.#window?.words !== this.#words) return 0;
    if (toRam && (this.#memory.directWrites !== true || this.#counted)) return 0;
    const ram = this.#bytes;
    const firstGpa = this.#firstGpa;
    const lastPage = ram.length - PAGE_BYTES;
    const { buffer, byteOffset } = toRam ? bytes : ram;
    let at = 0;
    while (at < bytes.length) {
      const record = known.find(pfn, stamp);
      if (record < 0 || known.blockOf(record) !== 1) break;
      const page = known.gpaOf(record) - firstGpa;
      if (page < 0 || page > lastPage) break;
      const byteLength = Math.min(PAGE_BYTES - offset, bytes.length - at);
      if (toRam) ram.set(new Uint8Array(buffer, byteOffset + at, byteLength), page + offset);
      else bytes.set(new Uint8Array(buffer, byteOffset + page + offset, byteLength), at);
      at += byteLength;
      pfn += 1;
      offset = 0;
    }
    return at;
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

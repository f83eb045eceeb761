/**
 * Guest memory in array buffers: what most emulators have.
 *
 * Shared buffers work too, so a second thread may run the guest: words are then read and written with atomics, and table entries whole. Hosts are assumed to be
 * little-endian, as every host of JavaScript is.
 */

import { PAGE_BYTES } from "./address.js";
import { checkGiven, IommuError } from "./errors.js";
import type { GuestMemory, RamWindow } from "./ports.js";
import { checkRange, type FrameRange } from "./range.js";
import { sharedEntries } from "./shared-entries.js";

/** A region of RAM: `bytes` hold it from frame `firstPfn` on. A whole number of pages, at an offset in its buffer that is a multiple of 8. */
export interface RamRegion {
  /** The guest-physical frame that it begins with. */
  readonly firstPfn: number;
  /** The RAM itself, not copied: whole pages. */
  readonly bytes: Uint8Array;
}

/** How a `BufferMemory` may be used. */
export interface BufferMemoryOptions {
  /** See `BufferMemory.directWrites`. Default `false`. */
  readonly directWrites?: boolean;
}

interface Region extends RamWindow {
  readonly bytes: Uint8Array;
  readonly firstGpa: number;
  /** Of shared buffers. */
  readonly entries: BigInt64Array | undefined;
}

/**
 * `GuestMemory` over buffers that the host owns. Nothing is copied. The buffers stay: if one is detached, as that of unshared WebAssembly memory is when it grows, every use of
 * its region throws `IommuError` `bad-range`.
 */
export class BufferMemory implements GuestMemory {
  /** The regions given, as frames. */
  readonly ram: readonly FrameRange[];
  /**
   * Devices write straight into the buffers, past `write`: a 512-byte write takes half the time. Leave it `false` while somebody has to see the writes: an own `write` in a
   * class that extends this one, compiled guest code, a log of dirty pages. May be changed at any time.
   */
  directWrites: boolean;
  readonly #regions: readonly Region[];
  /** An entry on its way from shared memory to words. */
  readonly #whole = new BigInt64Array(1);
  readonly #halves = new Int32Array(this.#whole.buffer);
  #last: Region | undefined;

  /** @throws {IommuError} `bad-range` for regions that overlap, are not ascending, or are not whole aligned pages; `bad-option` where none are given. */
  constructor(regions: readonly RamRegion[], options: BufferMemoryOptions = {}) {
    checkGiven(regions, "BufferMemory", "new BufferMemory([{ firstPfn: 0, bytes }])");
    this.directWrites = options.directWrites ?? false;
    let end = 0;
    this.#regions = regions.map(({ firstPfn, bytes }) => {
      checkBytes(bytes);
      const pageCount = bytes.byteLength / PAGE_BYTES;
      checkRange({ firstPfn, pageCount }, "BufferMemory");
      if (firstPfn < end || bytes.byteOffset % 8 !== 0) {
        throw new IommuError(
          "bad-range",
          `expected ascending, disjoint, 8-byte aligned regions, got one at frame ${firstPfn}`,
          {
            hint: "sort the regions, and give each buffer of its own or an aligned part of one",
          },
        );
      }
      end = firstPfn + pageCount;
      const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
      return { firstPfn, pageCount, words, bytes, firstGpa: firstPfn * PAGE_BYTES, entries: sharedEntries(words) };
    });
    this.ram = this.#regions.map(({ firstPfn, pageCount }) => ({ firstPfn, pageCount }));
  }

  /** Copies bytes out. `false`, and `into` as it was, unless one region holds all of them. */
  read(gpa: number, into: Uint8Array): boolean {
    const region = this.#find(gpa, into.length);
    if (region === undefined) return false;
    const at = gpa - region.firstGpa;
    into.set(region.bytes.subarray(at, at + into.length));
    return true;
  }

  /** Copies bytes in. `false`, and nothing written, unless one region holds all of them. */
  write(gpa: number, from: Uint8Array): boolean {
    const region = this.#find(gpa, from.length);
    if (region === undefined) return false;
    region.bytes.set(from, gpa - region.firstGpa);
    return true;
  }

  /** Reads words: pairs of them at a multiple of 8 bytes as one access, others one by one; `gpa` is a multiple of 4. `false` unless one region holds all of them. */
  fetch(gpa: number, into: Int32Array): boolean {
    const region = this.#find(gpa, into.length * 4);
    if (region === undefined) return false;
    const at = (gpa - region.firstGpa) / 4;
    if (region.entries !== undefined && at % 2 === 0 && into.length % 2 === 0) {
      this.#fetchEntries(region.entries, at / 2, into);
    } else {
      for (let i = 0; i < into.length; i++) into[i] = Atomics.load(region.words, at + i);
    }
    return true;
  }

  /** Writes a word as one access; `gpa` is a multiple of 4. `false` where there is no region. */
  writeWord(gpa: number, word: number): boolean {
    const region = this.#find(gpa, 4);
    if (region === undefined) return false;
    Atomics.store(region.words, (gpa - region.firstGpa) / 4, word);
    return true;
  }

  /** Replaces a word as one access if it still is `expected`; `gpa` is a multiple of 4. `false` if it is not, or where there is no region. */
  compareExchange(gpa: number, expected: number, replacement: number): boolean {
    const region = this.#find(gpa, 4);
    if (region === undefined) return false;
    return Atomics.compareExchange(region.words, (gpa - region.firstGpa) / 4, expected, replacement) === (expected | 0);
  }

  /** The region that holds this frame, for as long as the memory lives. */
  window(pfn: number): RamWindow | undefined {
    return this.#find(pfn * PAGE_BYTES, PAGE_BYTES);
  }

  #fetchEntries(entries: BigInt64Array, first: number, into: Int32Array): void {
    for (let i = 0; i < into.length; i += 2) {
      this.#whole[0] = Atomics.load(entries, first + i / 2);
      into[i] = this.#halves[0] ?? 0;
      into[i + 1] = this.#halves[1] ?? 0;
    }
  }

  /** The region that holds all of these bytes. Regions are few: the last one first, then all in order. */
  #find(gpa: number, byteLength: number): Region | undefined {
    const last = this.#last;
    if (last !== undefined && holds(last, gpa, byteLength)) return last;
    for (const region of this.#regions) {
      if (!holds(region, gpa, byteLength)) continue;
      this.#last = region;
      return region;
    }
    for (const { bytes, firstGpa, firstPfn, pageCount } of this.#regions) {
      const concerned = gpa < firstGpa + pageCount * PAGE_BYTES && gpa + byteLength > firstGpa;
      if (concerned && bytes.byteLength === 0) throw detached(firstPfn);
    }
    return undefined;
  }
}

function holds(region: Region, gpa: number, byteLength: number): boolean {
  return gpa >= region.firstGpa && gpa + byteLength <= region.firstGpa + region.bytes.byteLength;
}

/** Refusing every access would look like a guest's mistake. */
function detached(firstPfn: number): IommuError {
  return new IommuError(
    "bad-range",
    `BufferMemory: expected the buffer of the region at frame ${firstPfn}, got one that is detached`,
    {
      hint: "WebAssembly memory that grows leaves its buffer: make it shared or as large as it gets, or make a GuestMemory that looks at memory.buffer each time",
    },
  );
}

function checkBytes(bytes: Uint8Array): void {
  if (!ArrayBuffer.isView(bytes)) {
    throw new IommuError(
      "bad-range",
      "BufferMemory: expected a Uint8Array for the bytes of a region, got something else",
      {
        hint: "make one of an ArrayBuffer: new Uint8Array(buffer)",
      },
    );
  }
  if (bytes.byteLength % PAGE_BYTES === 0) return;
  throw new IommuError(
    "bad-range",
    `BufferMemory: expected a multiple of ${PAGE_BYTES} bytes, got ${bytes.byteLength}`,
    {
      hint: "give whole pages of 4 KiB",
    },
  );
}

/**
 * What a device behind the unit holds instead of guest memory: the same shape, addresses are IOVAs.
 *
 * A request is split at page boundaries and each page is checked on its own, so a refused request may have transferred the pages before the refusal.
 */

import { Access } from "../access.js";
import { type ByteAddress, FRAME_LIMIT, offsetInPage, pfnOf } from "../address.js";
import { IommuError } from "../errors.js";
import type { MessageWindow, Requester } from "../backend.js";
import type { KnownPages } from "./known-pages.js";
import type { Lease, LeaseTable, Segment, WriteObserver } from "./lease.js";
import type { GuestMemory } from "../ports.js";
import { DirectRam } from "./direct-ram.js";
import { Translation } from "../translation.js";

/** One piece of a scatter list. */
export interface ScatterPiece {
  /** Where the piece lies, in bytes. */
  readonly iova: ByteAddress;
  /** Filled by a read, sent by a write. */
  readonly bytes: Uint8Array;
}

/** Why the last transfer of a port ended early. Overwritten by the next one that does. */
export interface DmaFailure {
  /** Input page that was refused. */
  readonly iovaPfn: number;
  /** The fault reason, or 0: not the translation's fault; there is no memory at the target, or the request is none that memory takes. */
  readonly reason: number;
  /** The name of the failing check. */
  readonly cause: string;
}

/** @internal What a port asks of the address space that it belongs to. */
export interface PortSpace extends Requester {
  /** Translates one page, for a transfer at `address`. */
  request(iovaPfn: number, access: Access, out: Translation, address: ByteAddress | undefined): boolean;
  /** Somebody wants to know what is written. */
  readonly onWrite: WriteObserver | undefined;
  /** Up to `byteLength` bytes from the start of a page on were written. */
  wrote(iovaPfn: number, gpaPfn: number, byteLength: number): void;
}

/** @internal What a port works with. */
export interface PortParts {
  readonly memory: GuestMemory;
  readonly window: MessageWindow | undefined;
  readonly leases: LeaseTable;
  /** `undefined`: the backend is asked about every page. */
  readonly known: KnownPages | undefined;
}

// A constant of this module: engines do not fold an imported one into arithmetic (bench dma: 5 ns of a transfer).
const PAGE_BYTES = 4096;
const NO_MEMORY = "no memory at the target";

/** Memory as one device reaches it. */
export class DmaPort {
  readonly #space: PortSpace;
  readonly #memory: GuestMemory;
  readonly #ram: DirectRam;
  readonly #window: MessageWindow | undefined;
  // The window's first frame, and the first behind it: both at the end of the space where there is none.
  readonly #windowFirst: number;
  readonly #windowEnd: number;
  readonly #leases: LeaseTable;
  readonly #known: KnownPages | undefined;
  // Under which stamps this port's pages are known.
  #readStamp = 0;
  #writeStamp = 0;
  readonly #translation = new Translation();
  readonly #word = new Int32Array(1);
  #failure: DmaFailure | undefined;

  /** @internal Use `AddressSpace.dma`. */
  constructor(space: PortSpace, { memory, window, leases, known }: PortParts) {
    this.#space = space;
    this.#memory = memory;
    this.#ram = new DirectRam(memory, known);
    this.#window = window;
    this.#windowFirst = window?.range.firstPfn ?? FRAME_LIMIT;
    this.#windowEnd = this.#windowFirst + (window?.range.pageCount ?? 0);
    this.#leases = leases;
    this.#known = known;
  }

  /** Why the last transfer that was refused was refused. */
  get failure(): DmaFailure | undefined {
    return this.#failure;
  }

  /** Reads `into.length` bytes at `iova`. `false`: refused, see `failure`; `into` is then partly written. Length 0 is a zero-length read. */
  read(iova: ByteAddress, into: Uint8Array): boolean {
    if (into.length === 0) return this.#zeroLengthRead(iova);
    const gpa = this.#knownGpa(iova, into.length, this.#readStamp);
    return (gpa >= 0 && this.#ram.readShown(gpa, into, 0, into.length)) || this.#transfer(iova, into, Access.read);
  }

  /** Writes `from` at `iova`. `false`: refused, see `failure`; pages before the refused one have been written. */
  write(iova: ByteAddress, from: Uint8Array): boolean {
    const gpa = this.#knownGpa(iova, from.length, this.#writeStamp);
    if (gpa >= 0 && this.#space.onWrite === undefined && this.#ram.writeShown(gpa, from)) return true;
    return this.#transfer(iova, from, Access.write);
  }

  /** Reads the pieces in order, up to the first that is refused. */
  readScattered(pieces: readonly ScatterPiece[]): boolean {
    return pieces.every((piece) => this.read(piece.iova, piece.bytes));
  }

  /** Writes the pieces in order, up to the first that is refused. */
  writeScattered(pieces: readonly ScatterPiece[]): boolean {
    return pieces.every((piece) => this.write(piece.iova, piece.bytes));
  }

  /**
   * Atomically replaces the aligned 32-bit word at `iova` if it still is `expected`: an AtomicOp, which needs both rights. `false`: it is another word.
   * `undefined`: refused, see `failure`; so are words that are not aligned, that are no memory, and messages. Words are 32 bits, signed or unsigned.
   */
  compareExchange(iova: ByteAddress, expected: number, replacement: number): boolean | undefined {
    const pfn = pfnOf(iova);
    const translation = this.#translation;
    if (offsetInPage(iova) % 4 !== 0) return this.#nothing(pfn, "not aligned");
    if (this.#inWindow(pfn)) {
      // Whoever owns the window records what it refuses.
      const read = this.#message(pfn, iova, new Uint8Array(8), Access.readWrite);
      return read ? this.#nothing(pfn, "messages cannot be exchanged") : undefined;
    }
    if (!this.#space.request(pfn, Access.readWrite, translation, iova)) return this.#refused(pfn);
    const gpa = translation.gpaPfn * PAGE_BYTES + offsetInPage(iova);
    // Device models have words as they get them from a DataView, signed or not; to memory they are words of an Int32Array.
    const exchanged = this.#memory.compareExchange(gpa, expected | 0, replacement | 0);
    if (exchanged) this.#space.wrote(pfn, translation.gpaPfn, offsetInPage(iova) + 4);
    else if (!this.#memory.fetch(gpa, this.#word)) return this.#nothing(pfn, NO_MEMORY);
    return exchanged;
  }

  /**
   * Translates a whole buffer once, for zero-copy access. Contiguous pieces are joined. `undefined`: a page of it is refused, see `failure`.
   * The pieces may be touched until the lease is released or recalled; an invalidation of any page waits for that, up to the lease deadline.
   * @param byteLength 0 to 2^53 - 1; of 0 bytes the lease is empty.
   * @throws {IommuError} `bad-option` for another length, or for `Access.none`.
   */
  segments(iova: ByteAddress, byteLength: number, access: Access): Lease | undefined {
    checkLease(byteLength, access);
    const segments: Segment[] = [];
    const firstPfn = pfnOf(iova);
    let pfn = firstPfn;
    let offset = offsetInPage(iova);
    for (let left = byteLength; left > 0; pfn += 1, offset = 0) {
      if (this.#inWindow(pfn)) return this.#nothing(pfn, "messages cannot be leased");
      const address = pfn === firstPfn ? iova : undefined;
      if (!this.#space.request(pfn, access, this.#translation, address)) return this.#refused(pfn);
      const length = Math.min(left, PAGE_BYTES - offset);
      appendSegment(segments, this.#translation.gpaPfn * PAGE_BYTES + offset, length);
      left -= length;
    }
    return this.#leases.grant(segments, { firstPfn, pageCount: pfn - firstPfn }, access);
  }

  /** Where a transfer goes that lies in one page, if the page is known; else -1. Small, so that it becomes part of the loop of whoever makes many (bench dma). */
  #knownGpa(iova: ByteAddress, byteLength: number, stamp: number): number {
    const known = this.#known;
    if (known === undefined || typeof iova !== "number") return -1;
    const pfn = Math.floor(iova / PAGE_BYTES);
    const offset = iova - pfn * PAGE_BYTES;
    if (offset + byteLength > PAGE_BYTES) return -1;
    const record = known.find(pfn, stamp);
    return record < 0 ? -1 : known.gpaOf(record) + offset;
  }

  #zeroLengthRead(iova: ByteAddress): boolean {
    const pfn = pfnOf(iova);
    if (this.#inWindow(pfn)) return true;
    return this.#space.request(pfn, Access.none, this.#translation, iova) || this.#refused(pfn) !== undefined;
  }

  #transfer(iova: ByteAddress, bytes: Uint8Array, access: Access): boolean {
    const translation = this.#translation;
    const space = this.#space;
    const ram = this.#ram;
    let buffer: ArrayBufferLike | undefined;
    const known = this.#known;
    const stamp = known === undefined ? 0 : this.#stampFor(known, access);
    let pfn = pfnOf(iova);
    let offset = offsetInPage(iova);
    let at = 0;
    if (access === Access.read || space.onWrite === undefined) {
      at = ram.copyKnown(stamp, pfn, offset, bytes, access);
      if (at === bytes.length) return true;
      if (at > 0) {
        pfn += (offset + at) / PAGE_BYTES;
        offset = 0;
      }
    }
    while (at < bytes.length) {
      if (this.#inWindow(pfn)) return this.#message(pfn, iova, at === 0 ? bytes : bytes.subarray(at), access);
      const record = known === undefined ? -1 : known.find(pfn, stamp);
      let gpa = 0;
      let blockPages = 1;
      if (known !== undefined && record >= 0) {
        gpa = known.gpaOf(record);
        blockPages = known.blockOf(record);
      } else {
        if (!space.request(pfn, access, translation, at === 0 ? iova : undefined)) return this.#refused(pfn) ?? false;
        gpa = translation.gpaPfn * PAGE_BYTES;
        blockPages = translation.pageCount;
        known?.note(pfn, stamp, gpa, blockPages);
      }
      const pages = blockPages === 1 ? 1 : this.#pagesFrom(pfn, blockPages);
      const length = Math.min(bytes.length - at, pages * PAGE_BYTES - offset);
      if (access === Access.read) {
        if (!ram.read(gpa + offset, bytes, at, length)) return this.#noMemory(pfn);
      } else {
        // Asked for once a transfer: to ask a typed array for its buffer is a call out of compiled code (bench dma).
        if (length < bytes.length) buffer ??= bytes.buffer;
        const piece = buffer === undefined ? bytes : new Uint8Array(buffer, bytes.byteOffset + at, length);
        const done = ram.write(gpa + offset, piece);
        // A write that fails half-way has written something.
        space.wrote(pfn, gpa / PAGE_BYTES, length + offset);
        if (!done) return this.#noMemory(pfn);
      }
      at += length;
      pfn += pages;
      offset = 0;
    }
    return true;
  }

  /** The stamp of this port's pages of this access: a new one if an announcement has ended the old one. */
  #stampFor(known: KnownPages, access: Access): number {
    const old = access === Access.read ? this.#readStamp : this.#writeStamp;
    if (known.holds(old)) return old;
    const stamp = known.stamp();
    if (access === Access.read) this.#readStamp = stamp;
    else this.#writeStamp = stamp;
    return stamp;
  }

  /** Pages that the answer holds for from `pfn` on, not reaching into the message window. */
  #pagesFrom(pfn: number, blockPages: number): number {
    const pages = blockPages - (pfn % blockPages);
    return pfn < this.#windowFirst ? Math.min(pages, this.#windowFirst - pfn) : pages;
  }

  #inWindow(pfn: number): boolean {
    return pfn >= this.#windowFirst && pfn < this.#windowEnd;
  }

  #message(pfn: number, iova: ByteAddress, bytes: Uint8Array, access: Access): boolean {
    const address = pfn === pfnOf(iova) ? Number(iova) : pfn * PAGE_BYTES;
    const window = this.#window;
    const done =
      access === Access.write ? window?.write(this.#space, address, bytes) : window?.read(this.#space, address, bytes);
    return done === true || this.#fail(pfn, 0, "message refused");
  }

  #noMemory(pfn: number): false {
    return this.#fail(pfn, 0, NO_MEMORY);
  }

  #nothing(pfn: number, cause: string): undefined {
    this.#fail(pfn, 0, cause);
    return undefined;
  }

  #refused(pfn: number): undefined {
    this.#fail(pfn, this.#translation.reason, this.#translation.cause);
    return undefined;
  }

  #fail(iovaPfn: number, reason: number, cause: string): false {
    this.#failure = { iovaPfn, reason, cause };
    return false;
  }
}

function checkLease(byteLength: number, access: Access): void {
  if (!(Number.isSafeInteger(byteLength) && byteLength >= 0)) {
    throw new IommuError("bad-option", `segments: expected a number of bytes from 0 to 2^53 - 1, got ${byteLength}`, {
      hint: "check a length that a descriptor of the guest gives before asking",
    });
  }
  if (access !== Access.none) return;
  throw new IommuError("bad-option", "segments: expected Access.read, write or readWrite, got Access.none", {
    hint: "lease what the device will do: nobody is told of writes through a lease that may only be read",
  });
}

function appendSegment(segments: Segment[], gpa: number, byteLength: number): void {
  const last = segments.at(-1);
  if (last !== undefined && last.gpa + last.byteLength === gpa)
    segments[segments.length - 1] = { gpa: last.gpa, byteLength: last.byteLength + byteLength };
  else segments.push({ gpa, byteLength });
}

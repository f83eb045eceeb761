/**
 * The ATS and PRI side of one requester, as its device model sees it: ask for translations, use them, ask for pages.
 */

import {
  Access,
  type AddressSpace,
  type ByteAddress,
  type GuestMemory,
  offsetInPage,
  PAGE_BYTES,
  pfnOf,
} from "@iommu-kit/iommu-core";
import type { PageRequestOptions, PageRequestQueue, PageResponse } from "../page-request/page-request-queue.js";
import type { TranslationCompletion, TranslationRequestOptions, TranslationRequests } from "./translation-request.js";

/** What the port works with. */
export interface DeviceAtsParts {
  readonly memory: GuestMemory;
  readonly requests: TranslationRequests;
  readonly pages: PageRequestQueue;
  /** A device answered an invalidation that nobody sent. */
  readonly stray: (sourceId: number) => void;
}

/** Obtain it from `VtdIommu.ats`. */
export class DeviceAts {
  /** The address space whose requests these are. */
  readonly space: AddressSpace;
  readonly #parts: DeviceAtsParts;

  /** @internal */
  constructor(space: AddressSpace, parts: DeviceAtsParts) {
    this.space = space;
    this.#parts = parts;
  }

  /**
   * A translation request (§4.2.3) for the page `iovaPfn` and those behind it. Each answer is valid until a `device-tlb` notifier of the space is told to drop it.
   * After `unplug` every request is unsupported.
   */
  translate(iovaPfn: number, options: TranslationRequestOptions = {}): TranslationCompletion[] {
    if (!this.space.plugged) return [this.#parts.requests.unsupported(this.space, iovaPfn)];
    return this.#parts.requests.translate(this.space, iovaPfn, options);
  }

  /**
   * A translated read: `gpa` comes from a translation. `false`: refused, or no memory there. Translated requests with PASID need a unit with `translatedWithPasid` and EPTR in
   * the context; elsewhere what was translated with a PASID is reached through the `DeviceAts` of the same source-id without one.
   */
  read(gpa: ByteAddress, into: Uint8Array): boolean {
    return this.#transfer(gpa, into, 1);
  }

  /** A translated write, as `read`. `false`: refused, or no memory there; pages before the refused one have been written. */
  write(gpa: ByteAddress, from: Uint8Array): boolean {
    return this.#transfer(gpa, from, 2);
  }

  /**
   * A page request (§7.4). The promise is for the response to the group, or for what the unit answers in the guest's place; it never rejects. It stays
   * pending for as long as the guest does not answer; `failure` when the unit is reset or the device unplugged.
   * @throws {IommuError} at once, for a mistake in the request itself: `bad-range` for `iovaPfn` outside 0 to 2^52 - 1, `bad-option` for neither reading nor writing, or a group
   * outside 0 to 511.
   */
  requestPage(request: PageRequestOptions): Promise<PageResponse> {
    if (!this.space.plugged) return Promise.resolve("failure");
    return this.#parts.pages.request(this.space, request);
  }

  /** A stop marker (§7.9): no further page request of this PASID follows. */
  stopMarker(): void {
    if (this.space.plugged) this.#parts.pages.stopMarker(this.space);
  }

  /** A completion of an invalidation that the unit did not send: what a broken device does. Sets ICE. */
  strayCompletion(): void {
    this.#parts.stray(this.space.sourceId);
  }

  #transfer(gpa: ByteAddress, bytes: Uint8Array, access: Access): boolean {
    const { memory, requests } = this.#parts;
    if (!this.space.plugged) return false;
    let pfn = pfnOf(gpa);
    let offset = offsetInPage(gpa);
    for (let at = 0; at < bytes.length; pfn += 1, offset = 0) {
      const length = Math.min(bytes.length - at, PAGE_BYTES - offset);
      if (requests.checkTranslated(this.space, pfn, access) !== 0) return false;
      const piece = bytes.subarray(at, at + length);
      const address = pfn * PAGE_BYTES + offset;
      const done = access === Access.read ? memory.read(address, piece) : memory.write(address, piece);
      if (access === Access.write) this.space.wroteTranslated(pfn);
      if (!done) return false;
      at += length;
    }
    return true;
  }
}

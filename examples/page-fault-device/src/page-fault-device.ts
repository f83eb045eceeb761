/**
 * A device model that uses virtual memory like a CPU: it translates with its own TLB, asks the unit where that misses, and asks the guest for pages that are not there.
 *
 * It never knows a guest-physical address that it has not been given, and forgets it when told to.
 */

import type { AddressSpace, DeviceTlbNotifier } from "@iommu-kit/iommu-core";
import type { DeviceAts, VtdIommu } from "@iommu-kit/iommu-vtd";

const PAGE_BYTES = 4096;
const READ = 1;
const WRITE = 2;
/** A guest that answers success and maps nothing is asked this often. */
const MOST_ATTEMPTS = 3;

interface CachedPage {
  readonly gpaPfn: number;
  readonly access: number;
}

/** How a transfer ended. */
export type TransferResult = "done" | "no such page" | "guest failed";

/** See the file's header. */
export class PageFaultDevice implements DeviceTlbNotifier {
  readonly kind = "device-tlb";
  readonly name = "page-fault device";
  /** Pages that the guest was asked for. */
  faultCount = 0;
  /** Translation requests sent: what the device's own TLB did not know. */
  translationCount = 0;
  readonly #ats: DeviceAts;
  /** Translated requests carry no PASID: that has been taken care of. */
  readonly #translated: DeviceAts;
  readonly #tlb = new Map<number, CachedPage>();
  #nextGroup = 0;

  constructor(unit: VtdIommu, space: AddressSpace) {
    this.#ats = unit.ats(space);
    this.#translated = unit.ats(unit.addressSpace(space.sourceId));
    space.attach(this);
  }

  /** Pages in the device's TLB. */
  get cachedPages(): number {
    return this.#tlb.size;
  }

  /** The guest changed its tables: forget what they said. */
  invalidate(iovaPfn: number, pageCount: number): void {
    for (const pfn of this.#tlb.keys()) if (pfn >= iovaPfn && pfn < iovaPfn + pageCount) this.#tlb.delete(pfn);
  }

  /** Writes bytes at a virtual address, faulting pages in. */
  async write(address: number, from: Uint8Array): Promise<TransferResult> {
    return this.#transfer(address, from, WRITE);
  }

  /** Reads bytes at a virtual address, faulting pages in. */
  async read(address: number, into: Uint8Array): Promise<TransferResult> {
    return this.#transfer(address, into, READ);
  }

  async #transfer(address: number, bytes: Uint8Array, access: number): Promise<TransferResult> {
    for (let at = 0; at < bytes.length;) {
      const offset = (address + at) % PAGE_BYTES;
      const length = Math.min(bytes.length - at, PAGE_BYTES - offset);
      const page = await this.#page(Math.floor((address + at) / PAGE_BYTES), access);
      if (typeof page === "string") return page;
      const piece = bytes.subarray(at, at + length);
      const gpa = page.gpaPfn * PAGE_BYTES + offset;
      const done = access === WRITE ? this.#translated.write(gpa, piece) : this.#translated.read(gpa, piece);
      if (!done) return "guest failed";
      at += length;
    }
    return "done";
  }

  /** Where a page is, asking the unit and then the guest. */
  async #page(iovaPfn: number, access: number): Promise<CachedPage | TransferResult> {
    for (let attempt = 0; attempt < MOST_ATTEMPTS; attempt++) {
      const page = this.#tlb.get(iovaPfn) ?? this.#translate(iovaPfn, access);
      if (page !== undefined && (page.access & access) === access) return page;
      this.#tlb.delete(iovaPfn);
      this.faultCount += 1;
      const group = this.#nextGroup;
      this.#nextGroup = (this.#nextGroup + 1) % 512;
      const answer = await this.#ats.requestPage({ iovaPfn, read: access === READ, write: access === WRITE, group });
      if (answer === "invalid") return "no such page";
      if (answer !== "success") return "guest failed";
    }
    return "guest failed";
  }

  #translate(iovaPfn: number, access: number): CachedPage | undefined {
    this.translationCount += 1;
    const [answer] = this.#ats.translate(iovaPfn, { noWrite: access === READ });
    if (answer === undefined || answer.status !== "success" || answer.access === 0) return undefined;
    const page = { gpaPfn: answer.gpaPfn + (iovaPfn - answer.iovaPfn), access: answer.access };
    this.#tlb.set(iovaPfn, page);
    return page;
  }
}

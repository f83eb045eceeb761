import {
  type Access,
  type AddressSpace,
  type Completion,
  type MapNotifier,
  Translation,
  type UnmapNotifier,
} from "../../src/index.js";
import type { Target } from "../../src/testing/index.js";

/** A correct MAP notifier, made of small parts that mutants replace. */
export class Shadow implements MapNotifier {
  readonly kind = "map";
  readonly granularity: "page" | "block" = "page";
  readonly pages = new Map<number, NonNullable<Target>>();

  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    for (let i = 0; i < pageCount; i++) this.pages.set(iovaPfn + i, { gpaPfn: gpaPfn + i, access });
  }

  unmap(iovaPfn: number, pageCount: number): Completion {
    for (let i = 0; i < pageCount; i++) this.pages.delete(iovaPfn + i);
    return undefined;
  }

  revoke(): void {
    this.pages.clear();
  }
}

/** A correct cache in front of an address space. */
export class Cache implements UnmapNotifier {
  readonly kind = "unmap";
  readonly pages = new Map<number, NonNullable<Target>>();
  readonly space: AddressSpace;
  readonly #out = new Translation();

  constructor(space: AddressSpace) {
    this.space = space;
  }

  fill(iovaPfn: number): void {
    if (this.pages.has(iovaPfn)) return;
    if (!this.space.translate(iovaPfn, 0, this.#out)) return;
    this.pages.set(iovaPfn, { gpaPfn: this.#out.gpaPfn, access: this.#out.access });
  }

  unmap(iovaPfn: number, pageCount: number): Completion {
    for (const pfn of this.pages.keys()) if (pfn >= iovaPfn && pfn < iovaPfn + pageCount) this.pages.delete(pfn);
    return undefined;
  }

  revoke(): void {
    this.pages.clear();
  }
}

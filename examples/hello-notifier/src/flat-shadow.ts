import type { Access, MapNotifier } from "@iommu-kit/iommu-core";

/** A shadow page table in one Map: what a device model needs that cannot ask for every access. */
export class FlatShadow implements MapNotifier {
  readonly kind = "map";
  readonly granularity = "page";
  readonly pages = new Map<number, { gpaPfn: number; access: Access }>();

  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    for (let i = 0; i < pageCount; i++) this.pages.set(iovaPfn + i, { gpaPfn: gpaPfn + i, access });
  }

  unmap(iovaPfn: number, pageCount: number): void {
    for (let i = 0; i < pageCount; i++) this.pages.delete(iovaPfn + i);
  }

  revoke(): void {
    this.pages.clear();
  }
}

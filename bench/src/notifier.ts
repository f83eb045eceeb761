/** A notifier in this process that only counts: what is measured is ours. */

import type { MapNotifier } from "@iommu-kit/iommu-core";

/** See the file's header. */
export class CountingNotifier implements MapNotifier {
  readonly kind = "map";
  readonly granularity = "page";
  /** Pages told so far. */
  mapped = 0;
  unmapped = 0;
  replaced = 0;

  map(_firstPfn: number, pageCount: number): undefined {
    this.mapped += pageCount;
    return undefined;
  }

  unmap(_firstPfn: number, pageCount: number): undefined {
    this.unmapped += pageCount;
    return undefined;
  }

  replace(_firstPfn: number, pageCount: number): undefined {
    this.replaced += pageCount;
    return undefined;
  }

  /** Pages told of, whatever about them. */
  get told(): number {
    return this.mapped + this.unmapped + this.replaced;
  }
}

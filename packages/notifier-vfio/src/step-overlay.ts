/**
 * What devices see while a step is open: the table as it was when the step began.
 *
 * Changes go into the table at once; before each, the frames it touches are copied here. The cost is that of the step,
 * not of the table, and there is none while no step is open.
 */
import { Access } from "@iommu-kit/iommu-core";
import { shadowBlock, ShadowPageTable, type ShadowTarget } from "./shadow-page-table.js";

/** The before-image of one open step. */
export class StepOverlay {
  readonly #touched = new ShadowPageTable();
  readonly #before = new ShadowPageTable();
  readonly #gapEnd = shadowBlock();
  readonly #block = shadowBlock();

  /** Remembers a range of the table, as far as it is not remembered yet. Call before changing it. */
  keep(table: ShadowPageTable, firstPfn: number, pageCount: number): void {
    const endPfn = firstPfn + pageCount;
    const known = this.#gapEnd;
    let pfn = firstPfn;
    while (pfn < endPfn) {
      const found = this.#touched.blockFrom(pfn, known);
      const gapEndPfn = found ? Math.min(known.iovaPfn, endPfn) : endPfn;
      const afterPfn = found ? known.iovaPfn + known.pageCount : endPfn;
      if (gapEndPfn > pfn) this.#keepGap(table, pfn, gapEndPfn);
      pfn = afterPfn;
    }
  }

  /** Looks a frame up as it was when the step began. */
  lookup(table: ShadowPageTable, iovaPfn: number, out: ShadowTarget): boolean {
    if (this.#touched.blockAt(iovaPfn, this.#block)) return this.#before.lookup(iovaPfn, out);
    return table.lookup(iovaPfn, out);
  }

  /** Ends the step: from now on devices see the table. */
  clear(): void {
    this.#touched.clear();
    this.#before.clear();
  }

  #keepGap(table: ShadowPageTable, firstPfn: number, endPfn: number): void {
    this.#touched.insert(firstPfn, endPfn - firstPfn, 0, Access.read);
    for (const block of table.blocks(firstPfn, endPfn - firstPfn)) {
      const fromPfn = Math.max(block.iovaPfn, firstPfn);
      const toPfn = Math.min(block.iovaPfn + block.pageCount, endPfn);
      this.#before.insert(fromPfn, toPfn - fromPfn, block.gpaPfn + (fromPfn - block.iovaPfn), block.access);
    }
  }
}

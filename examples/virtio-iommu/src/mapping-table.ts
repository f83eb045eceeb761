/**
 * The mappings of a domain, each as one MAP request made it (§5.13.6.4): they are never cut, and UNMAP takes them whole.
 */

import { createRequire } from "node:module";
import type { Access, FrameRange } from "@iommu-kit/iommu-core";
import type SortedBTree from "sorted-btree";

// The package is CommonJS with a default export, which tools disagree about how to import.
const { default: BTree } = createRequire(import.meta.url)("sorted-btree") as typeof SortedBTree;

/** One MAP request. */
export interface Mapping extends FrameRange {
  readonly gpaPfn: number;
  /** May be none: the frames are then taken, and reach nothing. */
  readonly access: Access;
  /** Device registers, not memory. */
  readonly mmio: boolean;
}

/** Disjoint mappings in ascending order. */
export class MappingTable {
  readonly #byFirst = new BTree<number, Mapping>();

  get size(): number {
    return this.#byFirst.size;
  }

  /** The mapping that holds a frame. */
  find(pfn: number): Mapping | undefined {
    const mapping = this.#byFirst.getPairOrNextLower(pfn)?.[1];
    return mapping !== undefined && pfn < mapping.firstPfn + mapping.pageCount ? mapping : undefined;
  }

  /** The first mapping that touches `firstPfn` or lies above. */
  firstFrom(firstPfn: number): Mapping | undefined {
    return this.find(firstPfn) ?? this.#byFirst.nextHigherPair(firstPfn)?.[1];
  }

  /** Whether any frame of the range is mapped. */
  touches(range: FrameRange): boolean {
    const first = this.firstFrom(range.firstPfn);
    return first !== undefined && first.firstPfn < range.firstPfn + range.pageCount;
  }

  /** Adds a mapping; none of its frames is mapped. */
  add(mapping: Mapping): void {
    this.#byFirst.set(mapping.firstPfn, mapping);
  }

  /** Removes the mappings that begin in a range. Answers how many. */
  deleteFrom({ firstPfn, pageCount }: FrameRange): number {
    return this.#byFirst.deleteRange(firstPfn, firstPfn + pageCount - 1, true);
  }
}

/**
 * Page tables, or announced state, as ranges: consecutive frames with consecutive targets and equal rights are one.
 */

import {
  type Access,
  ALL_FRAMES,
  type Domain,
  formatAccess,
  type IovaTree,
  type LeafTable,
  type MappingSink,
} from "@iommu-kit/iommu-core";

/** A run of frames. */
export interface MappingRange {
  /** First input frame. */
  readonly iovaPfn: number;
  /** Frames, 1 or more. */
  readonly pageCount: number;
  /** Target of the first frame; the others follow. */
  readonly gpaPfn: number;
  /** `"rw"`, `"r-"` or `"-w"`. */
  readonly access: string;
}

/** Ranges in ascending order. */
export interface Mappings {
  /** Ascending; joined where targets and rights go on. */
  readonly ranges: readonly MappingRange[];
  /** There is more than was asked for. */
  readonly truncated: boolean;
}

/** How far to look. */
export interface MappingLimits {
  readonly ranges: number;
  readonly entries: number;
}

const NO_MAPPINGS: Mappings = { ranges: [], truncated: false };

/** What a domain's tables say. Only `table` domains have any. */
export function mappingsOf(domain: Domain, limits: MappingLimits): Mappings {
  if (domain.kind !== "table") return NO_MAPPINGS;
  const collector = new RangeCollector(limits);
  domain.scan({ firstPfn: 0, pageCount: 2 ** 52 }, collector);
  return collector.finish();
}

/** What a view has announced. */
export function mappingsOfTree(tree: IovaTree, limits: MappingLimits): Mappings {
  const collector = new RangeCollector(limits);
  tree.runs((iovaPfn, pageCount, gpaPfn, access) => collector.run(iovaPfn, pageCount, gpaPfn, access));
  return collector.finish();
}

class RangeCollector implements MappingSink {
  readonly #limits: MappingLimits;
  readonly #ranges: MappingRange[] = [];
  #entriesRead = 0;
  #truncated = false;
  #first = 0;
  #count = 0;
  #target = 0;
  #access: Access = 0;

  constructor(limits: MappingLimits) {
    this.#limits = limits;
  }

  run(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    if (access === 0) return true;
    const goesOn = iovaPfn === this.#first + this.#count && gpaPfn === this.#target + this.#count;
    if (this.#count > 0 && goesOn && access === this.#access) {
      this.#count += pageCount;
      return true;
    }
    this.#close();
    if (this.#ranges.length >= this.#limits.ranges) {
      this.#truncated = true;
      return false;
    }
    this.#first = iovaPfn;
    this.#count = pageCount;
    this.#target = gpaPfn;
    this.#access = access;
    return true;
  }

  reach(_iovaPfn: number, entriesRead: number): boolean {
    this.#entriesRead += entriesRead;
    if (this.#entriesRead <= this.#limits.entries) return true;
    this.#truncated = true;
    return false;
  }

  table(iovaPfn: number, table: LeafTable): boolean {
    return table.visit(iovaPfn, ALL_FRAMES, (pfn, pages, gpaPfn, access) => this.run(pfn, pages, gpaPfn, access));
  }

  finish(): Mappings {
    this.#close();
    return { ranges: this.#ranges, truncated: this.#truncated };
  }

  #close(): void {
    if (this.#count > 0)
      this.#ranges.push({
        iovaPfn: this.#first,
        pageCount: this.#count,
        gpaPfn: this.#target,
        access: formatAccess(this.#access),
      });
    this.#count = 0;
  }
}

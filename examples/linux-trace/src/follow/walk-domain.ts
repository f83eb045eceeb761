/**
 * What an address space reaches in a range, as the longest possible runs: a plain walk over the backend's second question, without any memory of an earlier one.
 */

import {
  type Access,
  type Domain,
  endOf,
  type FrameRange,
  intersect,
  type LeafTable,
  type MappingSink,
} from "@iommu-kit/iommu-core";

/** Frames with consecutive targets and equal rights. */
export interface Run {
  readonly iovaPfn: number;
  readonly pageCount: number;
  readonly gpaPfn: number;
  readonly access: Access;
}

type OpenRun = { -readonly [Name in keyof Run]: Run[Name] };

/**
 * The runs of `range`, ascending.
 * @param regions What is mapped onto itself where the domain passes requests through.
 */
export function walkDomain(domain: Domain, regions: readonly FrameRange[], range: FrameRange): Run[] {
  const runs = new RunCollector(domain.holes, range);
  if (domain.kind === "bypass")
    for (const { firstPfn, pageCount } of regions) runs.run(firstPfn, pageCount, firstPfn, 3);
  if (domain.kind === "table") domain.scan(range, runs);
  return runs.runs;
}

/** Gathers what a scan reports. Takes everything: a walk in one piece. */
class RunCollector implements MappingSink {
  readonly runs: OpenRun[] = [];
  readonly #holes: readonly FrameRange[];
  readonly #range: FrameRange;

  constructor(holes: readonly FrameRange[], range: FrameRange) {
    this.#holes = holes;
    this.#range = range;
  }

  run(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    const wanted = intersect({ firstPfn: iovaPfn, pageCount }, this.#range);
    const end = endOf(wanted);
    let at = wanted.firstPfn;
    for (const hole of this.#holes) {
      const cut = intersect(hole, { firstPfn: at, pageCount: Math.max(0, end - at) });
      if (cut.pageCount === 0) continue;
      this.#add(at, cut.firstPfn - at, gpaPfn + (at - iovaPfn), access);
      at = endOf(cut);
    }
    this.#add(at, end - at, gpaPfn + (at - iovaPfn), access);
    return true;
  }

  reach(): boolean {
    return true;
  }

  table(iovaPfn: number, table: LeafTable): boolean {
    return table.visit(iovaPfn, this.#range, (pfn, pages, gpaPfn, access) => this.run(pfn, pages, gpaPfn, access));
  }

  #add(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    if (pageCount <= 0) return;
    const last = this.runs.at(-1);
    const joins =
      last !== undefined &&
      last.iovaPfn + last.pageCount === iovaPfn &&
      last.gpaPfn + last.pageCount === gpaPfn &&
      last.access === access;
    if (joins) last.pageCount += pageCount;
    else this.runs.push({ iovaPfn, pageCount, gpaPfn, access });
  }
}

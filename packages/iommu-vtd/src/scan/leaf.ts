/**
 * Tells one leaf of a table to a sink, stepping around targets that no request may reach: the rest of a superpage stays reachable.
 */

import { type Access, endOf, type MappingSink } from "@iommu-kit/iommu-core";
import type { OutputFilter } from "../translate/output-filter.js";

/** A leaf: input frames from `firstPfn` on, targets from `gpaPfn` on. */
export interface Leaf {
  readonly firstPfn: number;
  readonly pageCount: number;
  readonly gpaPfn: number;
  readonly access: Access;
}

/** `false`: the sink wants no more. */
export function tellLeaf(sink: MappingSink, filter: OutputFilter, leaf: Leaf): boolean {
  const { firstPfn, pageCount, gpaPfn, access } = leaf;
  if (!filter.touches(gpaPfn, pageCount)) return sink.run(firstPfn, pageCount, gpaPfn, access);
  const shift = firstPfn - gpaPfn;
  const end = gpaPfn + pageCount;
  let at = gpaPfn;
  for (const blocked of filter.blocked) {
    const stop = Math.min(end, blocked.firstPfn);
    if (stop > at && !sink.run(at + shift, stop - at, at, access)) return false;
    at = Math.max(at, Math.min(end, endOf(blocked)));
  }
  return at >= end || sink.run(at + shift, end - at, at, access);
}

/**
 * What a full consumer is offered again, in parts that are one step of a slice each.
 */

import type { Access } from "../access.js";
import type { IovaTree } from "../diff/iova-tree.js";
import { Mapping } from "../diff/mapping.js";
import { FANOUT } from "../diff/slot.js";
import type { FrameRange } from "../range.js";

/** A part of what was refused, and where it goes. */
export interface RefusedPart extends FrameRange {
  readonly gpaPfn: number;
  readonly access: Access;
}

/** What is refused from `pfn` on, as far as one leaf table or as many blocks go, and all of it supported or none. */
export function nextRefused(
  refused: IovaTree,
  unsupported: IovaTree,
  pfn: number,
  largestBlock: number,
): RefusedPart | undefined {
  const slot = new Mapping();
  if (!refused.seek(pfn, slot)) return undefined;
  const { gpaPfn, access } = slot;
  const firstPfn = Math.max(pfn, slot.firstPfn);
  const single = slot.pageCount === 1;
  const step = single ? FANOUT : FANOUT * largestBlock;
  let end = Math.min(firstPfn - (firstPfn % step) + step, single ? Infinity : slot.firstPfn + slot.pageCount);
  if (single)
    refused.runs(
      (_first, count) => {
        end = firstPfn + count;
        return false;
      },
      { firstPfn, pageCount: end - firstPfn },
    );
  if (unsupported.find(firstPfn, slot)) end = Math.min(end, slot.firstPfn + slot.pageCount);
  else if (unsupported.seek(firstPfn, slot)) end = Math.min(end, slot.firstPfn);
  return { firstPfn, pageCount: end - firstPfn, gpaPfn, access };
}

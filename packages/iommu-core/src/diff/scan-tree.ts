/**
 * A tree as the other side of a pass.
 */

import type { MappingSink } from "../backend.js";
import type { IovaTree } from "./iova-tree.js";
import { LeafTable } from "./leaf-table.js";
import { Mapping } from "./mapping.js";
import { endOf, type FrameRange } from "../range.js";
import { FANOUT } from "./slot.js";

/** Drives a pass from a tree instead of a backend. */
export function scanTree(tree: IovaTree, range: FrameRange, sink: MappingSink): void {
  const slot = new Mapping();
  const table = new LeafTable();
  const end = endOf(range);
  for (let at = range.firstPfn; at < end && tree.seek(at, slot) && slot.firstPfn < end;) {
    const leaf = tree.leafAt(slot.firstPfn);
    const first = Math.max(at, slot.firstPfn);
    if (leaf === undefined) {
      at = slot.firstPfn + slot.pageCount;
      if (!sink.run(first, at - first, slot.gpaPfn, slot.access)) return;
    } else {
      const base = first - (first % FANOUT);
      table.words = leaf.words;
      table.firstWord = leaf.firstWord;
      at = base + FANOUT;
      if (!sink.reach(first, FANOUT) || !sink.table(base, table)) return;
    }
  }
}

/**
 * Runs that are shorter than a leaf table wait here until their table is complete: within one table, removals are told first.
 */

import type { Access } from "../access.js";
import { LeafTable } from "../diff/leaf-table.js";
import { FANOUT, fillSlots } from "../diff/slot.js";

/** The table that is being gathered. */
export class RunGatherer {
  readonly table = new LeafTable();
  /** 1 where a run begins: blocks are no larger than what the backend reported at once. */
  readonly starts = new Uint8Array(FANOUT);
  /** First frame of the table, -1 when there is none. */
  firstPfn = -1;

  constructor() {
    this.table.words = new Int32Array(FANOUT * 2);
  }

  /** Whether the table of this frame is being gathered. */
  isAt(pfn: number): boolean {
    return this.firstPfn >= 0 && pfn >= this.firstPfn && pfn < this.firstPfn + FANOUT;
  }

  /** Adds a run inside one table. */
  add(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    const index = iovaPfn % FANOUT;
    if (this.firstPfn < 0) {
      this.table.words.fill(0);
      this.starts.fill(0);
      this.firstPfn = iovaPfn - index;
    }
    this.starts[index] = 1;
    fillSlots(this.table.words, index, pageCount, gpaPfn, access);
  }

  /** Ends the table; answers its first frame, or -1. Its words stay until the next one begins. */
  end(): number {
    const first = this.firstPfn;
    this.firstPfn = -1;
    return first;
  }
}

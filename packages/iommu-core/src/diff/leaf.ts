/**
 * One leaf of a tree, as whoever compares tables with it sees it.
 */

import { LeafDirectory } from "./leaf-directory.js";
import type { EntryFormat, LeafTable } from "./leaf-table.js";

const NO_WORDS = new Int32Array(0);
/** Never written: a tree without leaves has no directory of its own. */
export const NO_LEAVES = new LeafDirectory();

/** @internal Reused by its tree: valid until the tree changes, or is asked for another leaf. */
export class Leaf {
  /** 512 pairs of words from `firstWord` on. */
  words: Int32Array = NO_WORDS;
  firstWord = 0;
  directory = NO_LEAVES;
  index = 0;

  /** What its words mean, other bits included, if that is known: equal words in this format are told already. */
  get format(): EntryFormat | undefined {
    return this.directory.formatOf(this.index);
  }

  /** Whether the host vouches that a table still says what the slots say. */
  isProved(table: LeafTable): boolean {
    return this.directory.isProved(this.index, table);
  }
}

/**
 * Whole directories of leaf tables that the host vouches for: nothing of them is read, not even that they are the same (bench: dirty information).
 *
 * A directory is 512 leaf tables, 2^18 frames. It is remembered when a pass has told all of it in one go, every table below it is remembered by its generation, and no hole was
 * cut out. It is proved as long as its own generation and those of all these tables stay, and nobody has changed the tree otherwise.
 */

import { FANOUT } from "./slot.js";
import type { IovaTree } from "./iova-tree.js";
import { LeafTable } from "./leaf-table.js";

const DIRECTORY_SPAN = FANOUT * FANOUT;

/** Watches one pass go through directories. */
export class DirectoryProof {
  /** First frame of the directory that the pass is in, -1 for none that is worth watching. */
  #firstPfn = -1;
  readonly #table = new LeafTable();
  /** Tables entered below it, and those that the tree remembers. */
  #entered = 0;
  #remembered = 0;

  /** Forgets what was being watched: the pass ends, or is interrupted. */
  forget(): void {
    this.#firstPfn = -1;
  }

  /** The pass enters a directory. */
  watch(firstPfn: number, { pfn, generation, format }: LeafTable): void {
    this.#firstPfn = firstPfn;
    this.#entered = 0;
    this.#remembered = 0;
    Object.assign(this.#table, { pfn, generation, format });
  }

  /** It enters a table, in this directory or behind it. */
  enter(tree: IovaTree, cursor: number): void {
    this.finish(tree, cursor);
    this.#entered += 1;
  }

  /** The table that was entered has been told. */
  told(tree: IovaTree, firstPfn: number, table: LeafTable): void {
    if (this.#firstPfn >= 0 && tree.leafAt(firstPfn)?.isProved(table) === true) this.#remembered += 1;
  }

  /** Every frame below `cursor` is done. */
  finish(tree: IovaTree, cursor: number): void {
    if (this.#firstPfn < 0 || cursor < this.#firstPfn + DIRECTORY_SPAN) return;
    if (this.#entered === this.#remembered) tree.leavesAt(this.#firstPfn)?.remember(this.#table);
    this.forget();
  }
}

/**
 * The leaves below one node of level 2: where each lies, and what is known of its words.
 *
 * Arrays, not an object for each leaf: a look-up reads one number that is in the caches, and a tree of a million pages has no two thousand objects to trace.
 */

import type { EntryFormat, LeafTable } from "./leaf-table.js";
import { FANOUT } from "./slot.js";

const NO_PROOFS = new Float64Array(0);

/** As long-lived as its node. Who changes words of a leaf says so (`departs`), or what they are now (`mirrors`). */
export class LeafDirectory {
  /** The place of each leaf in the tree's `LeafStore`; 0 where there is none. */
  readonly places = new Int32Array(FANOUT);
  /** Slots in use of each leaf. */
  readonly counts = new Uint16Array(FANOUT);
  /** What the words of every slot mean, other bits included; `undefined` if that is not known. Equal words in this format are told already. */
  readonly #formats = new Array<EntryFormat | undefined>(FANOUT).fill(undefined);
  /** The table whose contents the slots are, and its generation then, -1 if they are not: pairs. Empty until a host supplies generations. */
  #proofs = NO_PROOFS;
  /** The same for the table that points to all these tables, while the tree says what it says. */
  #tablePfn = -1;
  #generation = -1;
  #format: EntryFormat | undefined = undefined;

  /** Bytes of the arrays. */
  get byteLength(): number {
    return FANOUT * (4 + 2 + 8) + this.#proofs.byteLength;
  }

  formatOf(index: number): EntryFormat | undefined {
    return this.#formats[index];
  }

  /** Whether the host vouches that a table still says what the slots say. */
  isProved(index: number, table: LeafTable): boolean {
    const { generation } = table;
    return (
      generation !== -1 &&
      this.#proofs[index * 2 + 1] === generation &&
      this.#proofs[index * 2] === table.pfn &&
      this.#formats[index] === table.format
    );
  }

  /** Whether the host vouches for a table that points to leaf tables, and for all of these. */
  isProvedWhole(table: LeafTable, generationOf: (pfn: number) => number): boolean {
    if (this.#generation === -1 || this.#generation !== table.generation) return false;
    if (this.#tablePfn !== table.pfn || this.#format !== table.format) return false;
    const proofs = this.#proofs;
    for (let index = 0; index < FANOUT; index++) {
      if (this.places[index] === 0) continue;
      const generation = proofs[index * 2 + 1];
      if (generation === -1 || generation !== generationOf(proofs[index * 2] ?? -1)) return false;
    }
    return true;
  }

  /** All of the directory is what this table and those below it say now. */
  remember({ pfn, generation, format }: LeafTable): void {
    this.#tablePfn = pfn;
    this.#generation = generation;
    this.#format = format;
  }

  /** Leaves have come or gone, or stand for other tables. */
  forget(): void {
    this.#generation = -1;
  }

  /** All slots are the contents of this table now. Answers the bytes that remembering it took. */
  mirrors(index: number, table: LeafTable): number {
    // A leaf that stands for another table, or for other rights, is not what the directory remembered.
    if (this.#proofs[index * 2] !== table.pfn || this.#formats[index] !== table.format) {
      this.forget();
      this.#formats[index] = table.format;
    }
    const before = this.#proofs.byteLength;
    if (before === 0) {
      if (table.generation === -1) return 0;
      this.#proofs = new Float64Array(FANOUT * 2).fill(-1);
    }
    this.#proofs[index * 2] = table.pfn;
    this.#proofs[index * 2 + 1] = table.generation;
    return this.#proofs.byteLength - before;
  }

  /** Some slots were written in this format. */
  departs(index: number, format: EntryFormat | undefined): void {
    if (this.#formats[index] !== format) this.#formats[index] = undefined;
    if (this.#proofs.length > 0) this.#proofs[index * 2 + 1] = -1;
  }
}

/** The least that anybody who keeps a copy of the tables has to do: compare the leaf tables with it. */

import type { BenchGuest } from "../guest.js";

const PAGE_WORDS = 1024;

/** Copies of the leaf tables of a guest's first domain, as the guest's tables lie: each at its own place, in the order of input pages. */
export class TableCopies {
  readonly #words: Int32Array;
  readonly #leaves: Uint32Array;
  readonly #copies: readonly Int32Array[];

  constructor(guest: BenchGuest) {
    this.#words = guest.words;
    this.#leaves = guest.leaves[0] ?? new Uint32Array(0);
    this.#copies = Array.from(this.#leaves, (leaf) => this.#words.slice(leaf * PAGE_WORDS, (leaf + 1) * PAGE_WORDS));
  }

  /** Compares word by word, in plain JavaScript; answers the tables that differ. */
  compare(): number {
    const words = this.#words;
    let changed = 0;
    for (let table = 0; table < this.#copies.length; table++) {
      const copy = this.#copies[table] as Int32Array;
      const base = (this.#leaves[table] as number) * PAGE_WORDS;
      let difference = 0;
      for (let i = 0; i < PAGE_WORDS; i += 4) {
        difference |=
          ((words[base + i] as number) ^ (copy[i] as number)) |
          ((words[base + i + 1] as number) ^ (copy[i + 1] as number)) |
          ((words[base + i + 2] as number) ^ (copy[i + 2] as number)) |
          ((words[base + i + 3] as number) ^ (copy[i + 3] as number));
      }
      if (difference !== 0) changed += 1;
    }
    return changed;
  }

  /** Copies every table into its copy. */
  copy(): number {
    for (let table = 0; table < this.#copies.length; table++) {
      const base = (this.#leaves[table] as number) * PAGE_WORDS;
      (this.#copies[table] as Int32Array).set(this.#words.subarray(base, base + PAGE_WORDS));
    }
    return 0;
  }
}

/** The same bytes by the runtime's own compare (`memcmp`). */
export class NativeCompare {
  readonly #tables: readonly Buffer[];
  readonly #copies: readonly Buffer[];

  constructor(guest: BenchGuest) {
    this.#tables = Array.from(guest.leaves[0] ?? [], (leaf) => Buffer.from(guest.bytes.buffer, leaf * 4096, 4096));
    this.#copies = this.#tables.map((table) => Buffer.from(table));
  }

  /** Answers the tables that differ. */
  compare(): number {
    let changed = 0;
    for (let table = 0; table < this.#tables.length; table++) {
      if ((this.#tables[table] as Buffer).compare(this.#copies[table] as Buffer) !== 0) changed += 1;
    }
    return changed;
  }
}

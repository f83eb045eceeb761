/**
 * Counts what was checked: passed, failed, deviated (the oracle gave exactly the predicted other answer) and not covered, per kind of check.
 */

import type { DeviationName } from "../deviations.js";

/** How many checks of one kind ended how. */
export interface Counts {
  passed: number;
  failed: number;
  deviated: number;
  uncovered: number;
}

/** One failed check. */
export interface Mismatch {
  /** Case id, or line of a trace. */
  readonly place: string;
  readonly kind: string;
  readonly what: string;
  readonly ours: string;
  readonly theirs: string;
}

/** What a tally says in the end: plain data, so that it can come from a worker. */
export interface TallyResult {
  readonly total: Counts;
  readonly kinds: ReadonlyMap<string, Counts>;
  readonly deviations: ReadonlyMap<DeviationName, number>;
  readonly uncovered: ReadonlyMap<string, number>;
  /** Figures that are not checks: windows of block notifiers, pages left out. */
  readonly notes: ReadonlyMap<string, number>;
  readonly mismatches: readonly Mismatch[];
}

/** Counts while a file runs. See the file's header. */
export class Tally {
  /** Where the runner is: set before each check. */
  place: { readonly id: number; step: number } = { id: 0, step: 0 };
  readonly #kinds = new Map<string, Counts>();
  readonly #deviations = new Map<DeviationName, number>();
  readonly #uncovered = new Map<string, number>();
  readonly #notes = new Map<string, number>();
  readonly #mismatches: Mismatch[] = [];
  readonly #keep: number;

  /** `keep`: how many mismatches are kept with their details. */
  constructor(keep: number) {
    this.#keep = keep;
  }

  /** The figures so far. */
  get result(): TallyResult {
    const total = sumOf(this.#kinds.values());
    return {
      total,
      kinds: this.#kinds,
      deviations: this.#deviations,
      uncovered: this.#uncovered,
      notes: this.#notes,
      mismatches: this.#mismatches,
    };
  }

  pass(kind: string): void {
    this.#of(kind).passed += 1;
  }

  fail(kind: string, what: string, ours: string, theirs: string): void {
    this.#of(kind).failed += 1;
    if (this.#mismatches.length < this.#keep)
      this.#mismatches.push({ place: this.#placeText(), kind, what, ours, theirs });
  }

  deviate(kind: string, name: DeviationName): void {
    this.#of(kind).deviated += 1;
    this.#deviations.set(name, (this.#deviations.get(name) ?? 0) + 1);
  }

  /** Checks of a part of the unit that does not exist yet. */
  skip(kind: string, part: string): void {
    this.#of(kind).uncovered += 1;
    this.#uncovered.set(part, (this.#uncovered.get(part) ?? 0) + 1);
  }

  note(name: string, count = 1): void {
    this.#notes.set(name, (this.#notes.get(name) ?? 0) + count);
  }

  #of(kind: string): Counts {
    let counts = this.#kinds.get(kind);
    if (counts === undefined) this.#kinds.set(kind, (counts = { passed: 0, failed: 0, deviated: 0, uncovered: 0 }));
    return counts;
  }

  #placeText(): string {
    return this.place.step < 0 ? `line ${this.place.id}` : `case ${this.place.id} step ${this.place.step}`;
  }
}

/** Sums counts. */
export function sumOf(all: Iterable<Counts>): Counts {
  const sum = { passed: 0, failed: 0, deviated: 0, uncovered: 0 };
  for (const { passed, failed, deviated, uncovered } of all) {
    sum.passed += passed;
    sum.failed += failed;
    sum.deviated += deviated;
    sum.uncovered += uncovered;
  }
  return sum;
}

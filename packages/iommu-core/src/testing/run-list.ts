/**
 * Mapped runs as a sorted list: the plain structure that recorders and models of this kit keep, so that they share no code with the tree they judge.
 */

import type { Access } from "../access.js";

/** Consecutive frames with consecutive targets and equal rights. */
export interface Run {
  /** First input frame. */
  readonly iovaPfn: number;
  /** Frames, 1 or more. */
  readonly pageCount: number;
  /** Target of its first frame; the others follow. */
  readonly gpaPfn: number;
  /** Rights of all its frames. */
  readonly access: Access;
}

/** Disjoint runs, ascending. Runs are kept as they were added, with whatever they carry, never joined. */
export class RunList<Entry extends Run = Run> {
  #runs: Entry[] = [];

  /** The runs as they were added and cut. */
  get entries(): readonly Entry[] {
    return this.#runs;
  }

  /** Frames in all runs. */
  get pageCount(): number {
    return this.#runs.reduce((sum, run) => sum + run.pageCount, 0);
  }

  /** The run that contains the frame. */
  find(iovaPfn: number): Entry | undefined {
    const run = this.#runs[this.#after(iovaPfn) - 1];
    return run !== undefined && iovaPfn < endOf(run) ? run : undefined;
  }

  /** Where the frame goes. */
  lookup(iovaPfn: number): { readonly gpaPfn: number; readonly access: Access } | undefined {
    const run = this.find(iovaPfn);
    return run === undefined ? undefined : { gpaPfn: run.gpaPfn + (iovaPfn - run.iovaPfn), access: run.access };
  }

  /** The runs that touch these frames, not clipped. */
  touching(iovaPfn: number, pageCount: number): readonly Entry[] {
    let first = this.#after(iovaPfn);
    const before = this.#runs[first - 1];
    if (before !== undefined && endOf(before) > iovaPfn) first -= 1;
    let last = first;
    while ((this.#runs[last]?.iovaPfn ?? Infinity) < iovaPfn + pageCount) last += 1;
    return this.#runs.slice(first, last);
  }

  /** Whether every one of these frames lies in a run. */
  covers(iovaPfn: number, pageCount: number): boolean {
    let at = iovaPfn;
    for (const run of this.touching(iovaPfn, pageCount)) {
      if (run.iovaPfn > at) return false;
      at = endOf(run);
    }
    return at >= iovaPfn + pageCount;
  }

  /** Adds a run; what was there goes. */
  set(run: Entry): void {
    this.delete(run.iovaPfn, run.pageCount);
    this.#runs.splice(this.#after(run.iovaPfn), 0, run);
  }

  /** Removes frames; runs that reach beyond are cut. */
  delete(iovaPfn: number, pageCount: number): void {
    const touched = this.touching(iovaPfn, pageCount);
    const [head] = touched;
    const tail = touched.at(-1);
    if (head === undefined || tail === undefined) return;
    const rest: Entry[] = [];
    if (head.iovaPfn < iovaPfn) rest.push({ ...head, pageCount: iovaPfn - head.iovaPfn });
    const end = iovaPfn + pageCount;
    if (endOf(tail) > end) {
      rest.push({ ...tail, iovaPfn: end, pageCount: endOf(tail) - end, gpaPfn: tail.gpaPfn + (end - tail.iovaPfn) });
    }
    this.#runs.splice(this.#after(head.iovaPfn) - 1, touched.length, ...rest);
  }

  /** Forgets everything. */
  clear(): void {
    this.#runs = [];
  }

  /** The same mappings in as few runs as possible, clipped to a range: equal lists mean equal mappings. */
  joined(iovaPfn = 0, pageCount = 2 ** 52): Run[] {
    const joined: Run[] = [];
    for (const run of this.touching(iovaPfn, pageCount)) {
      const first = Math.max(run.iovaPfn, iovaPfn);
      const count = Math.min(endOf(run), iovaPfn + pageCount) - first;
      const gpaPfn = run.gpaPfn + (first - run.iovaPfn);
      const last = joined.at(-1);
      const continues =
        last !== undefined &&
        endOf(last) === first &&
        last.gpaPfn + last.pageCount === gpaPfn &&
        last.access === run.access;
      if (continues) joined[joined.length - 1] = { ...last, pageCount: last.pageCount + count };
      else joined.push({ iovaPfn: first, pageCount: count, gpaPfn, access: run.access });
    }
    return joined;
  }

  /** Index of the first run that starts above the frame. */
  #after(iovaPfn: number): number {
    let low = 0;
    let high = this.#runs.length;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if ((this.#runs[middle]?.iovaPfn ?? Infinity) > iovaPfn) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

function endOf(run: Run): number {
  return run.iovaPfn + run.pageCount;
}

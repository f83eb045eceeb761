/**
 * Ratios that can be trusted on a busy machine: two candidates take turns, A B B A, and the median of the paired ratios counts.
 *
 * A candidate is a function of this process, or a batch of another process that measures its own time. Each answers a number that depends on all of its work, so that
 * nothing can be left out. The loops of candidates are written apart, never two closures of one literal: those would share what the compiler learns about them.
 */

import assert from "node:assert/strict";

// Compilers and caches settle in the first; the second gives hundreds of pairs where a batch is short. A smoke run (few pairs) does without.
const WARM_MILLISECONDS = 300;
const MEASURE_MILLISECONDS = 1500;

/** One batch: how long it took, and what came out. */
export interface Sample {
  readonly nanoseconds: number;
  readonly check: number;
}

/** What is timed. */
export interface Candidate {
  batch(): Sample | Promise<Sample>;
}

/** How often. */
export interface Repeats {
  /** Units of work in a batch of either side. */
  readonly units: number;
  /** Pairs of batches at least; short batches are repeated for as long as `MEASURE_MILLISECONDS`. */
  readonly pairs: number;
  /** What every batch of both sides must answer; `undefined` where each side checks itself. */
  readonly check: number | undefined;
}

/** A measured ratio, and both sides in nanoseconds for each unit of work. */
export interface Ratio {
  readonly ratio: number;
  readonly quartiles: readonly [number, number];
  readonly subject: number;
  readonly baseline: number;
}

/** Work of this process. `prepare` is not timed. */
export function inProcess(work: () => number, prepare?: () => void): Candidate {
  return {
    batch() {
      prepare?.();
      const start = process.hrtime.bigint();
      const check = work();
      return { nanoseconds: Number(process.hrtime.bigint() - start), check };
    },
  };
}

/** Time of `subject` in times of `baseline`. */
export async function compare(subject: Candidate, baseline: Candidate, repeats: Repeats): Promise<Ratio> {
  const { units, pairs, check } = repeats;
  const run = async (candidate: Candidate): Promise<number> => {
    const sample = await candidate.batch();
    if (check !== undefined) assert.equal(sample.check, check, "a batch computed something else");
    return sample.nanoseconds;
  };
  const smoke = pairs <= 2;
  const warm = performance.now() + (smoke ? 0 : WARM_MILLISECONDS);
  for (let i = 0; i < 2 || performance.now() < warm; i++) {
    await run(subject);
    await run(baseline);
  }
  const ratios: number[] = [];
  const subjects: number[] = [];
  const baselines: number[] = [];
  const end = performance.now() + (smoke ? 0 : MEASURE_MILLISECONDS);
  for (let i = 0; i < pairs || performance.now() < end; i++) {
    const a = await run(subject);
    const b = (await run(baseline)) + (await run(baseline));
    const a2 = await run(subject);
    ratios.push((a + a2) / b);
    subjects.push((a + a2) / 2 / units);
    baselines.push(b / 2 / units);
  }
  return {
    ratio: quantile(ratios, 0.5),
    quartiles: [quantile(ratios, 0.25), quantile(ratios, 0.75)],
    subject: quantile(subjects, 0.5),
    baseline: quantile(baselines, 0.5),
  };
}

function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) * share)] ?? Number.NaN;
}

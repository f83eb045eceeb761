/** Ratios that can be trusted on a busy machine: the two sides alternate A B B A, the median of the paired ratios counts. */

/** A measured ratio, and both sides in nanoseconds for each unit of work. */
export interface Ratio {
  readonly ratio: number;
  readonly subject: number;
  readonly baseline: number;
}

/** What is timed. Answers a number that depends on all of its work, so that nothing can be left out. */
export type Work = () => number;

let sink = 0;

/** Measures `subject` against `baseline`, each doing `units` units of work a call. */
export function measure(subject: Work, baseline: Work, units: number, pairs: number): Ratio {
  for (let i = 0; i < 3; i++) sink += subject() + baseline();
  const ratios: number[] = [];
  const subjects: number[] = [];
  const baselines: number[] = [];
  for (let i = 0; i < pairs; i++) {
    const a = time(subject);
    const b = time(baseline) + time(baseline);
    const a2 = time(subject);
    ratios.push((a + a2) / b);
    subjects.push((a + a2) / 2 / units);
    baselines.push(b / 2 / units);
  }
  return { ratio: median(ratios), subject: median(subjects), baseline: median(baselines) };
}

function time(work: Work): number {
  const start = process.hrtime.bigint();
  sink += work();
  return Number(process.hrtime.bigint() - start);
}

/** The middle value. */
function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

/** Whatever was computed, so that it had to be. */
export function consumed(): number {
  return sink;
}

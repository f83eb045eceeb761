/**
 * Results as text for people and as JSON for programs.
 */

import { basename } from "node:path";
import { DEVIATIONS } from "../deviations.js";
import type { FileResult } from "../run-file.js";
import { type Counts, sumOf } from "./tally.js";

/** `N passed, M failed, K deviated, U not covered`. */
export function totalLine(results: readonly FileResult[]): string {
  const sum = totals(results);
  return `${sum.passed} passed, ${sum.failed} failed, ${sum.deviated} deviated, ${sum.uncovered} not covered`;
}

/** Sums over files. */
export function totals(results: readonly FileResult[]): Counts {
  return sumOf(results.map(({ tally }) => tally.total));
}

/** One file, for people. */
export function describeFile({ path, format, tally, seconds }: FileResult): string {
  const lines = [`${basename(path)} (${format}, ${seconds.toFixed(1)} s)`];
  const width = Math.max(...[...tally.kinds.keys()].map((kind) => kind.length));
  for (const [kind, counts] of tally.kinds) lines.push(`  ${kind.padEnd(width)}  ${countsText(counts)}`);
  for (const [name, count] of tally.deviations)
    lines.push(`  deviation ${name}: ${count} (${DEVIATIONS[name].section})`);
  for (const [part, count] of tally.uncovered) lines.push(`  not covered, ${part}: ${count}`);
  for (const [name, count] of tally.notes) lines.push(`  ${name}: ${count}`);
  for (const { place, kind, what, ours, theirs } of tally.mismatches) {
    lines.push(`  FAILED ${place}: ${kind}: ${what}`, `         ours   ${ours}`, `         theirs ${theirs}`);
  }
  const hidden = tally.total.failed - tally.mismatches.length;
  if (hidden > 0) lines.push(`  ... and ${hidden} more failures (--verbose shows all)`);
  return lines.join("\n");
}

/** All files, for programs. */
export function toJson(results: readonly FileResult[]): string {
  const files = results.map(({ path, format, tally, seconds }) => ({
    file: basename(path),
    format,
    seconds,
    ...tally.total,
    kinds: Object.fromEntries(tally.kinds),
    deviations: Object.fromEntries(tally.deviations),
    uncovered: Object.fromEntries(tally.uncovered),
    notes: Object.fromEntries(tally.notes),
    mismatches: tally.mismatches,
  }));
  return JSON.stringify({ ...totals(results), files }, null, 2);
}

function countsText({ passed, failed, deviated, uncovered }: Counts): string {
  const parts = [`${passed} passed`];
  if (failed > 0) parts.push(`${failed} FAILED`);
  if (deviated > 0) parts.push(`${deviated} deviated`);
  if (uncovered > 0) parts.push(`${uncovered} not covered`);
  return parts.join(", ");
}

/** The program without its process: plays each trace twice, prints the tables, writes the report, and answers the exit code. */

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { readArguments, USAGE } from "./command-line.js";
import { announceDifferences, type Follow, unmapAllThenMap } from "./follow/follow.js";
import { playTrace } from "./play-trace.js";
import { ProgressBar, type ProgressOutput } from "./progress-bar.js";
import { htmlReport } from "./report/html-report.js";
import { type Comparison, failureCount, summarize } from "./report/summary.js";
import { textTable } from "./report/text-table.js";
import { TraceError } from "./trace/trace-error.js";
import { openTrace } from "./trace/trace-file.js";
import type { Trace } from "./trace/trace.js";
import type { Playback } from "./trace-player.js";

/** Where things go. */
export interface DemoOutput {
  /** Lines of the result. */
  print(line: string): void;
  /** Progress and problems. */
  readonly progress: ProgressOutput;
  /** The traces and the report that are used when the command line names none. */
  readonly defaultTraces: readonly string[];
  readonly defaultReport: string;
}

/** The answer of the program: everything as it should be, something measured differs, or it could not be played. */
export const ExitCode = { ok: 0, differs: 1, unusable: 2 } as const;

/** Runs the demo. */
export function runDemo(words: readonly string[], output: DemoOutput): number {
  const choices = readArguments(words);
  if (typeof choices === "string") {
    output.progress.write(`${choices}\n\n${USAGE}\n`);
    return ExitCode.unusable;
  }
  if (choices.help) {
    output.print(USAGE);
    return ExitCode.ok;
  }
  try {
    const files = choices.files.length === 0 ? output.defaultTraces : choices.files;
    const comparisons = files.map((file) => compare(openTrace(file), output.progress));
    for (const comparison of comparisons) printComparison(comparison, output);
    const report = choices.report ?? output.defaultReport;
    mkdirSync(dirname(report), { recursive: true });
    writeFileSync(report, htmlReport(comparisons));
    output.print(`Report with plots: ${report}`);
    return comparisons.every((comparison) => failureCount(comparison) === 0) ? ExitCode.ok : ExitCode.differs;
  } catch (error) {
    if (!(error instanceof TraceError)) throw error;
    output.progress.write(`${error.message}\n  ${error.hint}\n`);
    return ExitCode.unusable;
  }
}

function compare(trace: Trace, progress: ProgressOutput): Comparison {
  const old = playWithBar(trace, unmapAllThenMap, "unmap all, then map", progress);
  const ours = playWithBar(trace, announceDifferences, "only differences   ", progress);
  return { old, ours };
}

function playWithBar(trace: Trace, follow: Follow, what: string, progress: ProgressOutput): Playback {
  const bar = new ProgressBar(`${trace.name}, ${what}`, progress);
  const playback = playTrace(trace, follow, (part) => bar.update(part));
  bar.finish(playback.milliseconds);
  return playback;
}

function printComparison(comparison: Comparison, output: DemoOutput): void {
  const { ours, old } = comparison;
  const { header, name, lineCount } = ours.trace;
  output.print("");
  output.print(`${name}: ${header.guest}, ${header.kernelArguments}`);
  output.print(`${header.work}; ${lineCount.toLocaleString("en-US")} recorded events`);
  for (const table of summarize(comparison)) {
    output.print("");
    for (const line of textTable(table)) output.print(line);
  }
  for (const mismatch of new Set([...ours.mismatches, ...old.mismatches])) output.print(`  DIFFERS ${mismatch}`);
  output.print("");
}

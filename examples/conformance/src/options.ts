/** The command line. */

import { parseArgs } from "node:util";

/** What was asked for. */
export interface Options {
  readonly files: readonly string[];
  /** One JSON document on standard output; the last line goes to standard error. */
  readonly json: boolean;
  /** Every mismatch, not only the first. */
  readonly verbose: boolean;
  /** Only this case of each case file. */
  readonly onlyCase: number | undefined;
  /** Compare the deviations with docs/deviations.md. */
  readonly checkDocs: boolean;
  /** Write them there. */
  readonly updateDocs: boolean;
}

/** How the program is called. */
export const USAGE = `usage: pnpm conformance FILE... [--json] [--verbose] [--case ID] [--check-docs | --update-docs]
  FILE          gzip JSON lines: vtd-cases, vtd-replay-cases, vtd-irq-cases or vtd-linux-trace, at any path
  --json        figures of every file as one JSON document
  --verbose     every mismatch
  --case ID     only this case
  --check-docs  fail if docs/deviations.md names other counts for these files
  --update-docs write the counts of these files there`;

/**
 * Reads the command line.
 * @throws {TypeError} for an unknown option, no file, or a case that is not a number.
 */
export function readOptions(args: readonly string[]): Options {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      json: { type: "boolean" },
      verbose: { type: "boolean" },
      case: { type: "string" },
      "check-docs": { type: "boolean" },
      "update-docs": { type: "boolean" },
    },
  });
  if (positionals.length === 0) throw new TypeError("expected at least one file");
  const onlyCase = values.case === undefined ? undefined : Number(values.case);
  if (onlyCase !== undefined && !Number.isInteger(onlyCase))
    throw new TypeError(`expected the number of a case, got ${String(values.case)}`);
  return {
    files: positionals,
    json: values.json === true,
    verbose: values.verbose === true,
    onlyCase,
    checkDocs: values["check-docs"] === true,
    updateDocs: values["update-docs"] === true,
  };
}

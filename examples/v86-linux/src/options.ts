/** The command line of `pnpm linux`. */

import { parseArgs } from "node:util";
import { BuildProblem } from "./guest/build-problem.js";

/** What was asked for. */
export interface Options {
  readonly help: boolean;
  readonly list: boolean;
  /** Names to run, each one of those there are. */
  readonly chosen: readonly string[];
  readonly kernel: string | undefined;
  readonly refresh: boolean;
  /** Pairs of boots; from 1 on. */
  readonly pairs: number;
  readonly quiet: boolean;
  readonly json: boolean;
}

/** How the program is called. */
export const USAGE = `usage: pnpm linux [options]
Boots Linux in v86 on our unit, once for each scenario, and ends with a verdict.
  --scenario NAME   only this one (may be repeated)
  --kernel FILE     boot this bzImage instead of building one
  --refresh         look for newer Debian packages although the cache has what is needed
  --pairs N         pairs of boots for the comparison (default 5)
  --quiet           without the guest's console
  --json            one JSON object on standard output, everything else on standard error
  --list            the names of the scenarios`;

/**
 * Reads the command line.
 * @param names the scenarios that there are
 * @throws {BuildProblem} `bad-option`, with what is wrong and what there is.
 */
export function readOptions(args: readonly string[], names: readonly string[]): Options {
  const values = parse(args);
  const chosen = values.scenario ?? names;
  const unknown = chosen.find((name) => !names.includes(name));
  if (unknown !== undefined)
    throw new BuildProblem("bad-option", `There is no scenario "${unknown}": the names are ${names.join(", ")}.`);
  const pairs = Number(values.pairs);
  if (!Number.isInteger(pairs) || pairs < 1)
    throw new BuildProblem("bad-option", `--pairs takes a number from 1 on, and got "${values.pairs}".`);
  return { ...values, kernel: values.kernel, chosen, pairs };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        help: { type: "boolean", short: "h", default: false },
        scenario: { type: "string", multiple: true },
        kernel: { type: "string" },
        refresh: { type: "boolean", default: false },
        pairs: { type: "string", default: "5" },
        quiet: { type: "boolean", default: false },
        json: { type: "boolean", default: false },
        list: { type: "boolean", default: false },
      },
    }).values;
  } catch (cause) {
    const what = cause instanceof Error ? cause.message.split(". ")[0] : String(cause);
    throw new BuildProblem("bad-option", `${what}: \`pnpm linux --help\` names the options.`, cause);
  }
}

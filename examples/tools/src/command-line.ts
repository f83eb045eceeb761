/** The command line: which tool, and what it was given. */

import { parseArgs, type ParseArgsConfig } from "node:util";
import { ToolError } from "./tool-error.js";

/** Shown for `--help`. `program` is how it was started. */
export const usage = (program: string): string => `Usage: ${program} COMMAND [OPTIONS]

  dmar [FILE]                 decodes a DMAR table: raw bytes, or what acpidump prints
  registers [FILE]            decodes a register block: raw bytes, or lines of offset and value
  mappings TRACE              prints what devices may reach at a line of a recorded trace
  perfetto TRACE              turns a trace into one that Perfetto and Chrome show (JSON)

  --json                      dmar, registers, mappings: as JSON
  --device BUS:DEV.FN         mappings, perfetto: this device only
  --line N                    mappings: after this line of the file (default: the last)
  --from N, --to N            perfetto: only these lines
  --output FILE, -o FILE      perfetto: where to write (default: standard output)
  --help, -h                  this text

FILE is standard input when left out or "-". TRACE is a .jsonl.gz file.
Exit code: 0 done, 1 decoded but damaged or against the rules, 2 not understood or unreadable.

Examples:
  ${program} dmar /sys/firmware/acpi/tables/DMAR
  ${program} registers /sys/kernel/debug/iommu/intel/iommu_regset
  ${program} mappings trace.jsonl.gz --device 00:03.0 --line 5000
  ${program} perfetto trace.jsonl.gz --from 40000 --to 60000 -o trace.json`;

const OPTIONS = {
  json: { type: "boolean" },
  device: { type: "string" },
  line: { type: "string" },
  from: { type: "string" },
  to: { type: "string" },
  output: { type: "string", short: "o" },
  help: { type: "boolean", short: "h" },
} as const satisfies ParseArgsConfig["options"];

/** Which options each command takes. */
const TAKES: Readonly<Record<string, readonly (keyof typeof OPTIONS)[]>> = {
  dmar: ["json"],
  registers: ["json"],
  mappings: ["json", "device", "line"],
  perfetto: ["device", "from", "to", "output"],
};

/** What was asked for. */
export interface Choices {
  readonly command: string;
  /** `undefined`: standard input. */
  readonly file: string | undefined;
  readonly json: boolean;
  readonly help: boolean;
  readonly device: string | undefined;
  readonly line: number | undefined;
  readonly from: number | undefined;
  readonly to: number | undefined;
  readonly output: string | undefined;
}

/**
 * Reads the arguments.
 * @throws {ToolError} For what cannot be understood.
 */
export function readArguments(words: readonly string[]): Choices {
  const { values, positionals } = parse(words);
  const [command = "", file, ...rest] = positionals;
  const help = values.help === true || (words.length === 1 && command === "help");
  if (!help) check(command, Object.keys(values), file, rest);
  return {
    command,
    file: file === "-" ? undefined : file,
    json: values.json === true,
    help,
    device: values.device,
    line: lineNumber("line", values.line),
    from: lineNumber("from", values.from),
    to: lineNumber("to", values.to),
    output: values.output,
  };
}

function parse(words: readonly string[]) {
  try {
    return parseArgs({ args: [...words], options: OPTIONS, allowPositionals: true });
  } catch (cause) {
    throw new ToolError(cause instanceof Error ? cause.message : String(cause), "see --help", cause);
  }
}

function check(command: string, options: readonly string[], file: string | undefined, rest: readonly string[]): void {
  const takes = TAKES[command];
  if (takes === undefined) {
    const what = command === "" ? "no command is given" : `there is no command ${command}`;
    throw new ToolError(what, `commands are ${Object.keys(TAKES).join(", ")}; see --help`);
  }
  const stray = options.find((name) => !takes.some((known) => known === name));
  if (stray !== undefined)
    throw new ToolError(
      `${command} has no option --${stray}`,
      `it takes ${takes.map((name) => `--${name}`).join(", ")}`,
    );
  if (rest.length > 0)
    throw new ToolError(`${command} takes one file, got also ${rest.join(" ")}`, "run it once for each");
  const isTrace = command === "mappings" || command === "perfetto";
  if (isTrace && (file === undefined || file === "-"))
    throw new ToolError(
      `${command} needs the file of a trace`,
      "two come with examples/linux-trace, in its folder data",
    );
}

function lineNumber(name: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 1) return value;
  throw new ToolError(`--${name}: expected a line number from 1 on, got ${text}`, "line 1 is the trace's header");
}

/**
 * Runs one file: opens it, finds out what it is, and gives its lines to the runner of its format.
 */

import { FileError } from "./files/file-error.js";
import type { Format, Header } from "./files/header.js";
import { openOracleFile } from "./files/oracle-file.js";
import { formatWords } from "./files/numbers.js";
import { runCase } from "./formats/cases.js";
import { TraceRunner } from "./formats/linux-trace.js";
import { runReplayCase } from "./formats/replay.js";
import type { Case } from "./formats/steps.js";
import type { TraceEvent } from "./formats/trace-events.js";
import { Machine } from "./machine/machine.js";
import { Tally, type TallyResult } from "./report/tally.js";

/** What to run of a file. */
export interface RunOptions {
  /** How many mismatches to keep with their details. */
  readonly keep: number;
  /** Only this case. */
  readonly onlyCase?: number | undefined;
}

/** A file and how it went. */
export interface FileResult {
  readonly path: string;
  readonly format: Format;
  readonly tally: TallyResult;
  readonly seconds: number;
}

/**
 * Runs a file.
 * @throws {FileError} if it cannot be read, or ends in the middle.
 */
export async function runFile(path: string, options: RunOptions): Promise<FileResult> {
  const started = performance.now();
  const file = await openOracleFile(path);
  const tally = new Tally(options.keep);
  checkCapabilities(file.header, tally);
  if (file.header.format === "vtd-linux-trace") await runTrace(path, file.header, file.batches, tally);
  else await runCases(path, file.header, file.batches, { tally, onlyCase: options.onlyCase });
  return { path, format: file.header.format, tally: tally.result, seconds: (performance.now() - started) / 1000 };
}

/** The unit made from the header must report what the header says. */
function checkCapabilities(header: Header, tally: Tally): void {
  const { unit } = new Machine(header);
  const pairs = [
    ["VER", 0, [header.ver, unit.mmio.read32(4)]],
    ["CAP", 8, header.cap],
    ["ECAP", 0x10, header.ecap],
  ] as const;
  for (const [name, offset, [low, high]] of pairs) {
    const ours = [unit.mmio.read32(offset), unit.mmio.read32(offset + 4)] as const;
    if (ours[0] === low && ours[1] === high) tally.pass("capabilities");
    else tally.fail("capabilities", name, formatWords(...ours), formatWords(low, high));
  }
}

async function runCases(
  path: string,
  header: Header,
  batches: AsyncIterable<readonly unknown[]>,
  run: { readonly tally: Tally; readonly onlyCase: number | undefined },
): Promise<void> {
  const { tally, onlyCase } = run;
  const runOne = header.format === "vtd-replay-cases" ? runReplayCase : runCase;
  let count = 0;
  for await (const batch of batches) {
    for (const line of batch) {
      const given = line as Case;
      if (!Array.isArray(given.s))
        throw new FileError(path, `line ${count + 2} is not a case: ${JSON.stringify(line).slice(0, 60)}`);
      count += 1;
      if (onlyCase === undefined || onlyCase === given.id) runOne(header, given, tally);
    }
  }
  if (count === 0) throw new FileError(path, "has a header and no cases");
  tally.note("cases", onlyCase === undefined ? count : 1);
}

async function runTrace(
  path: string,
  header: Header,
  batches: AsyncIterable<readonly unknown[]>,
  tally: Tally,
): Promise<void> {
  const runner = new TraceRunner(header, tally);
  let line = 1;
  for await (const batch of batches) {
    for (const event of batch) {
      line += 1;
      tally.place = { id: line, step: -1 };
      if (!Array.isArray(event))
        throw new FileError(path, `line ${line} is not an event: ${JSON.stringify(event).slice(0, 60)}`);
      runner.event(event as unknown as TraceEvent);
    }
  }
  if (line === 1) throw new FileError(path, "has a header and no events");
  runner.finish();
  tally.note("events", line - 1);
}

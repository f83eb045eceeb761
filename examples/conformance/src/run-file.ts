/**
 * Runs one file: opens it, finds out what it is, and gives its lines to the runner of its format.
 */

import { IommuError } from "@iommu-kit/iommu-core";
import { FileError } from "./files/file-error.js";
import type { Format, Header } from "./files/header.js";
import { type OracleFile, openOracleFile } from "./files/oracle-file.js";
import { formatWords } from "./files/numbers.js";
import { runCase } from "./formats/cases.js";
import { TraceRunner } from "./formats/linux-trace.js";
import { runReplayCase } from "./formats/replay.js";
import type { Case } from "./formats/steps.js";
import type { TraceEvent } from "./formats/trace-events.js";
import { Machine } from "./machine/machine.js";
import { missingCapabilities } from "./machine/missing-capabilities.js";
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
  const missing = missingCapabilities(file.header);
  const run = { ...file, tally, onlyCase: options.onlyCase };
  if (missing.length > 0) await skip(run, missing.join(", "));
  else {
    checkCapabilities(path, file.header, tally);
    if (file.header.format === "vtd-linux-trace") await runTrace(run);
    else await runCases(run);
  }
  const seconds = (performance.now() - started) / 1000;
  return { path, format: file.header.format, tally: tally.result, seconds };
}

interface Run extends OracleFile {
  readonly tally: Tally;
  readonly onlyCase: number | undefined;
}

/** Every case, or every event, of a unit that ours cannot be. */
async function skip({ batches, tally }: Run, part: string): Promise<void> {
  for await (const batch of batches) for (let left = batch.length; left > 0; left--) tally.skip("line", part);
}

/** The unit made from the header must report what the header says. */
function checkCapabilities(path: string, header: Header, tally: Tally): void {
  const { unit } = makeMachine(path, header);
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

function makeMachine(path: string, header: Header): Machine {
  try {
    return new Machine(header);
  } catch (error) {
    if (error instanceof IommuError)
      throw new FileError(path, `describes no possible unit: ${error.message}`, { cause: error });
    throw error;
  }
}

async function runCases({ path, header, batches, tally, onlyCase }: Run): Promise<void> {
  const runOne = header.format === "vtd-replay-cases" ? runReplayCase : runCase;
  let count = 0;
  for await (const batch of batches) {
    for (const line of batch) {
      const given = line as Case;
      if (!Array.isArray(given.s)) {
        throw new FileError(path, `line ${count + 2} is not a case: ${JSON.stringify(line).slice(0, 60)}`);
      }
      count += 1;
      if (onlyCase !== undefined && onlyCase !== given.id) continue;
      guard(tally, () => runOne(header, given, tally));
    }
  }
  if (count === 0) throw new FileError(path, "has a header and no cases");
  tally.note("cases", onlyCase === undefined ? count : 1);
}

async function runTrace({ path, header, batches, tally }: Run): Promise<void> {
  const runner = new TraceRunner(header, tally);
  let line = 1;
  for await (const batch of batches) {
    for (const event of batch) {
      line += 1;
      tally.place = { id: line, step: -1 };
      if (!Array.isArray(event)) {
        throw new FileError(path, `line ${line} is not an event: ${JSON.stringify(event).slice(0, 60)}`);
      }
      guard(tally, () => runner.event(event as unknown as TraceEvent));
    }
  }
  if (line === 1) throw new FileError(path, "has a header and no events");
  guard(tally, () => runner.finish());
  tally.note("events", line - 1);
}

/** Nothing that a guest does may make the unit throw: if it does, that is a failure of the case or event, and the rest still runs. */
function guard(tally: Tally, action: () => void): void {
  try {
    action();
  } catch (error) {
    tally.fail(
      "no exception",
      "thrown",
      error instanceof Error ? (error.stack ?? error.message) : String(error),
      "none",
    );
  }
}

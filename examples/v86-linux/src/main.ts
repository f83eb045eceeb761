/** `pnpm linux`: boots Linux in v86 on our unit, once for each scenario, and ends with a verdict. `--help` names the options. */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BootComparison, compareBoots } from "./boot-time.js";
import { BuildProblem } from "./guest/build-problem.js";
import { type GuestFiles, guestFiles } from "./guest/guest-files.js";
import { readOptions, USAGE } from "./options.js";
import type { ScenarioResult } from "./run-scenario.js";
import type { Check } from "./scenario.js";
import { runJob } from "./scenario-process.js";
import { SCENARIOS } from "./scenarios.js";
import type { SnapshotResult } from "./snapshot.js";
import { bootReport, scenarioReport, snapshotReport, verdict } from "./verdict.js";

/** What `--json` prints. */
interface Report {
  readonly ok: boolean;
  readonly kernel: string;
  readonly scenarios: readonly ScenarioResult[];
  readonly snapshot: { readonly save: SnapshotResult; readonly restore: SnapshotResult } | undefined;
  readonly bootTime: BootComparison | undefined;
}

const SNAPSHOT = "snapshot";
const BOOT_TIME = "boot-time";

async function main(): Promise<void> {
  const names = [...SCENARIOS.map(({ name }) => name), SNAPSHOT, BOOT_TIME];
  const { help, list, chosen, kernel, refresh, pairs, quiet, json } = readOptions(process.argv.slice(2), names);
  if (help) return console.log(USAGE);
  if (list) return console.log(names.join("\n"));

  const say = json ? (line: string) => console.error(line) : (line: string) => console.log(line);
  const onLine = quiet ? () => undefined : (line: string) => say(`  | ${line}`);
  const files = await guestFiles({
    progress: say,
    refresh,
    ...(kernel === undefined ? {} : { kernel }),
  });
  say(`kernel: ${files.kernel.version}`);

  const scenarios: ScenarioResult[] = [];
  for (const { name, title } of SCENARIOS.filter((scenario) => chosen.includes(scenario.name))) {
    say(`\n== ${name}: ${title}`);
    const result = await runJob({ kind: "scenario", name, files }, onLine).catch((error: unknown) =>
      brokenOff(name, title, error),
    );
    scenarios.push(result);
    for (const line of scenarioReport(result)) say(line);
  }
  const snapshot = chosen.includes(SNAPSHOT) ? await runSnapshot(files, say, onLine) : undefined;
  const bootTime = chosen.includes(BOOT_TIME) ? await runBoots(files, pairs, say) : undefined;
  const ok =
    scenarios.every((result) => result.ok) && (snapshot === undefined || (snapshot.save.ok && snapshot.restore.ok));
  const report: Report = { ok, kernel: files.kernel.version, scenarios, snapshot, bootTime };
  for (const line of verdict(scenarios, snapshot, bootTime)) say(line);
  if (json) console.log(JSON.stringify(report));
  process.exitCode = ok ? 0 : 1;
}

async function runSnapshot(
  files: GuestFiles,
  say: (line: string) => void,
  onLine: (line: string) => void,
): Promise<Report["snapshot"]> {
  say(`\n== ${SNAPSHOT}: saved in the middle of disk I/O, restored in a new process`);
  const directory = await mkdtemp(join(tmpdir(), "iommu-kit-snapshot-"));
  try {
    const save = await runJob({ kind: "save", directory, files }, onLine).catch(failedSnapshot);
    const restore = save.ok
      ? await runJob({ kind: "restore", directory, files }, onLine).catch(failedSnapshot)
      : failedSnapshot("nothing was saved");
    for (const line of snapshotReport(save, restore)) say(line);
    return { save, restore };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

async function runBoots(files: GuestFiles, pairCount: number, say: (line: string) => void): Promise<BootComparison> {
  say(`\n== ${BOOT_TIME}: ${pairCount} pairs of boots to user space, with the unit and without`);
  const comparison = await compareBoots(pairCount, (withUnit) =>
    runJob({ kind: "boot", withUnit, files }, () => undefined),
  );
  for (const line of bootReport(comparison)) say(line);
  return comparison;
}

/** A machine that ended without an answer is a result like any other: the others still run. */
function brokenOff(name: string, title: string, error: unknown): ScenarioResult {
  const check: Check = {
    what: "the machine runs to the end",
    expected: "an answer",
    found: error instanceof Error ? error.message : String(error),
    ok: false,
  };
  const unit = { faults: 0, invalidations: 0, maps: 0, unmaps: 0, changes: 0, windowPages: 0, failedAttachments: 0 };
  return {
    name,
    title,
    ok: false,
    seconds: 0,
    checks: [check],
    unit,
    dma: {},
    interruptsDelivered: 0,
    judge: undefined,
    container: undefined,
    dump: undefined,
    examples: [],
  };
}

function failedSnapshot(error: unknown): SnapshotResult {
  const check: Check = {
    what: "the machine answers",
    expected: "an answer",
    found: error instanceof Error ? error.message : String(error),
    ok: false,
  };
  return { ok: false, checks: [check], machineBytes: 0, unitBytes: 0, milliseconds: 0 };
}

try {
  await main();
} catch (error) {
  // What a person can mend is one sentence; anything else is our own mistake and keeps its trace.
  if (!(error instanceof BuildProblem)) throw error;
  console.error(error.message);
  process.exitCode = 2;
}

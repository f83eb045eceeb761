/**
 * What a run looks like to a person: one line per expectation, what the unit did, and a table at the end.
 */

import type { BootComparison } from "./boot-time.js";
import type { ScenarioResult } from "./run-scenario.js";
import type { Check } from "./scenario.js";
import type { SnapshotResult } from "./snapshot.js";

/** A scenario's lines. */
export function scenarioReport(result: ScenarioResult): readonly string[] {
  return [
    ...result.checks.map(checkLine),
    ...unitLines(result),
    ...(result.ok ? [] : result.examples).map((example) => `     ${example}`),
    `  ${mark(result.ok)} ${result.name} (${result.seconds.toFixed(1)} s)`,
  ];
}

/** The snapshot's lines. */
export function snapshotReport(save: SnapshotResult, restore: SnapshotResult): readonly string[] {
  const sizes = `     machine ${megabytes(save.machineBytes)}, unit ${save.unitBytes.toLocaleString("en")} bytes; saved in ${save.milliseconds.toFixed(0)} ms, restored in ${restore.milliseconds.toFixed(0)} ms`;
  return [...save.checks.map(checkLine), ...restore.checks.map(checkLine), sizes];
}

/** The comparison's lines. */
export function bootReport({
  pairs,
  medianWallRatio,
  medianCpuRatio,
  medianInstructionRatio,
}: BootComparison): readonly string[] {
  const seconds = (milliseconds: number): string => `${(milliseconds / 1000).toFixed(2)} s`;
  return [
    ...pairs.map(({ withUnit, without }, index) => {
      const wall = `${seconds(withUnit.wallMilliseconds)} with, ${seconds(without.wallMilliseconds)} without: ${(withUnit.wallMilliseconds / without.wallMilliseconds).toFixed(3)}`;
      const cpu = `processor ${seconds(withUnit.cpuMilliseconds)} and ${seconds(without.cpuMilliseconds)}: ${(withUnit.cpuMilliseconds / without.cpuMilliseconds).toFixed(3)}`;
      return `     pair ${index + 1}: ${wall}; ${cpu}`;
    }),
    `     median of the ratios: ${medianWallRatio.toFixed(3)} (wall), ${medianCpuRatio.toFixed(3)} (processor), ${medianInstructionRatio.toFixed(3)} (instructions of the guest); the goal is 1.1`,
  ];
}

/** The table at the end. */
export function verdict(
  scenarios: readonly ScenarioResult[],
  snapshot: { readonly save: SnapshotResult; readonly restore: SnapshotResult } | undefined,
  boots: BootComparison | undefined,
): readonly string[] {
  const rows: (readonly [ok: boolean, name: string, detail: string])[] = scenarios.map((result) => [
    result.ok,
    result.name,
    detailOf(result),
  ]);
  if (snapshot !== undefined)
    rows.push([
      snapshot.save.ok && snapshot.restore.ok,
      "snapshot",
      `machine ${megabytes(snapshot.save.machineBytes)}, restored in ${snapshot.restore.milliseconds.toFixed(0)} ms`,
    ]);
  const width = Math.max(0, ...rows.map(([, name]) => name.length));
  const passed = rows.filter(([ok]) => ok).length;
  return [
    "",
    "== verdict",
    ...rows.map(([ok, name, detail]) => `  ${mark(ok)} ${name.padEnd(width)}  ${detail}`),
    ...(boots === undefined
      ? []
      : [
          `       boot with the unit: ${boots.medianWallRatio.toFixed(3)} times as long as without, ${boots.medianCpuRatio.toFixed(3)} times the processor time (median of ${boots.pairs.length} pairs; not judged)`,
        ]),
    `${passed} passed, ${rows.length - passed} failed`,
  ];
}

function detailOf({ checks, judge, dump, unit }: ScenarioResult): string {
  const failed = checks.find((check) => !check.ok);
  if (failed !== undefined) return `${failed.what}: wanted ${failed.expected}, found ${failed.found}`;
  const parts = [`${checks.length} checks`];
  if (judge !== undefined)
    parts.push(
      `${judge.checks.toLocaleString("en")} pages judged, ${judge.mismatches} mismatches, ${judge.vanished} vanished`,
    );
  if (dump !== undefined)
    parts.push(`driver's dump ${dump.pages.toLocaleString("en")} pages, ${dump.different} different`);
  if (unit.faults > 0) parts.push(`${unit.faults.toLocaleString("en")} faults`);
  return parts.join("; ");
}

function checkLine({ ok, what, expected, found }: Check): string {
  return ok ? `  ${mark(ok)} ${what}: ${found}` : `  ${mark(ok)} ${what}: wanted ${expected}, found ${found}`;
}

function unitLines({ unit, dma, interruptsDelivered, judge, container }: ScenarioResult): readonly string[] {
  const devices = Object.entries(dma)
    .filter(([, { reads, writes }]) => reads + writes > 0)
    .map(
      ([name, { reads, writes, bytesRead, bytesWritten, refused }]) =>
        `     ${name}: ${reads} reads (${megabytes(bytesRead)}), ${writes} writes (${megabytes(bytesWritten)}), ${refused} refused`,
    );
  const did = `     the unit: ${unit.invalidations} invalidations, ${unit.maps} maps, ${unit.unmaps} unmaps, ${unit.changes} changes, ${unit.faults} faults, ${interruptsDelivered} messages`;
  const judged: string[] = [];
  if (judge !== undefined) {
    const { checks, maps, unmaps, replaces } = judge;
    judged.push(`     the shadows: ${checks} pages checked, ${maps} maps, ${unmaps} unmaps, ${replaces} replaces`);
  }
  if (container !== undefined) judged.push(`     the VFIO notifier's containers: ${container.checks} pages checked`);
  return [...devices, did, ...judged];
}

function mark(ok: boolean): string {
  return ok ? "ok  " : "FAIL";
}

function megabytes(byteLength: number): string {
  return `${(byteLength / 1e6).toFixed(1)} MB`;
}

/**
 * Scenarios as files: one step a line, so that people can read and cut them.
 */

import { readFileSync, writeFileSync } from "node:fs";
import type { Scenario } from "./step.js";

/** Writes a scenario. */
export function writeScenario(path: string, scenario: Scenario): void {
  const { version, note, unit, steps } = scenario;
  const lines = steps.map((step) => `    ${JSON.stringify(step)}`).join(",\n");
  const said = note === undefined ? "" : `  "note": ${JSON.stringify(note)},\n`;
  writeFileSync(
    path,
    `{\n  "version": ${version},\n${said}  "unit": ${JSON.stringify(unit)},\n  "steps": [\n${lines}\n  ]\n}\n`,
  );
}

/** @throws {Error} for a file that is none, or of another version. */
export function readScenario(path: string): Scenario {
  const scenario = JSON.parse(readFileSync(path, "utf8")) as Scenario;
  if (scenario.version !== 1) throw new Error(`${path}: expected version 1, got ${String(scenario.version)}`);
  return scenario;
}

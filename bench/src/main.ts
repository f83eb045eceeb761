/** `pnpm bench`: every group of rows in a process of its own. `--help` names the options. */

import { fork } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { Group, Size } from "./group.js";
import { devicesGroup } from "./groups/devices.js";
import { dmaGroup } from "./groups/dma.js";
import { flushGroup } from "./groups/flush.js";
import { interruptGroup } from "./groups/interrupt.js";
import { memoryGroup } from "./groups/memory.js";
import { moveGroup } from "./groups/move.js";
import { replayGroup } from "./groups/replay.js";
import { scaleGroup } from "./groups/scale.js";
import { sharedGroup } from "./groups/shared.js";
import { sizeGroup } from "./groups/size.js";
import { translateGroup } from "./groups/translate.js";
import { treeGroup } from "./groups/tree.js";
import { describeMachine } from "./machine.js";
import { type Row, verdict } from "./row.js";
import { markdownTable, terminalLine, updatePage } from "./table.js";

const GROUPS: readonly Group[] = [
  flushGroup,
  scaleGroup,
  devicesGroup,
  replayGroup,
  moveGroup,
  translateGroup,
  sharedGroup,
  dmaGroup,
  interruptGroup,
  treeGroup,
  memoryGroup,
  sizeGroup,
];
const FULL: Size = { pages: 2 ** 20, manyPages: 2 ** 24, pairs: 11 };
const SMALL: Size = { pages: 2 ** 14, manyPages: 2 ** 16, pairs: 2 };

const OPTIONS = {
  help: { type: "boolean", short: "h", default: false },
  small: { type: "boolean", default: false },
  only: { type: "string" },
  json: { type: "string" },
  update: { type: "boolean", default: false },
  group: { type: "string" },
} as const;
const USAGE = `usage: pnpm bench [--small] [--only GROUP,...] [--json FILE] [--update]
  --small   few pages and pairs: proves that every row is correct, says nothing about time
  --only    only these groups: ${GROUPS.map(({ name }) => name).join(", ")}
  --json    writes the rows for programs
  --update  writes the table into bench/README.md`;

const values = readOptions();

if (values.help) console.log(USAGE);
else if (values.group === undefined) await runAll();
else await runGroup(values.group);

/** What was asked for. Ends the process with the usage if it cannot be understood. */
function readOptions() {
  try {
    return parseArgs({ options: OPTIONS }).values;
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n${USAGE}`);
    return process.exit(2);
  }
}

/** A group, in the process that was started for it: rows go to the parent. */
async function runGroup(name: string): Promise<void> {
  const group = GROUPS.find((candidate) => candidate.name === name);
  await group?.measure(values.small ? SMALL : FULL, (row) => void process.send?.(row));
  process.disconnect?.();
}

async function runAll(): Promise<void> {
  const wanted = values.only?.split(",") ?? GROUPS.map(({ name }) => name);
  const unknown = wanted.filter((name) => GROUPS.every((group) => group.name !== name));
  if (unknown.length > 0) {
    console.error(`no group ${unknown.join(", ")}\n${USAGE}`);
    process.exit(2);
  }
  if (values.update && (values.small || values.only !== undefined)) {
    console.error(`--update writes a full run: leave out --small and --only\n${USAGE}`);
    process.exit(2);
  }
  const machine = describeMachine();
  console.log(`${machine}; medians of paired ratios\n`);
  const rows: Row[] = [];
  for (const name of wanted) {
    for (const row of await measured(name)) rows.push(row);
  }
  const count = (word: string): number => rows.filter((row) => verdict(row).startsWith(word)).length;
  console.log(`\n${count("met")} goals met, ${count("missed")} missed, ${count("not measured")} not measured`);
  if (values.json !== undefined) {
    const judged = rows.map((row) => ({ ...row, verdict: verdict(row) }));
    writeFileSync(values.json, `${JSON.stringify({ machine, rows: judged }, undefined, 2)}\n`);
  }
  if (values.update) updatePage(new URL("../README.md", import.meta.url), markdownTable(machine, rows));
}

/** Runs a group and prints its rows as they come. */
async function measured(name: string): Promise<readonly Row[]> {
  const rows: Row[] = [];
  // Compiled code is there when it was asked for: on a busy machine a second thread might deliver it after the measurement.
  const child = fork(fileURLToPath(import.meta.url), ["--group", name, ...(values.small ? ["--small"] : [])], {
    execArgv: ["--no-concurrent-recompilation"],
  });
  child.on("message", (row: Row) => {
    rows.push(row);
    console.log(terminalLine(row));
  });
  const [code] = (await once(child, "exit")) as [number | null];
  if (code !== 0) throw new Error(`the rows of ${name} failed`);
  if (rows.length === 0) throw new Error(`${name} measured nothing`);
  return rows;
}

/** `pnpm bench [--json FILE] [--small]`: the table, and with `--json` the same for machines. Ratios are the result; nanoseconds are for orientation. */

import { writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { consumed } from "./ratio.js";
import { measureRows, type Row } from "./rows.js";

const words = process.argv.slice(2);
const small = words.includes("--small");
const json = words.includes("--json") ? words[words.indexOf("--json") + 1] : undefined;
const rows: Row[] = [];

const machine = `Node ${process.version}, ${cpus().length} x ${cpus()[0]?.model ?? "unknown"}`;
console.log(`${machine}; medians of paired ratios\n`);
console.log(["ratio", "goal", "", "ns", "ns", "what, against what"].map((word) => word.padStart(8)).join(" "));
measureRows(small ? { pages: 2 ** 15, pairs: 3 } : { pages: 2 ** 20, pairs: 11 }, (row) => {
  rows.push(row);
  const met = row.ratio <= row.goal;
  const cells = [
    row.ratio.toFixed(2),
    row.goal.toString(),
    met ? "" : "missed",
    row.subject.toFixed(1),
    row.baseline.toFixed(1),
  ];
  console.log(
    `${cells.map((cell) => cell.padStart(8)).join(" ")} ${row.name}, against ${row.against}, for each ${row.unit}`,
  );
});
console.log(
  `\nnot measured: the C tree of GLib, sorted-btree and bintrees (no row uses them yet); memory and bundle size. (${consumed() === 0 ? "nothing ran" : "all results checked"})`,
);
if (json !== undefined) writeFileSync(json, `${JSON.stringify({ machine, rows }, undefined, 2)}\n`);

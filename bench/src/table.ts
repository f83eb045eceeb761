/** The table: for people, in the terminal and in README.md. */

import { readFileSync, writeFileSync } from "node:fs";
import { detailText, goalText, resultText, type Row, verdict } from "./row.js";

const BEGIN = "<!-- results -->";
const END = "<!-- end of results -->";

/** One line for the terminal. */
export function terminalLine(row: Row): string {
  const cells = [resultText(row).padStart(9), goalText(row).padStart(8), verdict(row).padEnd(30)];
  return `${cells.join("  ")}  ${row.what}; ${row.against}  ${detailText(row)}`.trimEnd();
}

/** A table of Markdown, with a sentence about the machine. */
export function markdownTable(machine: string, rows: readonly Row[]): string {
  const lines = [
    `${machine}.`,
    "",
    "| what | against | result | goal | verdict | both sides |",
    "|---|---|---|---|---|---|",
    ...rows.map((row) => {
      const cells = [row.what, row.against, resultText(row), goalText(row), verdict(row), detailText(row)];
      return `| ${cells.join(" | ")} |`;
    }),
  ];
  return lines.join("\n");
}

/** Replaces the results in a page. */
export function updatePage(file: URL, table: string): void {
  const page = readFileSync(file, "utf8");
  const begin = page.indexOf(BEGIN);
  const end = page.indexOf(END);
  if (begin < 0 || end < begin) throw new Error(`${file.pathname}: expected ${BEGIN} and ${END}`);
  writeFileSync(file, `${page.slice(0, begin + BEGIN.length)}\n\n${table}\n\n${page.slice(end)}`);
}

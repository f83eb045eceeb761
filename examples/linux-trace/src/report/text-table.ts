/** A table for the terminal: the first columns of words to the left, figures to the right. */

import type { Table } from "./summary.js";

/** The lines of a table, indented by two. */
export function textTable({ title, columns, rows, note }: Table): string[] {
  const widths = columns.map((column, index) => Math.max(column.length, ...rows.map((row) => row[index]?.length ?? 0)));
  const isNumeric = columns.map((_, index) => index > 0 && rows.every((row) => /^[\d,. %ms]*$/.test(row[index] ?? "")));
  const format = (cells: readonly string[]): string =>
    widths
      .map((width, index) =>
        isNumeric[index] === true ? (cells[index] ?? "").padStart(width) : (cells[index] ?? "").padEnd(width),
      )
      .join("  ")
      .trimEnd();
  const rule = "─".repeat(widths.reduce((sum, width) => sum + width + 2, -2));
  const lines = [`  ${title}`, `  ${rule}`];
  if (columns.some((column) => column !== "")) lines.push(`  ${format(columns)}`.trimEnd());
  for (const row of rows) lines.push(`  ${format(row)}`);
  if (note !== undefined) lines.push(...wrap(note, 100).map((line) => `  ${line}`));
  return lines;
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + word.length + 1 > width) {
      lines.push(line);
      line = "";
    }
    line += line === "" ? word : ` ${word}`;
  }
  return [...lines, line];
}

/** `dmar`: a DMAR table as an outline, with everything that is damaged or against the rules (§8). */

import { decodeDmar } from "@iommu-kit/iommu-vtd/acpi";
import { isText, textOf } from "./input.js";
import { outline } from "./outline.js";
import { ToolError } from "./tool-error.js";

/** What a tool says, and whether what it looked at is as it should be. */
export interface Answer {
  readonly lines: Iterable<string>;
  readonly ok: boolean;
}

/** A line of a hexadecimal dump: an offset, and up to 16 bytes. */
const DUMP_LINE = /^\s*[0-9A-Fa-f]{2,8}:((?:\s[0-9A-Fa-f]{2}){1,16})(?:\s|$)/;

/**
 * Decodes a table.
 * @throws {ToolError} If there is no table.
 */
export function dmar(input: Uint8Array, json: boolean): Answer {
  const decoded = decodeDmar(isText(input) ? bytesOfDump(textOf(input)) : input);
  const { table, problems, skipped } = decoded;
  if (table === undefined) {
    const [problem] = problems;
    throw new ToolError(problem?.message ?? "there is no table", problem?.hint ?? "give the bytes of a DMAR table");
  }
  const ok = problems.length === 0;
  if (json) return { lines: [JSON.stringify(decoded, undefined, 2)], ok };
  return {
    lines: [
      "DMAR table",
      ...outline(table, "  "),
      ...skipped.map(({ type, offsetBytes, byteLength }) => {
        return `skipped: a structure of type ${type}, ${byteLength} bytes at offset ${offsetBytes}`;
      }),
      ...problems.map(({ where, message }) => `problem: ${where === "" ? "the table" : where}: ${message}`),
      ok ? "no problems" : `${problems.length} ${problems.length === 1 ? "problem" : "problems"}`,
    ],
    ok,
  };
}

/** The bytes of what `acpidump` prints, of the table DMAR if there are several. */
function bytesOfDump(text: string): Uint8Array {
  const lines = text.split(/\r?\n/);
  const start = lines.findIndex((line) => /^DMAR\s*@/.test(line));
  const bytes: number[] = [];
  for (const line of lines.slice(start + 1)) {
    if (/^[A-Z0-9]{4}\s*@/.test(line)) break;
    const [, dump] = DUMP_LINE.exec(line) ?? [];
    for (const byte of dump?.trim().split(/\s/) ?? []) bytes.push(Number.parseInt(byte, 16));
  }
  if (bytes.length > 0) return Uint8Array.from(bytes);
  throw new ToolError(
    "the input is text without a hexadecimal dump",
    "give the table's bytes, or what acpidump prints",
  );
}

/** `registers`: a register block, field by field, and its fault records (§11.4). */

import { inspectRegisterBlock, type RegisterBlockInspection } from "@iommu-kit/iommu-vtd/inspect";
import type { Answer } from "./dmar.js";
import { isText, textOf } from "./input.js";
import { ToolError } from "./tool-error.js";

/** Offset and value, perhaps behind a name, as Linux's debugfs lists them: `CAP  0x08  0x00d2008c222f0686`. */
const LINE = /^\s*(?:([A-Za-z_][\w-]*)[\s:]+)?(?:0x)?([0-9A-Fa-f]{1,4})[\s:=]+(?:0x)?([0-9A-Fa-f]{1,16})\s*$/;
/** The largest block that a unit may have. */
const MOST_WORDS = 2 ** 16;
/** Registers of 32 bits: a value of 64 bits for one of them has nothing above. */
const NARROW: ReadonlySet<number> = new Set([
  0x00, 0x18, 0x1c, 0x34, 0x38, 0x3c, 0x40, 0x44, 0x64, 0x68, 0x6c, 0x9c, 0xa0, 0xa4, 0xa8, 0xac, 0xdc, 0xe0, 0xe4,
  0xe8, 0xec,
]);

/**
 * Decodes a block.
 * @throws {ToolError} If there is nothing of one.
 */
export function registers(input: Uint8Array, json: boolean): Answer {
  const words = isText(input) ? wordsOfLines(textOf(input)) : wordsOf(input);
  const block = inspectRegisterBlock(words);
  if (json) return { lines: [JSON.stringify(block, undefined, 2)], ok: true };
  return { lines: describe(block), ok: true };
}

function* describe({ registers: shown, faults }: RegisterBlockInspection): Generator<string> {
  for (const { name, title, section, offsetBytes, value, fields } of shown) {
    yield `${offsetBytes.toString(16).padStart(3, "0")} ${name} ${value}  ${title}, ${section}`;
    for (const { name: field, bits, value: number, meaning } of fields)
      if (number !== 0)
        yield `      ${field} [${bits}] = ${number < 10 ? number : `0x${number.toString(16)}`}  ${meaning}`;
  }
  yield faults.length === 0 ? "no fault is recorded" : "fault records";
  for (const { index, pending, sourceId, request, where, names, meaning } of faults)
    yield `  ${index}${pending ? "" : " (cleared)"}: ${sourceId}, ${request} at ${where}: ${names}: ${meaning}`;
}

function wordsOf(bytes: Uint8Array): Int32Array {
  if (bytes.length % 4 !== 0 || bytes.length < 0x20) {
    throw new ToolError(
      `a register block is a multiple of 4 bytes and at least 32 long, got ${bytes.length} bytes`,
      "dump the whole block, usually 4096 bytes",
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = Math.min(MOST_WORDS, bytes.length / 4);
  return Int32Array.from({ length }, (_, word) => view.getInt32(word * 4, true));
}

function wordsOfLines(text: string): Int32Array {
  const words = new Int32Array(MOST_WORDS);
  let found = 0;
  for (const line of text.split(/\r?\n/)) {
    const [, , at, digits] = LINE.exec(line) ?? [];
    if (at === undefined || digits === undefined) continue;
    const offsetBytes = Number.parseInt(at, 16);
    if (offsetBytes % 4 !== 0)
      throw new ToolError(`offset 0x${at} is no multiple of 4`, "give offsets in bytes, hexadecimal");
    found += 1;
    words[offsetBytes / 4] = Number.parseInt(digits.slice(-8), 16);
    if (digits.length > 8 && !NARROW.has(offsetBytes))
      words[offsetBytes / 4 + 1] = Number.parseInt(digits.slice(0, -8), 16);
  }
  if (found > 0) return words;
  throw new ToolError(
    "no line has an offset and a value",
    'lines look like "CAP 0x08 0x00d2008c222f0686" or "8: d2008c222f0686"',
  );
}

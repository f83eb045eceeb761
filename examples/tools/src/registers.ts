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

/** Linux lists the units of a machine one after the other: `IOMMU: dmar0 Register Base Address: fed90000`. */
const UNIT_LINE = /^\s*IOMMU:\s*(\S+)/;
const FSTS = 0x34;

/** One unit's block, as far as the dump has it. */
interface Dump {
  /** What the dump calls the unit, if it does. */
  readonly unit: string | undefined;
  readonly words: Int32Array;
  /** Offsets in bytes of the words that the dump has; `undefined`: all of them. */
  readonly given: ReadonlySet<number> | undefined;
}

/**
 * Decodes the block of every unit in the dump.
 * @throws {ToolError} If there is nothing of one.
 */
export function registers(input: Uint8Array, json: boolean): Answer {
  const dumps = isText(input)
    ? dumpsOfLines(textOf(input))
    : [{ unit: undefined, words: wordsOf(input), given: undefined }];
  const blocks = dumps.map((dump) => ({ unit: dump.unit, ...inspect(dump) }));
  const [only] = blocks;
  if (json) return { lines: [JSON.stringify(blocks.length === 1 ? only : blocks, undefined, 2)], ok: true };
  return { lines: blocks.flatMap((block) => [...describe(block)]), ok: true };
}

/** Only what the dump has: a register that is absent is not one that reads 0. */
function inspect({ words, given }: Dump): RegisterBlockInspection & { readonly faultsGiven: boolean } {
  const block = inspectRegisterBlock(words);
  if (given === undefined) return { ...block, faultsGiven: true };
  const shown = block.registers.filter(({ offsetBytes }) => given.has(offsetBytes) || given.has(offsetBytes + 4));
  return { ...block, registers: shown, faultsGiven: given.has(FSTS) };
}

function* describe(block: ReturnType<typeof inspect> & Pick<Dump, "unit">): Generator<string> {
  const { unit, registers: shown, faults, faultsGiven } = block;
  if (unit !== undefined) yield `unit ${unit}`;
  for (const { name, title, section, offsetBytes, value, fields } of shown) {
    yield `${offsetBytes.toString(16).padStart(3, "0")} ${name} ${value}  ${title}, ${section}`;
    for (const { name: field, bits, value: number, meaning } of fields)
      if (number !== 0)
        yield `      ${field} [${bits}] = ${number < 10 ? number : `0x${number.toString(16)}`}  ${meaning}`;
  }
  if (faults.length === 0) yield faultsGiven ? "no fault is recorded" : "fault status and records are not in the dump";
  else yield "fault records";
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

function dumpsOfLines(text: string): readonly Dump[] {
  const dumps: Dump[] = [];
  let section: string[] = [];
  let unit: string | undefined;
  for (const line of text.split(/\r?\n/)) {
    const [, name] = UNIT_LINE.exec(line) ?? [];
    if (name === undefined) section.push(line);
    else {
      const before = dumpOf(unit, section);
      if (before !== undefined) dumps.push(before);
      unit = name;
      section = [];
    }
  }
  const last = dumpOf(unit, section);
  if (last !== undefined) dumps.push(last);
  if (dumps.length > 0) return dumps;
  throw new ToolError(
    "no line has an offset and a value",
    'lines look like "CAP 0x08 0x00d2008c222f0686" or "8: d2008c222f0686"',
  );
}

/** What the lines of one unit say; `undefined`: nothing. */
function dumpOf(unit: string | undefined, lines: readonly string[]): Dump | undefined {
  const words = new Int32Array(MOST_WORDS);
  const given = new Set<number>();
  for (const line of lines) {
    const [, , at, digits] = LINE.exec(line) ?? [];
    if (at === undefined || digits === undefined) continue;
    const offsetBytes = Number.parseInt(at, 16);
    if (offsetBytes % 4 !== 0)
      throw new ToolError(`offset 0x${at} is no multiple of 4`, "give offsets in bytes, hexadecimal");
    if (given.has(offsetBytes))
      throw new ToolError(
        `offset 0x${at} is there twice`,
        'give one unit, or begin each with a line such as "IOMMU: dmar0"',
      );
    given.add(offsetBytes);
    words[offsetBytes / 4] = Number.parseInt(digits.slice(-8), 16);
    if (digits.length > 8 && !NARROW.has(offsetBytes))
      words[offsetBytes / 4 + 1] = Number.parseInt(digits.slice(0, -8), 16);
  }
  return given.size === 0 ? undefined : { unit, words, given };
}

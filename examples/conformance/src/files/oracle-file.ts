/**
 * Reads a gzip file of JSON lines: a header, then one case or event a line. Nothing but one chunk is held in memory.
 */

import { createReadStream } from "node:fs";
import { createGunzip } from "node:zlib";
import { pipeline } from "node:stream";
import { FileError } from "./file-error.js";
import { formatOf, type Header } from "./header.js";

/** An open file: its header, and its further lines. */
export interface OracleFile {
  readonly path: string;
  readonly header: Header;
  /** Lines, parsed, in order, in batches; each may be taken once. */
  readonly batches: AsyncGenerator<readonly unknown[], void>;
}

/**
 * Opens a file and reads its header.
 * @throws {FileError} if the file is missing, not gzip, damaged, or not one of the known formats.
 */
export async function openOracleFile(path: string): Promise<OracleFile> {
  const batches = readBatches(path);
  const first = await batches.next();
  const [head, ...rest] = first.done === true ? [] : first.value;
  if (head === undefined) throw new FileError(path, "is empty: expected a header line");
  return { path, header: formatOf(path, head), batches: withRest(rest, batches) };
}

async function* withRest(
  rest: readonly unknown[],
  batches: AsyncGenerator<readonly unknown[], void>,
): AsyncGenerator<readonly unknown[], void> {
  if (rest.length > 0) yield rest;
  yield* batches;
}

async function* readBatches(path: string): AsyncGenerator<readonly unknown[], void> {
  const gunzip = createGunzip({ chunkSize: 1 << 20 });
  // The error of either stream reaches the loop below through the second one.
  pipeline(createReadStream(path), gunzip, () => undefined);
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let lineNumber = 0;
  let partial = "";
  try {
    for await (const chunk of gunzip) {
      const lines = (partial + decoder.decode(chunk as Uint8Array, { stream: true })).split("\n");
      partial = lines.pop() ?? "";
      const firstLine = lineNumber;
      lineNumber += lines.length;
      if (lines.length > 0) yield lines.map((line, index) => parseLine(path, firstLine + index + 1, line));
    }
  } catch (error) {
    throw explain(path, error);
  }
  if (partial.trim() !== "") yield [parseLine(path, lineNumber + 1, partial)];
}

function parseLine(path: string, lineNumber: number, line: string): unknown {
  try {
    return JSON.parse(line) as unknown;
  } catch (error) {
    throw new FileError(path, `line ${lineNumber} is not JSON: ${line.slice(0, 60)}`, { cause: error });
  }
}

function explain(path: string, error: unknown): Error {
  if (error instanceof FileError) return error;
  const code = (error as { readonly code?: unknown }).code;
  const known: Record<string, string> = {
    ENOENT: "no such file",
    EISDIR: "is a folder: expected a gzip file",
    EACCES: "may not be read",
    Z_BUF_ERROR: "is damaged: the gzip data ends early",
    Z_DATA_ERROR: "is damaged, or not a gzip file",
  };
  const problem = typeof code === "string" ? known[code] : undefined;
  return new FileError(path, problem ?? (error instanceof Error ? error.message : String(error)), { cause: error });
}

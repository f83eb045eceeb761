/** Reads what a tool was given: a file or standard input, bytes or text around bytes. */

import { readFileSync } from "node:fs";
import { ToolError } from "./tool-error.js";

/**
 * All bytes of a file, or of standard input.
 * @throws {ToolError} If there are none.
 */
export function readInput(file: string | undefined): Uint8Array {
  const name = file ?? "standard input";
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(file ?? 0);
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code ?? String(cause);
    const hint = why === "EACCES" ? "run it as root, or copy the file first" : "give the path of a readable file";
    throw new ToolError(`cannot read ${name} (${why})`, hint, cause);
  }
  if (bytes.length === 0) throw new ToolError(`${name} is empty`, "give a file, or pipe something in");
  return bytes;
}

/** Whether bytes are text that a person would write: no control characters but white space. */
export function isText(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte >= 0x20 || byte === 9 || byte === 10 || byte === 13);
}

/** Bytes as text. */
export function textOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

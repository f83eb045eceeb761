/**
 * A trace file: gzip around the text of a trace. Whatever is wrong with it is a `TraceError` that says so.
 *
 * The whole file is unpacked at once (5 to 15 MB of text), which also checks its checksum.
 */

import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { gunzipSync } from "node:zlib";
import { Trace } from "./trace.js";
import { TraceError } from "./trace-error.js";

/**
 * Opens a trace file.
 * @throws {TraceError} `missing`, `damaged`, `not-a-trace` or `wrong-version`.
 */
export function openTrace(path: string): Trace {
  const name = basename(path).replace(/\.jsonl(\.gz)?$/, "");
  let packed: Buffer;
  try {
    packed = readFileSync(path);
  } catch (cause) {
    throw new TraceError("missing", `cannot read the trace ${path}`, {
      hint: "give the path of a .jsonl.gz file, or no path at all for the traces that come with the demo",
      cause,
    });
  }
  return new Trace(name, unpack(path, packed));
}

function unpack(path: string, packed: Buffer): string {
  if (packed.length === 0) throw new TraceError("damaged", `${path} is empty`, { hint: "take a fresh copy" });
  if (packed[0] !== 0x1f || packed[1] !== 0x8b) {
    throw new TraceError("not-a-trace", `${path} is not gzip`, {
      hint: "traces are gzip-compressed JSON lines (.jsonl.gz)",
    });
  }
  try {
    return gunzipSync(packed).toString("utf8");
  } catch (cause) {
    throw new TraceError("damaged", `${path} cannot be unpacked: it is cut off, or bytes in it have changed`, {
      hint: "take a fresh copy",
      cause,
    });
  }
}

/**
 * A recorded trace as text: one JSON value a line, the first of them a header. Runs anywhere; trace-file.ts reads one from a file.
 *
 * Lines are parsed one by one while the trace is played.
 */

import { parseTraceEvent, type TraceEvent } from "./trace-event.js";
import { TraceError } from "./trace-error.js";

/** What the first line says about the machine that was recorded. */
export interface TraceHeader {
  readonly guest: string;
  readonly kernelArguments: string;
  readonly work: string;
  /** Bits of the widest address, in and out. */
  readonly addressWidth: number;
  readonly cachingMode: boolean;
  /** CAP and ECAP after reset. */
  readonly cap: bigint;
  readonly ecap: bigint;
  readonly devices: readonly { readonly sourceId: number; readonly name: string }[];
  /** RAM in bytes, end excluded. */
  readonly ram: readonly { readonly start: number; readonly end: number }[];
}

/** An event and the number of its line; the header is line 1. */
export interface NumberedEvent {
  readonly lineNumber: number;
  readonly event: TraceEvent;
}

/** A trace that can be played any number of times. */
export class Trace {
  readonly name: string;
  readonly header: TraceHeader;
  /** Lines after the header. */
  readonly lineCount: number;
  readonly #text: string;

  /** @throws {TraceError} If the text does not begin with a header. */
  constructor(name: string, text: string) {
    this.name = name;
    this.#text = text;
    const end = text.indexOf("\n");
    this.header = parseHeader(name, end < 0 ? text : text.slice(0, end));
    let lines = 0;
    for (let at = end; at >= 0 && at + 1 < text.length; at = text.indexOf("\n", at + 1)) lines += 1;
    this.lineCount = lines;
    if (lines === 0) {
      throw new TraceError("damaged", `${name} has a header and nothing behind it`, {
        hint: "the file is cut off: take a fresh copy",
      });
    }
  }

  /** The events that are used. */
  *events(): Generator<NumberedEvent> {
    const text = this.#text;
    let lineNumber = 1;
    for (let at = text.indexOf("\n"); at >= 0 && at + 1 < text.length;) {
      const next = text.indexOf("\n", at + 1);
      lineNumber += 1;
      const event = parseTraceEvent(text.slice(at + 1, next < 0 ? undefined : next), lineNumber);
      if (event !== undefined) yield { lineNumber, event };
      at = next;
    }
  }
}

function parseHeader(name: string, line: string): TraceHeader {
  const fields = parseObject(name, line);
  if (fields["format"] !== "vtd-linux-trace") {
    throw new TraceError(
      "not-a-trace",
      `${name}: expected format "vtd-linux-trace", got ${JSON.stringify(fields["format"])}`,
      {
        hint: "other recordings are played by pnpm conformance",
      },
    );
  }
  if (fields["version"] !== 1) {
    throw new TraceError("wrong-version", `${name}: expected version 1, got ${JSON.stringify(fields["version"])}`, {
      hint: "this demo plays version 1 only",
    });
  }
  try {
    return readHeader(fields as unknown as RawHeader);
  } catch (cause) {
    throw new TraceError("damaged", `${name}: the header lacks what the machine is made from`, {
      hint: "take a fresh copy",
      cause,
    });
  }
}

interface RawHeader {
  readonly guest: string;
  readonly kernel_args: string;
  readonly work: string;
  readonly iommu: { readonly aw_bits: number; readonly caching_mode: boolean };
  readonly devices: readonly (readonly [string, string])[];
  readonly ram: readonly (readonly [string, string])[];
  readonly reset_registers: readonly (readonly [string, string])[];
}

function readHeader(raw: RawHeader): TraceHeader {
  const register = (offset: string): bigint =>
    BigInt(`0x${raw.reset_registers.find(([at]) => at === offset)?.[1] ?? "0"}`);
  const hex = (text: string): number => {
    const value = Number.parseInt(text, 16);
    if (!Number.isSafeInteger(value)) throw new RangeError(`expected hexadecimal, got ${text}`);
    return value;
  };
  return {
    guest: raw.guest,
    kernelArguments: raw.kernel_args,
    work: raw.work,
    addressWidth: raw.iommu.aw_bits,
    cachingMode: raw.iommu.caching_mode,
    cap: register("8") | (register("c") << 32n),
    ecap: register("10") | (register("14") << 32n),
    devices: raw.devices.map(([sid, kind]) => ({ sourceId: hex(sid), name: kind })),
    ram: raw.ram.map(([start, end]) => ({ start: hex(start), end: hex(end) })),
  };
}

function parseObject(name: string, line: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new TraceError("not-a-trace", `${name}: the first line is no JSON`, {
      hint: "a trace begins with its header",
      cause,
    });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new TraceError("not-a-trace", `${name}: the first line is no header`, {
      hint: "a trace begins with its header",
    });
  }
  return value as Record<string, unknown>;
}

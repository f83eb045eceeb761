/**
 * One line of a trace as an object: what the driver and the devices did, and what the recorded unit answered.
 *
 * Numbers are hexadecimal text in the file. Byte addresses become frame numbers plus offsets where they may exceed 2^53; lines that this program does not
 * use (the recorded unit's own walk and notifications) become `undefined`.
 */

import { TraceError } from "./trace-error.js";

/** A run of 64-bit words of guest memory that the driver changed: `words` holds low and high halves. */
export interface MemoryEvent {
  readonly kind: "memory";
  readonly gpa: number;
  readonly words: Int32Array;
}

/** A register access of 4 or 8 bytes; `value` is what was written, or what the driver got. */
export interface RegisterEvent {
  readonly kind: "write" | "read";
  readonly offsetBytes: number;
  readonly byteLength: number;
  readonly value: bigint;
}

/** A DMA request of a device. `answer` is `undefined` where it was refused. */
export interface DmaEvent {
  readonly kind: "dma";
  readonly sourceId: number;
  /** 1 read, 2 write. */
  readonly access: number;
  readonly iovaPfn: number;
  readonly answer: { readonly gpaPfn: number; readonly pageCount: number; readonly access: number } | undefined;
  readonly repeat: number;
}

/** A message-signalled interrupt of a device, or of none (`sourceId` undefined). */
export interface InterruptEvent {
  readonly kind: "interrupt";
  readonly sourceId: number | undefined;
  readonly address: number;
  readonly data: number;
  readonly answer: { readonly address: number; readonly data: number } | undefined;
  readonly repeat: number;
}

/** The recorded unit stored a dword for a wait descriptor. */
export interface WaitEvent {
  readonly kind: "wait";
  readonly gpa: number;
  readonly value: number;
}

/** The recorded unit fetched an invalidation descriptor: its low 64 bits. */
export interface DescriptorEvent {
  readonly kind: "descriptor";
  readonly low: bigint;
}

/** What this program uses of a trace. */
export type TraceEvent = MemoryEvent | RegisterEvent | DmaEvent | InterruptEvent | WaitEvent | DescriptorEvent;

const UNUSED: ReadonlySet<string> = new Set(["S", "N", "L", "P", "K", "E", "G", "A"]);

/**
 * Reads one line; `undefined` for the kinds that are not used.
 * @throws {TraceError} `bad-line`, with the line's number.
 */
export function parseTraceEvent(line: string, lineNumber: number): TraceEvent | undefined {
  // The unused kinds are half of a file: told by their letter, without parsing.
  if (line.startsWith('["') && line[3] === '"' && UNUSED.has(line[2] ?? "")) return undefined;
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch (cause) {
    throw badLine(lineNumber, "is no JSON", cause);
  }
  if (!Array.isArray(row)) throw badLine(lineNumber, "is no array");
  const event = decode(new Row(row, lineNumber));
  if (event === undefined) throw badLine(lineNumber, `has the unknown kind ${JSON.stringify(row[0])}`);
  return event;
}

function decode(row: Row): TraceEvent | undefined {
  switch (row.text(0)) {
    case "M":
      return { kind: "memory", gpa: row.number(1), words: row.words(2) };
    case "W":
    case "R":
      return {
        kind: row.text(0) === "W" ? "write" : "read",
        offsetBytes: row.number(1),
        byteLength: row.count(2),
        value: row.big(3),
      };
    case "T":
      return {
        kind: "dma",
        sourceId: row.number(1),
        access: row.count(2),
        iovaPfn: row.frame(3),
        answer:
          row.length > 4 ? { gpaPfn: row.frame(4), pageCount: row.frame(5) + 1, access: row.count(6) } : undefined,
        repeat: row.repeat,
      };
    case "I":
      return {
        kind: "interrupt",
        sourceId: row.text(1) === "-" ? undefined : row.number(1),
        address: row.number(2),
        data: row.number(3),
        answer: row.length > 4 ? { address: row.number(4), data: row.number(5) } : undefined,
        repeat: row.repeat,
      };
    case "X":
      return { kind: "wait", gpa: row.number(1), value: row.number(2) };
    case "Q":
      return { kind: "descriptor", low: row.big(1) };
    default:
      return undefined;
  }
}

/** The elements of a line, each read with its type checked. */
class Row {
  readonly #elements: readonly unknown[];
  readonly #lineNumber: number;
  /** Elements without the repetition at the end. */
  readonly length: number;
  /** How many equal events in a row the line stands for. */
  readonly repeat: number;

  constructor(elements: readonly unknown[], lineNumber: number) {
    this.#elements = elements;
    this.#lineNumber = lineNumber;
    const last = elements.at(-1);
    const repeated = typeof last === "object" && last !== null;
    this.length = elements.length - (repeated ? 1 : 0);
    this.repeat = repeated ? Number((last as { readonly x?: unknown }).x) : 1;
    if (!(Number.isInteger(this.repeat) && this.repeat >= 1))
      throw this.#bad(elements.length - 1, "a count of repetitions");
  }

  text(index: number): string {
    const element = this.#elements[index];
    if (typeof element !== "string" || element === "") throw this.#bad(index, "text");
    return element;
  }

  /** A decimal JSON number. */
  count(index: number): number {
    const element = this.#elements[index];
    if (typeof element !== "number" || !Number.isInteger(element)) throw this.#bad(index, "a whole number");
    return element;
  }

  /** A hexadecimal number below 2^52. */
  number(index: number): number {
    const value = this.#hex(index, 13);
    return Number.parseInt(value, 16);
  }

  /** The frame of a hexadecimal byte address below 2^64. */
  frame(index: number): number {
    const value = this.#hex(index, 16);
    return value.length <= 3 ? 0 : Number.parseInt(value.slice(0, -3), 16);
  }

  /** A hexadecimal number below 2^64. */
  big(index: number): bigint {
    return BigInt(`0x${this.#hex(index, 16)}`);
  }

  /** All elements from `index` on as 64-bit words: low and high halves. */
  words(index: number): Int32Array {
    const words = new Int32Array(Math.max(0, this.length - index) * 2);
    for (let at = index; at < this.length; at++) {
      const value = this.#hex(at, 16);
      words[(at - index) * 2] = Number.parseInt(value.slice(-8), 16);
      words[(at - index) * 2 + 1] = value.length > 8 ? Number.parseInt(value.slice(0, -8), 16) : 0;
    }
    return words;
  }

  #hex(index: number, digits: number): string {
    const element = this.text(index);
    if (element.length > digits || !/^[0-9a-f]+$/.test(element))
      throw this.#bad(index, `up to ${digits} hexadecimal digits`);
    return element;
  }

  #bad(index: number, expected: string): TraceError {
    const got = JSON.stringify(this.#elements[index]) ?? "nothing";
    return badLine(this.#lineNumber, `has ${got} at place ${index + 1}, where ${expected} is expected`);
  }
}

function badLine(lineNumber: number, what: string, cause?: unknown): TraceError {
  return new TraceError("bad-line", `line ${lineNumber} of the trace ${what}`, {
    hint: "the file was changed after it was recorded: take a fresh copy",
    cause,
  });
}

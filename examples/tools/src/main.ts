#!/usr/bin/env node
/** `iommu-kit`: the process around the tools. */

import { closeSync, openSync, writeSync } from "node:fs";
import { relative } from "node:path";
import { openTrace } from "@iommu-kit/linux-trace/trace/trace-file";
import { TraceError } from "@iommu-kit/linux-trace/trace/trace-error";
import { type Choices, readArguments, usage } from "./command-line.js";
import { type Answer, dmar } from "./dmar.js";
import { readInput } from "./input.js";
import { mappings } from "./mappings.js";
import { perfetto } from "./perfetto.js";
import { registers } from "./registers.js";
import { ToolError } from "./tool-error.js";

const ExitCode = { ok: 0, damaged: 1, unusable: 2 } as const;
/** Pieces are written together: a system call for each would take most of the time. */
const BUFFER_CHARACTERS = 2 ** 16;

function run(choices: Choices): Answer {
  switch (choices.command) {
    case "dmar":
      return dmar(readInput(choices.file), choices.json);
    case "registers":
      return registers(readInput(choices.file), choices.json);
    case "mappings":
      return mappings(openTrace(choices.file ?? ""), choices);
    default:
      write(choices.output, perfetto(openTrace(choices.file ?? ""), choices));
      return { lines: [], ok: true };
  }
}

/** Writes a text to a file or to standard output. A reader that has seen enough, such as `head`, is no error. */
function write(file: string | undefined, pieces: Iterable<string>): void {
  const descriptor = file === undefined ? process.stdout.fd : openOutput(file);
  let buffer = "";
  try {
    for (const piece of pieces) {
      buffer += piece;
      if (buffer.length < BUFFER_CHARACTERS) continue;
      writeAll(descriptor, buffer);
      buffer = "";
    }
    writeAll(descriptor, buffer);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EPIPE") throw error;
  } finally {
    if (file !== undefined) closeSync(descriptor);
  }
}

function openOutput(file: string): number {
  try {
    return openSync(file, "w");
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code ?? String(cause);
    throw new ToolError(`cannot write ${file} (${why})`, "give a path in a folder that exists", cause);
  }
}

/** A pipe takes what it has room for, and may have none at the moment. */
function writeAll(descriptor: number, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let done = 0; done < bytes.length;) {
    try {
      done += writeSync(descriptor, bytes, done);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
    }
  }
}

function main(words: readonly string[]): number {
  try {
    const choices = readArguments(words);
    if (choices.help) {
      write(undefined, [`${usage(program())}\n`]);
      return ExitCode.ok;
    }
    const { lines, ok } = run(choices);
    write(undefined, withLineBreaks(lines));
    return ok ? ExitCode.ok : ExitCode.damaged;
  } catch (error) {
    if (!(error instanceof ToolError || error instanceof TraceError)) throw error;
    process.stderr.write(`iommu-kit: ${error.message}\n  ${error.hint}\n`);
    return ExitCode.unusable;
  }
}

/** How this was started, for examples that can be copied. */
function program(): string {
  const script = process.argv[1] ?? "";
  return script.endsWith(".js") ? `node ${relative(process.cwd(), script)}` : "iommu-kit";
}

function* withLineBreaks(lines: Iterable<string>): Generator<string> {
  for (const line of lines) yield `${line}\n`;
}

process.exitCode = main(process.argv.slice(2));

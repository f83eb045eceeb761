/** The C tree in a process of its own, compiled when gcc and GLib are there. It measures its own batches; we take turns with it. */

import { execFileSync, spawn, spawnSync, type ChildProcessWithoutNullStreams } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { createInterface, type Interface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { Candidate, Sample } from "./ratio.js";

const source = fileURLToPath(new URL("../native/gtree.c", import.meta.url));
const binary = fileURLToPath(new URL("native/gtree", import.meta.url));

/** Look-ups of a batch of `find random`: enough to leave the caches. */
export const RANDOM_FINDS = 65_536;

/** Batches that the program knows. */
export type GTreeBatch = "find sequential" | "find random" | "insert sequential" | "remove sequential";

/** See the file's header. */
export class GTree {
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #lines: Interface;

  private constructor(pages: number, frames: number) {
    this.#process = spawn(binary, [String(pages), String(frames)]);
    this.#lines = createInterface(this.#process.stdout);
  }

  /** Starts the tree with `pages` pages in it. A sentence if that is not possible here. */
  static start(pages: number, frames: number): GTree | string {
    const flags = spawnSync("pkg-config", ["--cflags", "--libs", "glib-2.0"], { encoding: "utf8" });
    if (flags.status !== 0 || spawnSync("gcc", ["--version"]).status !== 0) {
      return "install gcc, pkg-config and libglib2.0-dev";
    }
    mkdirSync(new URL("native/", import.meta.url), { recursive: true });
    execFileSync("gcc", ["-O2", "-o", binary, source, ...flags.stdout.trim().split(/\s+/)]);
    return new GTree(pages, frames);
  }

  /** A batch as a candidate. */
  candidate(batch: GTreeBatch): Candidate {
    return { batch: () => this.#run(batch) };
  }

  stop(): void {
    this.#process.stdin.end();
  }

  async #run(batch: GTreeBatch): Promise<Sample> {
    const answer = once(this.#lines, "line") as Promise<[string]>;
    this.#process.stdin.write(`${batch}\n`);
    const [nanoseconds, check] = (await answer)[0].split(" ").map(Number);
    return { nanoseconds: nanoseconds ?? Number.NaN, check: check ?? Number.NaN };
  }
}

/** Builds the page of `web/` into a directory that any static server can serve: Vite's output, and the recordings beside it. */

import { copyFile, mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";

const WEB = fileURLToPath(new URL("../../web/", import.meta.url));
const TRACES = fileURLToPath(new URL("../../../linux-trace/data/", import.meta.url));

/** Builds into `directory`, which is emptied first. */
export async function buildPage(directory: string): Promise<void> {
  await build({
    root: WEB,
    // Relative links: the page works below any path.
    base: "./",
    configFile: false,
    logLevel: "warn",
    build: { outDir: directory, emptyOutDir: true, target: "es2022" },
  });
  const traces = join(directory, "traces");
  await mkdir(traces, { recursive: true });
  // Not ".gz": servers would send it with a content encoding, and the page unpacks it itself.
  for (const name of ["lazy39", "vfio48"])
    await copyFile(join(TRACES, `${name}.jsonl.gz`), join(traces, `${name}.bin`));
}

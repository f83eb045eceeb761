/** `pnpm demo`: the process around demo.ts. */

import { fileURLToPath } from "node:url";
import { runDemo } from "./demo.js";

const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

process.exitCode = runDemo(process.argv.slice(2), {
  print: (line) => process.stdout.write(`${line}\n`),
  progress: process.stderr,
  // vfio48: page-selective flushes, 4 KiB, 2 MiB and 1 GiB pages. lazy39: deferred, domain-wide flushes under load.
  defaultTraces: [here("../data/vfio48.jsonl.gz"), here("../data/lazy39.jsonl.gz")],
  defaultReport: here("../out/report.html"),
});

/** The device in a thread of Node. */

import { Worker } from "node:worker_threads";
import type { Thread } from "./machine.js";
import { runScenarios } from "./scenario.js";
import { report } from "./verdict.js";

function startThread(): Thread {
  const worker = new Worker(new URL("./worker/main.js", import.meta.url));
  return {
    port: worker,
    listen: (listener) => void worker.on("message", listener),
    end: () => void worker.terminate(),
  };
}

const { lines, ok } = report(await runScenarios(startThread));
for (const line of lines) console.log(line);
process.exitCode = ok ? 0 : 1;

/** Runs files side by side, as many at a time as there are processors. */

import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import type { RunOptions } from "./run-file.js";
import type { WorkerInput, WorkerOutput } from "./worker.js";

/** One answer for each path, in order. They come as the files are done. */
export function runFiles(paths: readonly string[], options: RunOptions): Promise<WorkerOutput>[] {
  const lanes: Promise<unknown>[] = Array.from({ length: availableParallelism() }, () => Promise.resolve());
  return paths.map((path, index) => {
    // A file waits for the one that is `lanes.length` places before it.
    const lane = index % lanes.length;
    const answer = (lanes[lane] ?? Promise.resolve()).then(() => start({ path, options }));
    lanes[lane] = answer.catch(() => undefined);
    return answer;
  });
}

function start(workerData: WorkerInput): Promise<WorkerOutput> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./worker.js", import.meta.url), { workerData });
    worker.once("message", resolve);
    worker.once("error", reject);
    worker.once("exit", (code) =>
      reject(new Error(`the worker for ${workerData.path} ended with code ${code} and without an answer`)),
    );
  });
}

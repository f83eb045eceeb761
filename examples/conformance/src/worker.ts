/** Runs one file in a worker and answers with its result, or with what is wrong with the file. */

import { parentPort, workerData } from "node:worker_threads";
import { FileError } from "./files/file-error.js";
import { type FileResult, runFile, type RunOptions } from "./run-file.js";

/** What a worker is given. */
export interface WorkerInput {
  readonly path: string;
  readonly options: RunOptions;
}

/** What it answers. */
export type WorkerOutput = { readonly result: FileResult } | { readonly problem: string };

const { path, options } = workerData as WorkerInput;

async function answer(): Promise<WorkerOutput> {
  try {
    return { result: await runFile(path, options) };
  } catch (error) {
    if (error instanceof FileError) return { problem: error.message };
    throw error;
  }
}

parentPort?.postMessage(await answer());

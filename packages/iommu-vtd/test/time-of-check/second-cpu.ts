/** A guest's second CPU: a thread that changes entries of tables in shared memory as fast as it can (guest-thread.mjs). */

import { Worker } from "node:worker_threads";

/** An entry that changes, and the values that it takes in turn. Each is stored whole, as one access of 64 bits. */
export interface Place {
  readonly gpa: number;
  readonly values: readonly bigint[];
}

/** A CPU at work. */
export interface SecondCpu {
  /** How often every place has changed so far. */
  changes(): number;
  stop(): Promise<void>;
}

const threads: SecondCpu[] = [];

/** Starts one; every place holds one of its values when it has begun. */
export async function secondCpu(ram: SharedArrayBuffer, places: readonly Place[]): Promise<SecondCpu> {
  const control = new SharedArrayBuffer(8);
  const signals = new Int32Array(control);
  Atomics.store(signals, 0, 1);
  const worker = new Worker(new URL("guest-thread.mjs", import.meta.url), { workerData: { ram, control, places } });
  while (Atomics.load(signals, 1) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  const thread = {
    changes: () => Atomics.load(signals, 1),
    stop: async () => {
      Atomics.store(signals, 0, 0);
      await worker.terminate();
    },
  };
  threads.push(thread);
  return thread;
}

/** Stops all that were started: for the end of a test. */
export async function stopThreads(): Promise<void> {
  for (const thread of threads.splice(0)) await thread.stop();
}

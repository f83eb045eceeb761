/**
 * A thread beside the tests: one that goes round and round without ever giving way cannot be stopped from within. What it has spent is measured in
 * processor time, and its execution is ended from here; that test then never settles, which the runner sees.
 */
import { Session } from "node:inspector";
import { workerData } from "node:worker_threads";

/** The number of the test that runs, 0 between two; how long it may take. */
const { running, endlessMs } = /** @type {{ running: SharedArrayBuffer, endlessMs: number }} */ (workerData);
const number = new Int32Array(running);
const session = new Session();
session.connectToMainThread();

let seen = 0;
let since = process.cpuUsage();
setInterval(() => {
  const now = Atomics.load(number, 0);
  if (now !== seen) {
    seen = now;
    since = process.cpuUsage();
  } else if (now !== 0 && process.cpuUsage(since).user / 1000 > endlessMs) {
    since = process.cpuUsage();
    session.post("Runtime.terminateExecution");
  }
}, 200);

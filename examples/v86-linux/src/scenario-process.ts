/**
 * Runs jobs in processes of their own: a machine that fails cannot take the others with it, and a restore really starts from nothing.
 *
 * `runJob` is called by the parent; this file is also the child's entry: it does the one job that it is sent, and answers by message.
 */

import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { type BootTime, measureBoot } from "./boot-time.js";
import type { GuestFiles } from "./guest/guest-files.js";
import { runScenario, type ScenarioResult } from "./run-scenario.js";
import { SCENARIOS } from "./scenarios.js";
import { restoreSnapshot, type SnapshotResult, saveSnapshot } from "./snapshot.js";

/** What a child can be asked to do. */
export type Job =
  | { readonly kind: "scenario"; readonly name: string; readonly files: GuestFiles }
  | { readonly kind: "boot"; readonly withUnit: boolean; readonly files: GuestFiles }
  | { readonly kind: "save"; readonly directory: string; readonly files: GuestFiles }
  | { readonly kind: "restore"; readonly directory: string; readonly files: GuestFiles };

/** What each kind of job answers. */
export interface JobAnswers {
  readonly scenario: ScenarioResult;
  readonly boot: BootTime;
  readonly save: SnapshotResult;
  readonly restore: SnapshotResult;
}

/** A machine that has not answered by then hangs in an endless loop: its own deadline cannot fire. */
const KILL_AFTER_MILLISECONDS = 660_000;

type Message = { readonly line: string } | { readonly answer: unknown } | { readonly error: string };

/** Does a job in a process of its own. `onLine` gets the guest's console. Rejects if the process ends without an answer. */
export function runJob<Kind extends Job["kind"]>(
  job: Job & { readonly kind: Kind },
  onLine: (line: string) => void,
): Promise<JobAnswers[Kind]> {
  return new Promise((resolve, reject) => {
    const child = fork(fileURLToPath(import.meta.url), ["--job"], { serialization: "advanced" });
    child.on("message", (message: Message) => {
      if ("line" in message) onLine(message.line);
      // The child answers with what its kind of job gives: `answerOf` below is the other end.
      else if ("answer" in message) resolve(message.answer as JobAnswers[Kind]);
      else reject(new Error(message.error));
    });
    child.on("error", reject);
    const timer = setTimeout(() => child.kill("SIGKILL"), KILL_AFTER_MILLISECONDS);
    child.on("exit", (code, signal) => {
      clearTimeout(timer);
      reject(new Error(`the process of the machine ended without an answer (${signal ?? `status ${code}`})`));
    });
    child.send(job);
  });
}

function answerOf(job: Job, onLine: (line: string) => void): Promise<JobAnswers[keyof JobAnswers]> {
  if (job.kind === "boot") return measureBoot(job.withUnit, job.files, onLine);
  if (job.kind === "save") return saveSnapshot(job.directory, job.files, onLine);
  if (job.kind === "restore") return restoreSnapshot(job.directory, job.files, onLine);
  const scenario = SCENARIOS.find(({ name }) => name === job.name);
  if (scenario === undefined) throw new RangeError(`no scenario ${job.name}`);
  return runScenario(scenario, job.files, onLine);
}

async function doJob(job: Job): Promise<void> {
  const send = (message: Message): Promise<void> =>
    new Promise((resolve) => void process.send?.(message, () => resolve()));
  try {
    await send({ answer: await answerOf(job, (line) => void send({ line })) });
  } catch (error) {
    await send({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
  process.exit();
}

if (process.argv[2] === "--job" && process.send !== undefined) process.once("message", (job: Job) => void doJob(job));

/**
 * Makes a failing scenario short: leaves out steps, in ever smaller pieces, as long as the same kind of failure stays.
 */

import { Failure } from "./failure.js";
import { runScenario } from "./round.js";
import type { Scenario, Step } from "./step.js";

/** Runs at most, and milliseconds. */
const MOST_RUNS = 1500;
const MOST_MILLISECONDS = 20_000;

/** What a scenario fails with, or `undefined`. */
export async function failureOf(scenario: Scenario): Promise<Failure | undefined> {
  try {
    await runScenario(scenario);
    return undefined;
  } catch (error) {
    if (error instanceof Failure) return error;
    return new Failure("threw", error instanceof Error ? (error.stack ?? error.message) : String(error), {
      cause: error,
    });
  }
}

/** A shorter scenario that fails in the same way. */
export async function shrink(scenario: Scenario, failure: Failure): Promise<Scenario> {
  const until = Date.now() + MOST_MILLISECONDS;
  let steps: readonly Step[] = scenario.steps;
  let runs = 0;
  for (let size = Math.ceil(steps.length / 2); size >= 1;) {
    let shorter = false;
    for (let at = 0; at < steps.length && runs < MOST_RUNS && Date.now() < until;) {
      const candidate = [...steps.slice(0, at), ...steps.slice(at + size)];
      runs += 1;
      if ((await failureOf({ ...scenario, steps: candidate }))?.kind === failure.kind) {
        steps = candidate;
        shorter = true;
      } else at += size;
    }
    if (size === 1 && !shorter) break;
    size = size === 1 ? 1 : Math.ceil(size / 2);
    if (runs >= MOST_RUNS || Date.now() >= until) break;
  }
  return { ...scenario, steps };
}

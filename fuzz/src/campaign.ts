/**
 * Rounds one after the other until the time is over, from one seed; what fails is shrunk.
 */

import { CoverageGuide } from "./coverage-guide.js";
import { Failure } from "./failure.js";
import { randomScenario } from "./generate.js";
import { mutated } from "./mutate.js";
import { Random } from "./random.js";
import { runScenario } from "./round.js";
import { shrink } from "./shrink.js";
import type { Scenario } from "./step.js";

/** What is to be done. */
export interface CampaignOptions {
  readonly seed: number;
  readonly milliseconds: number;
  /** Rounds at most. Default: no limit. */
  readonly rounds?: number;
  /** Whether inputs that reach new code are kept and changed. */
  readonly guided: boolean;
  /** Failures after which it ends. Default 5. */
  readonly mostFailures?: number;
  readonly onProgress?: (report: CampaignReport) => void;
  readonly onFailure?: (failure: Failure, scenario: Scenario, round: number) => void;
}

/** How far it came. */
export interface CampaignReport {
  rounds: number;
  steps: number;
  /** Requests of devices that were judged. */
  judged: number;
  /** Requests with more possible histories than were tried: nothing is known of their answers. */
  open: number;
  failures: number;
  /** What guests did with success, and how often. */
  readonly census: Map<string, number>;
  /** Inputs kept because they reached new code. */
  kept: number;
  milliseconds: number;
}

/** What a census should show: every way of translating, at every depth, and what devices with TLBs do. */
export const EXPECTED = [
  "bypass",
  ...[3, 4, 5].map((levels) => `legacy, ${levels} levels`),
  ...[4, 5].map((levels) => `first stage, ${levels} levels`),
  ...[3, 4, 5].map((levels) => `second stage, ${levels} levels`),
  ...[4, 5].map((levels) => `nested, ${levels} levels`),
  "translations for a device TLB",
  "page requests queued",
  "page groups answered",
];

/** Inputs kept at most. */
const MOST_KEPT = 400;

/** See the file's header. */
export async function runCampaign(options: CampaignOptions): Promise<CampaignReport> {
  const { seed, milliseconds, rounds = Infinity, guided, mostFailures = 5 } = options;
  const random = new Random(seed);
  const guide = guided ? await CoverageGuide.start() : undefined;
  const report: CampaignReport = {
    rounds: 0,
    steps: 0,
    judged: 0,
    open: 0,
    failures: 0,
    census: new Map(),
    kept: 0,
    milliseconds: 0,
  };
  const kept: Scenario[] = [];
  const kinds = new Set<string>();
  const begun = Date.now();
  let told = begun;
  while (report.rounds < rounds && report.failures < mostFailures) {
    report.milliseconds = Date.now() - begun;
    if (report.milliseconds >= milliseconds) break;
    const own = random.below(2 ** 32);
    const old = kept.length > 0 && !random.chance(3) ? random.pick(kept) : undefined;
    const scenario = old === undefined ? randomScenario(own) : mutated(old, kept, new Random(own));
    report.rounds += 1;
    report.steps += scenario.steps.length;
    const failure = await attempt(scenario, report);
    if (failure !== undefined && !kinds.has(failure.message.slice(0, 40))) {
      report.failures += 1;
      kinds.add(failure.message.slice(0, 40));
      options.onFailure?.(failure, await shrink(scenario, failure), report.rounds);
    } else if (guide !== undefined && failure === undefined && (await guide.isNew())) {
      report.kept += 1;
      if (kept.length < MOST_KEPT) kept.push(scenario);
      else kept[random.below(MOST_KEPT)] = scenario;
    }
    if (Date.now() - told < 5000) continue;
    told = Date.now();
    options.onProgress?.(report);
  }
  report.milliseconds = Date.now() - begun;
  await guide?.stop();
  return report;
}

async function attempt(scenario: Scenario, report: CampaignReport): Promise<Failure | undefined> {
  try {
    const { judged, open, census } = await runScenario(scenario);
    report.judged += judged;
    report.open += open;
    for (const [what, count] of census) report.census.set(what, (report.census.get(what) ?? 0) + count);
    return undefined;
  } catch (error) {
    if (error instanceof Failure) return error;
    return new Failure("threw", String(error), { cause: error });
  }
}

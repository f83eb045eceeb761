/**
 * `pnpm fuzz --seconds N --seed S`: random and hostile guests against the unit. `--replay FILE` carries out one file, `--rounds N` ends earlier,
 * `--blind` does without coverage.
 */

import { mkdirSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { type CampaignReport, EXPECTED, runCampaign } from "./campaign.js";
import { readScenario, writeScenario } from "./replay-file.js";
import { failureOf, shrink } from "./shrink.js";

const HOME = resolve(dirname(fileURLToPath(import.meta.url)), "..");

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "60" },
    seed: { type: "string" },
    rounds: { type: "string" },
    replay: { type: "string" },
    shrink: { type: "boolean", default: false },
    blind: { type: "boolean", default: false },
  },
});

const strays: unknown[] = [];
process.on("unhandledRejection", (reason) => strays.push(reason));

if (values.replay === undefined) await fuzz();
else await replay(values.replay);

async function fuzz(): Promise<void> {
  const seed = values.seed === undefined ? Math.floor(Math.random() * 2 ** 32) : Number(values.seed);
  const seconds = Number(values.seconds);
  if (!Number.isInteger(seed) || !(seconds > 0)) throw new TypeError("expected --seconds N --seed S, both numbers");
  console.log(`seed ${seed}, ${seconds} seconds`);
  const report = await runCampaign({
    seed,
    milliseconds: seconds * 1000,
    guided: !values.blind,
    ...(values.rounds !== undefined && { rounds: Number(values.rounds) }),
    onProgress: (now) => console.log(progress(now)),
    onFailure: (failure, scenario, round) => {
      const folder = join(HOME, "failures");
      mkdirSync(folder, { recursive: true });
      const path = join(folder, `${failure.kind}-${seed}-${round}.json`);
      writeScenario(path, { ...scenario, note: failure.message.split("\n")[0] ?? failure.kind });
      console.log(`\nFAILED in round ${round}: ${failure.message}`);
      console.log(
        `${scenario.steps.length} steps; again: node fuzz/dist/main.js --replay ${relative(process.cwd(), path)}\n`,
      );
    },
  });
  for (const stray of strays) console.log("an unhandled rejection:", stray);
  console.log(progress(report));
  for (const what of EXPECTED) console.log(`${what}: ${report.census.get(what) ?? 0}`);
  const failures = report.failures + strays.length;
  console.log(`${report.rounds} rounds, ${failures} failures`);
  process.exit(failures > 0 ? 1 : 0);
}

async function replay(path: string): Promise<void> {
  const scenario = readScenario(path);
  const failure = await failureOf(scenario);
  console.log(failure === undefined ? `${scenario.steps.length} steps, nothing failed` : failure.message);
  if (failure !== undefined && values.shrink) {
    const shorter = await shrink(scenario, failure);
    writeScenario(path, { ...shorter, ...(scenario.note !== undefined && { note: scenario.note }) });
    console.log(`${shorter.steps.length} steps left`);
  }
  process.exit(failure === undefined && strays.length === 0 ? 0 : 1);
}

function progress({ rounds, steps, judged, open, failures, kept, milliseconds }: CampaignReport): string {
  const rate = Math.round((steps / Math.max(1, milliseconds)) * 1000);
  return `${Math.round(milliseconds / 1000)} s: ${rounds} rounds, ${steps} steps (${rate}/s), ${judged} requests judged, ${open} left open, ${kept} inputs kept, ${failures} failures`;
}

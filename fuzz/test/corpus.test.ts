import { readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { runCampaign } from "../src/campaign.js";
import { readScenario } from "../src/replay-file.js";
import { failureOf } from "../src/shrink.js";

const CORPUS = fileURLToPath(new URL("../corpus/", import.meta.url));
const ROUNDS = 25;
/** The same guests each time, so that a change is judged by itself; `pnpm fuzz` looks for new ones. */
const SEED = 20261122;

describe("guests that once broke something", () => {
  for (const name of readdirSync(CORPUS)) {
    it(`${name} breaks nothing`, async () => {
      const failure = await failureOf(readScenario(`${CORPUS}${name}`));
      expect(failure?.message).toBeUndefined();
    });
  }
});

describe("fresh guests", () => {
  it(`break nothing in ${ROUNDS} rounds`, { timeout: 300_000 }, async () => {
    const broken: string[] = [];
    const report = await runCampaign({
      seed: SEED,
      milliseconds: Infinity,
      rounds: ROUNDS,
      guided: false,
      onFailure: (failure, scenario) => broken.push(`${failure.message}\n${JSON.stringify(scenario)}`),
    });
    expect(broken, `node fuzz/dist/main.js --blind --rounds ${ROUNDS} --seed ${SEED}`).toEqual([]);
    expect(report.judged).toBeGreaterThan(ROUNDS);
  });
});

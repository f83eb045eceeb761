import { expect, it } from "vitest";
import { EXPECTED } from "../src/campaign.js";
import { randomScenario } from "../src/generate.js";
import { runScenario } from "../src/round.js";

/** Seeds that have it all between them. A change of the generator may need others: `pnpm fuzz` prints what its guests did. */
const SEEDS = [2, 6, 7, 24, 25, 38, 47, 86, 116, 119, 234];

it("guests reach every way of translating, tables of 57 bits among them, and devices with TLBs that request pages", async () => {
  const seen = new Set<string>();
  for (const seed of SEEDS) for (const what of (await runScenario(randomScenario(seed))).census.keys()) seen.add(what);
  expect(EXPECTED.filter((what) => !seen.has(what))).toEqual([]);
});

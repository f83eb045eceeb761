/**
 * `pnpm mutation [PACKAGE [FILE...]]`: mutation testing of what decides whether a device reaches memory. A quarter of a second
 * of processor time for each of some thousand mutants, so it is no part of `pnpm test`.
 *
 * Each package is judged by its own tests. Results that a change of sources or tests cannot have changed are kept from the
 * last run. `pnpm mutation --summary` writes docs/mutation-testing.md from the last reports.
 */
import { mkdirSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Stryker } from "@stryker-mutator/core";
import { writeSummary } from "./summary.mjs";

/** What is mutated. @type {Record<string, readonly string[]>} */
const targets = {
  "iommu-core": ["packages/iommu-core/src/{,dma/,notify/,diff/}*.ts", "!**/index.ts", "!**/di.ts"],
  "iommu-vtd": ["packages/iommu-vtd/src/{fault,invalidate,translate}/*.ts"],
};

/** Tests of what is not mutated, and long histories that say no more about a single line than the short ones: not used. */
const BESIDE =
  /^(acpi|capabilities|spec|units|inspect|snapshot|dirty|hostile)\/|^(readme|di|contract-mutants|views|replay|storm\.property|backend-contract|mmio|interrupts|testing-kit)\.test|notifiers\.test/;

/** @param {string} name @param {readonly string[]} mutate @param {string} report */
async function judge(name, mutate, report = name) {
  const tests = `packages/${name}/test`;
  const files = readdirSync(tests, { recursive: true, encoding: "utf8" });
  const testFiles = files.filter((file) => file.endsWith(".test.ts") && !BESIDE.test(file)).toSorted();
  const options = {
    packageManager: "pnpm",
    plugins: [fileURLToPath(new URL("runner.mjs", import.meta.url))],
    testRunner: "in-process",
    inProcess: { testFiles: testFiles.map((file) => `${tests}/${file}`) },
    warnings: { unknownOptions: false },
    coverageAnalysis: "perTest",
    // Mutants that act only while modules load take seconds each: said in the summary, judged on demand.
    ignoreStatic: process.env["MUTATION_STATIC"] !== "1",
    concurrency: 1,
    mutate: [...mutate],
    ignorePatterns: ["**", "!packages/**", "!docs/**", "!tsconfig*.json", "!package.json", "packages/*/dist/**"].concat(
      ["**/node_modules/**", "**/*.tsbuildinfo"],
    ),
    // Stryker would rewrite it by an interface that TypeScript 7 does not have; nobody reads it here.
    tsconfigFile: "none.json",
    reporters: ["json", "clear-text", "progress-append-only"],
    clearTextReporter: { allowColor: false, logTests: false, reportTests: false },
    jsonReporter: { fileName: `out/mutation/${report}.json` },
    tempDirName: `.cache/mutation/${name}`,
    incremental: true,
    incrementalFile: `.cache/mutation/${name}.incremental.json`,
    timeoutMS: 15_000,
    timeoutFactor: 0.01,
    dryRunTimeoutMinutes: 30,
    testRunnerNodeArgs: ["--max-old-space-size=1500"],
  };
  await new Stryker(
    /** @type {import("@stryker-mutator/api/core").PartialStrykerOptions} */ (/** @type {unknown} */ (options)),
  ).runMutationTest();
}

mkdirSync("out/mutation", { recursive: true });
const [name, ...files] = process.argv.slice(2);
if (name === "--summary") writeSummary();
else if (name === undefined) {
  for (const [each, mutate] of Object.entries(targets)) await judge(each, mutate);
  writeSummary();
} else await judge(name, files.length > 0 ? files : (targets[name] ?? []), files.length > 0 ? `${name}-part` : name);

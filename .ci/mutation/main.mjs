/**
 * `pnpm mutation [PACKAGE [FILE...]]` (paths from the root): mutation testing of what decides whether a device reaches memory. A quarter of a second
 * of processor time for each of some thousand mutants, so it is no part of `pnpm test`. `--changed`: the files that read otherwise than when they were
 * judged. `--summary`: docs/mutation-testing.md alone, from the results that there are.
 *
 * Each package is judged by its own tests. Results that a change of sources or tests cannot have changed are kept from the
 * last run on the machine. MUTATION_RUNS: most runs of a property. MUTATION_MS: processor time after which a mutant has survived.
 * MUTATION_SLOWEST: processor time beyond which a test judges none. MUTATION_TESTS: only test files that match this expression. MUTATION_STATIC=1 judges those that act while modules load as well.
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { Stryker } from "@stryker-mutator/core";
import { checkExplained, isCurrent, readResults, writeResults } from "./results.mjs";
import { TESTS } from "./settings.mjs";
import { writeSummary } from "./summary.mjs";

/** What is mutated. @type {Record<string, readonly string[]>} */
const targets = {
  "iommu-vtd": ["packages/iommu-vtd/src/{fault,invalidate,translate}/*.ts"],
  "iommu-core": ["packages/iommu-core/src/{,dma/,notify/,diff/}*.ts", "!**/index.ts", "!**/di.ts"],
};

/** Tests of what is not mutated, those that need a second thread, and long ones that say no more about a single line than shorter ones do: not used. */
const BESIDE =
  /^(acpi|capabilities|spec|units)\/|^time-of-check\/(second-thread|whole-entries)|^(contract-mutants|di|mmio|readme|replay|storm\.property|testing-kit|views)\.test|^traps\/notifiers|\.slow\.test/;

/** Judges files of a package (patterns). What is found takes the place of what was known of them. @param {string} name @param {readonly string[]} mutate */
async function judge(name, mutate) {
  const tests = `packages/${name}/test`;
  const files = readdirSync(tests, { recursive: true, encoding: "utf8" });
  const testFiles = files
    .filter((file) => file.endsWith(".test.ts") && !BESIDE.test(file) && file.match(TESTS))
    .toSorted();
  const options = {
    packageManager: "pnpm",
    plugins: ["runner.mjs", "reporter.mjs"].map((file) => fileURLToPath(new URL(file, import.meta.url))),
    testRunner: "in-process",
    ignorers: ["error-texts"],
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
    reporters: ["progress-append-only", "finished-files"],
    tempDirName: `.cache/mutation/${name}`,
    incremental: true,
    incrementalFile: `.cache/mutation/${createHash("sha256").update(mutate.join()).digest("hex").slice(0, 16)}.json`,
    timeoutMS: 120_000,
    timeoutFactor: 0.01,
    dryRunTimeoutMinutes: 30,
    testRunnerNodeArgs: ["--max-old-space-size=1500"],
  };
  await new Stryker(
    /** @type {import("@stryker-mutator/api/core").PartialStrykerOptions} */ (/** @type {unknown} */ (options)),
  ).runMutationTest();
}

const [name = "", ...files] = process.argv.slice(2);
const results = readResults();
if (name === "--summary") {
  writeResults(results);
  writeSummary(results);
} else if (name === "--changed") {
  const changed = Object.keys(results).filter((file) => !isCurrent(file, results[file]));
  for (const each of Object.keys(targets)) {
    const mine = changed.filter((file) => file.startsWith(`packages/${each}/`));
    if (mine.length > 0) await judge(each, mine);
  }
} else if (files.length > 0) {
  const missing = files.filter((file) => !existsSync(file));
  if (missing.length > 0)
    throw new Error(`no such file: ${missing.join(", ")}; name files from the root of the repository`);
  await judge(name, files);
} else {
  const chosen = Object.entries(targets).filter(([each]) => name === "" || name === each);
  for (const [each, mutate] of chosen) await judge(each, mutate);
}
// After what was found has been written: a run of hours is not lost to an explanation that has become needless.
checkExplained(readResults());

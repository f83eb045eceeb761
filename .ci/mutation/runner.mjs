/**
 * A test runner for StrykerJS that keeps the tests loaded: sources and tests are imported once, through Vite, into the
 * process that judges one mutant after the other, the quickest test first. Stryker's vitest runner starts vitest anew for
 * each mutant, which takes seconds; this takes milliseconds.
 *
 * What keeps it honest: `expect` is vitest's own, tests run as written, an unhandled rejection fails the test that runs, and
 * a mutant that acts while modules load is judged on modules loaded anew.
 */
import { readdirSync, writeFileSync } from "node:fs";
import { relative, resolve } from "node:path";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { INSTRUMENTER_CONSTANTS } from "@stryker-mutator/api/core";
import { PluginKind, commonTokens, declareClassPlugin, tokens } from "@stryker-mutator/api/plugin";
import {
  DryRunStatus,
  TestStatus,
  determineHitLimitReached,
  toMutantRunResult,
} from "@stryker-mutator/api/test-runner";
import fc from "fast-check";
import { createServer, createServerModuleRunner, defaultServerConditions } from "vite";
import * as vitest from "vitest";
import { readJson } from "../workspace.mjs";

/** @import { DryRunOptions, DryRunResult, MutantRunOptions, MutantRunResult, TestResult } from "@stryker-mutator/api/test-runner" */
/** @import { CollectedTest } from "./vitest.mjs" */

/**
 * What the replacements are made of.
 * @typedef {{ vitest: typeof import("vitest"), fc: typeof import("fast-check").default }} Real
 * A package's manifest.
 * @typedef {{ name: string, exports: Record<string, string | Record<string, string | undefined>> }} Manifest
 * What mutated code reads and counts.
 * @typedef {object} Instrumented
 * @property {string | undefined} activeMutant
 * @property {string | undefined} currentTestId
 * @property {number | undefined} hitCount
 * @property {number | undefined} hitLimit
 * @property {import("@stryker-mutator/api/core").MutantCoverage} [mutantCoverage]
 */

/** What test files import in place of vitest and fast-check. */
const replaced = {
  vitest: fileURLToPath(new URL("vitest.mjs", import.meta.url)),
  "fast-check": fileURLToPath(new URL("fast-check.mjs", import.meta.url)),
};
// The replacements are loaded through Vite, which would give them each other for what they replace.
Object.assign(globalThis, { [Symbol.for("iommu-kit/mutation")]: { vitest, fc } });

/** How long each test took in the initial run: written for the processes that judge mutants. */
const TIMES = "mutation-times.json";
/**
 * Processor time: a test that takes longer judges no mutant; a mutant that has survived that long is said to survive. A test that fails without a
 * mutant judges none either: one that needs vitest's fake timers, or more runs of its property than there are.
 */
const SLOWEST_MS = 1_000;
const MOST_MS = Number(process.env["MUTATION_MS"] ?? 2_000);

const instrumented = /** @type {Instrumented | undefined} */ (
  Reflect.get(globalThis, INSTRUMENTER_CONSTANTS.NAMESPACE)
) ?? {
  activeMutant: undefined,
  currentTestId: undefined,
  hitCount: undefined,
  hitLimit: undefined,
};
Reflect.set(globalThis, INSTRUMENTER_CONSTANTS.NAMESPACE, instrumented);

/** Every entry point of the sandbox's packages on its sources, vitest and fast-check through their replacements. */
function aliases() {
  const exact = (/** @type {string} */ name) => new RegExp(`^${name.replaceAll(/[.]/g, "\\$&")}$`);
  const packages = readdirSync("packages").flatMap((folder) => {
    /** @type {Manifest} */
    const { name, exports } = readJson(resolve("packages", folder, "package.json"));
    return Object.entries(exports).flatMap(([path, target]) => {
      const source = typeof target === "object" ? target["@iommu-kit/source"] : undefined;
      return source === undefined
        ? []
        : [{ find: exact(name + path.slice(1)), replacement: resolve("packages", folder, source) }];
    });
  });
  return [...packages, ...Object.entries(replaced).map(([name, replacement]) => ({ find: exact(name), replacement }))];
}

class Runner {
  static inject = tokens(commonTokens.options);

  /** @readonly @type {readonly string[]} */
  #files;
  /** @type {Map<string, CollectedTest> | undefined} */
  #tests;
  /** @type {(cause: unknown) => void} */
  #fail = () => undefined;
  #stale = false;

  /** @param {object} options */
  constructor(options) {
    this.#files = /** @type {{ inProcess: { testFiles: readonly string[] } }} */ (options).inProcess.testFiles;
  }

  capabilities() {
    return { reloadEnvironment: true };
  }

  async init() {
    process.env["IOMMU_KIT_FEW_RUNS"] = "1";
    process.on("unhandledRejection", (cause) => this.#fail(cause));
    process.on("uncaughtException", (cause) => this.#fail(cause));
    this.server = await createServer({
      configFile: false,
      root: process.cwd(),
      logLevel: "error",
      appType: "custom",
      resolve: { alias: aliases() },
      optimizeDeps: { noDiscovery: true },
      ssr: { resolve: { conditions: ["@iommu-kit/source", ...defaultServerConditions] } },
      server: { middlewareMode: true, hmr: false, ws: false, watch: null },
    });
    this.modules = createServerModuleRunner(this.server.environments.ssr, { hmr: false });
  }

  async dispose() {
    await this.modules?.close();
    await this.server?.close();
  }

  /** @param {DryRunOptions} _options @returns {Promise<DryRunResult>} */
  async dryRun(_options) {
    instrumented.activeMutant = undefined;
    const tests = await this.#load();
    const results = [];
    /** @type {Record<string, number>} */
    const times = {};
    for (const id of tests.keys()) {
      instrumented.currentTestId = id;
      const before = process.cpuUsage();
      const result = await this.#runTest(id, 300_000);
      instrumented.currentTestId = undefined;
      const spent = process.cpuUsage(before).user / 1000;
      times[id] = spent;
      const isSlow = spent > SLOWEST_MS;
      const fails = result.status === TestStatus.Failed;
      if (fails) console.warn(`left out, as it fails when it runs this way: ${id}`);
      if (isSlow || fails) delete instrumented.mutantCoverage?.perTest[id];
      else results.push(result);
    }
    writeFileSync(TIMES, JSON.stringify(times));
    const { mutantCoverage } = instrumented;
    return { status: DryRunStatus.Complete, tests: results, ...(mutantCoverage && { mutantCoverage }) };
  }

  /** @param {MutantRunOptions} options @returns {Promise<MutantRunResult>} */
  async mutantRun({ activeMutant, hitLimit, testFilter, mutantActivation }) {
    if (mutantActivation === "static") this.#stale = true;
    if (this.#stale) this.#tests = undefined;
    this.#stale = mutantActivation === "static";
    instrumented.hitCount = hitLimit === undefined ? undefined : 0;
    instrumented.hitLimit = hitLimit;
    instrumented.activeMutant = mutantActivation === "static" ? activeMutant.id : undefined;
    /** @type {TestResult[]} */
    const results = [];
    try {
      const tests = await this.#load();
      instrumented.activeMutant = activeMutant.id;
      /** @type {Record<string, number>} */
      const times = readJson(resolve(TIMES));
      const timeOf = (/** @type {string} */ id) => times[id] ?? 0;
      const chosen = (testFilter ?? [...tests.keys()]).toSorted((a, b) => timeOf(a) - timeOf(b));
      const before = process.cpuUsage();
      for (const id of chosen) {
        if (results.length > 0 && process.cpuUsage(before).user / 1000 > MOST_MS) break;
        const timeout = 10_000 + 10 * timeOf(id);
        let result = await this.#runTest(id, timeout);
        if (result.status === TestStatus.Failed && !(await this.#passesWithoutMutant(id, timeout))) {
          // Something that an earlier mutant left behind: modules are loaded anew, and the test decides again.
          this.#tests = undefined;
          await this.#load();
          instrumented.activeMutant = activeMutant.id;
          result = await this.#runTest(id, timeout);
        }
        results.push(result);
        if (result.status === TestStatus.Failed) break;
      }
    } catch (error) {
      // A module that does not load fails every test.
      results.push(failed("loading", 0, error));
    } finally {
      instrumented.activeMutant = undefined;
    }
    const limit = determineHitLimitReached(instrumented.hitCount, hitLimit);
    return toMutantRunResult(limit ?? { status: DryRunStatus.Complete, tests: results });
  }

  async #load() {
    if (this.#tests !== undefined) return this.#tests;
    const modules = this.modules;
    if (modules === undefined) throw new Error("init comes first");
    modules.clearCache();
    /** @type {typeof import("./vitest.mjs")} */
    const { collected, enterFile } = await modules.import(replaced.vitest);
    for (const file of this.#files) {
      enterFile(relative(process.cwd(), file));
      await modules.import(resolve(file));
    }
    /** @type {Map<string, CollectedTest>} */
    const tests = new Map();
    for (const test of collected) {
      let id = `${test.file}#${test.name}`;
      while (tests.has(id)) id += "'";
      tests.set(id, test);
    }
    return (this.#tests = tests);
  }

  /** A test that fails says something about a mutant only if it passes without it. @param {string} id @param {number} timeout */
  async #passesWithoutMutant(id, timeout) {
    if (this.#stale) return true;
    const { hitCount } = instrumented;
    instrumented.activeMutant = undefined;
    const { status } = await this.#runTest(id, timeout);
    instrumented.hitCount = hitCount;
    return status === TestStatus.Success;
  }

  /** @param {string} id @param {number} timeout in milliseconds, for what waits; loops are Stryker's to stop @returns {Promise<TestResult>} */
  async #runTest(id, timeout) {
    const test = this.#tests?.get(id);
    if (test === undefined) throw new Error(`no test ${id}`);
    const abort = new AbortController();
    const started = performance.now();
    const spent = () => performance.now() - started;
    try {
      await Promise.race([
        perform(test),
        new Promise((_, reject) => (this.#fail = reject)),
        sleep(timeout, undefined, { signal: abort.signal }).then(() => Promise.reject(new Error("did not end"))),
      ]);
      return { id, name: test.name, fileName: resolve(test.file), timeSpentMs: spent(), status: TestStatus.Success };
    } catch (error) {
      return { ...failed(id, spent(), error), name: test.name, fileName: resolve(test.file) };
    } finally {
      abort.abort();
      // What the test left behind fails itself, not the next one.
      await nextTurn();
    }
  }
}

/** @param {CollectedTest} test */
async function perform({ suite, body }) {
  for (const hook of suite.before) await hook();
  try {
    await body({ skip: () => undefined });
  } finally {
    for (const hook of suite.after) await hook();
  }
}

/** @param {string} id @param {number} timeSpentMs @param {unknown} error */
function failed(id, timeSpentMs, error) {
  const failureMessage = error instanceof Error ? error.message : String(error);
  return { id, name: id, timeSpentMs, status: /** @type {const} */ (TestStatus.Failed), failureMessage };
}

export const strykerPlugins = [declareClassPlugin(PluginKind.TestRunner, "in-process", Runner)];

/**
 * A test runner for StrykerJS that keeps the tests loaded: sources and tests are imported once, through Vite, into the
 * process that judges one mutant after the other, the quickest test first. Stryker's vitest runner starts vitest anew for
 * each mutant, which takes seconds; this takes milliseconds.
 *
 * What keeps it honest: `expect` is vitest's own, tests run as written, an unhandled rejection fails the test that runs, and
 * a mutant that acts while modules load is judged on modules loaded anew.
 */
import { readdirSync, writeFileSync } from "node:fs";
import { basename, relative, resolve } from "node:path";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { INSTRUMENTER_CONSTANTS } from "@stryker-mutator/api/core";
import { PluginKind, commonTokens, declareClassPlugin, declareValuePlugin, tokens } from "@stryker-mutator/api/plugin";
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
import { ERROR_TEXT, MOST_MS, SLOWEST_MS } from "./settings.mjs";

/** @import { DryRunOptions, DryRunResult, MutantRunOptions, MutantRunResult, TestResult } from "@stryker-mutator/api/test-runner" */
/** @import { CollectedTest } from "./vitest.mjs" */

/**
 * Milliseconds of processor time, and how many mutants a test reaches.
 * @typedef {Record<string, { spent: number, reached: number }>} Times
 */
/**
 * A place in the syntax tree, as far as it is looked at.
 * @typedef {{ type: string, callee?: { name?: string }, key?: { name?: string }, arguments?: unknown[] }} SyntaxNode
 * @typedef {{ node: SyntaxNode, parentPath?: { node: SyntaxNode } | null }} ErrorText
 */
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

/** What the initial run found out about each test: written for the processes that judge mutants. */
const TIMES = "mutation-times.json";
// A test that fails without a mutant judges none: one that needs vitest's fake timers, or more runs of its property than there are.
/**
 * When a test does not end. One that waits for what never comes leaves the process idle: three looks in a row, a second apart and in time, find
 * that nothing was done. One that goes round and round spends processor time, ten times what the slowest test may; where it never gives way, `watch.mjs`
 * stops it. A machine that is busy with something else does neither.
 */
const LOOK_MS = 1_000;
const IDLE_LOOKS = 3;
const ENDLESS_MS = 10 * SLOWEST_MS;
/** Code that runs this many times as often in one test as in all tests without the mutant never stops. Stryker's own limit, 100 times, takes minutes to reach in an inner loop. */
const HIT_FACTOR = 5;
const STRYKERS_HIT_FACTOR = 100;
const FEWEST_HITS = 10_000;
/** A test that has killed a mutant of a file is tried early on the others of it: each kill counts as if it were that much quicker. */
const KILLER_BONUS = 10;
const KIN_BONUS = 10;

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
  /** How many mutants of a source file each test has killed: those come first. @readonly @type {Map<string, Map<string, number>>} */
  #kills = new Map();
  /** The number of the test that runs, 0 between two: for the thread that watches. @readonly */
  #running = new Int32Array(new SharedArrayBuffer(4));
  #runs = 0;

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
    const workerData = { running: this.#running.buffer, endlessMs: ENDLESS_MS };
    this.watch = new Worker(new URL("watch.mjs", import.meta.url), { workerData });
    this.watch.unref();
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
    await this.watch?.terminate();
    await this.modules?.close();
    await this.server?.close();
  }

  /** @param {DryRunOptions} _options @returns {Promise<DryRunResult>} */
  async dryRun(_options) {
    instrumented.activeMutant = undefined;
    const tests = await this.#load();
    const results = [];
    /** @type {Times} */
    const times = {};
    for (const id of tests.keys()) {
      instrumented.currentTestId = id;
      const before = process.cpuUsage();
      const result = await this.#runTest(id);
      instrumented.currentTestId = undefined;
      const spent = process.cpuUsage(before).user / 1000;
      times[id] = { spent, reached: Object.keys(instrumented.mutantCoverage?.perTest[id] ?? {}).length };
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
    const mostHits =
      hitLimit === undefined ? undefined : Math.max(FEWEST_HITS, (hitLimit / STRYKERS_HIT_FACTOR) * HIT_FACTOR);
    instrumented.hitLimit = mostHits;
    instrumented.activeMutant = mutantActivation === "static" ? activeMutant.id : undefined;
    /** @type {TestResult[]} */
    const results = [];
    try {
      const tests = await this.#load();
      instrumented.activeMutant = activeMutant.id;
      const kills = this.#killsIn(activeMutant.fileName);
      const chosen = inOrder(testFilter ?? [...tests.keys()], activeMutant.fileName, kills);
      const before = process.cpuUsage();
      for (const id of chosen) {
        if (results.length > 0 && process.cpuUsage(before).user / 1000 > MOST_MS) break;
        const result = await this.#judgedBy(id, activeMutant.id, mostHits);
        const endless = determineHitLimitReached(instrumented.hitCount, mostHits);
        if (endless !== undefined) return toMutantRunResult(endless);
        if (result === undefined) continue;
        results.push(result);
        if (result.status !== TestStatus.Failed) continue;
        kills.set(id, (kills.get(id) ?? 0) + 1);
        break;
      }
    } catch (error) {
      // A module that does not load fails every test.
      results.push(failed("loading", 0, error));
    } finally {
      instrumented.activeMutant = undefined;
    }
    return toMutantRunResult({ status: DryRunStatus.Complete, tests: results });
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

  /** @param {string} file */
  #killsIn(file) {
    let kills = this.#kills.get(file);
    if (kills !== undefined) return kills;
    kills = new Map();
    this.#kills.set(file, kills);
    return kills;
  }

  /** What a test says of a mutant; `undefined` if it fails without it as well. @param {string} id @param {string} mutant @param {number | undefined} mostHits */
  async #judgedBy(id, mutant, mostHits) {
    const result = await this.#runMutated(id, mostHits);
    if (result.status !== TestStatus.Failed || (await this.#passesWithoutMutant(id))) return result;
    // Something that an earlier mutant left behind: modules are loaded anew, and the test decides again.
    this.#tests = undefined;
    await this.#load();
    instrumented.activeMutant = mutant;
    const again = await this.#runMutated(id, mostHits);
    return again.status !== TestStatus.Failed || (await this.#passesWithoutMutant(id)) ? again : undefined;
  }

  /** Each test has hits of its own: those of many tests together are no sign of a loop. @param {string} id @param {number | undefined} mostHits */
  async #runMutated(id, mostHits) {
    instrumented.hitCount = mostHits === undefined ? undefined : 0;
    return this.#runTest(id);
  }

  /** A test that fails says something about a mutant only if it passes without it. @param {string} id */
  async #passesWithoutMutant(id) {
    if (this.#stale) return true;
    const { hitCount, activeMutant } = instrumented;
    instrumented.activeMutant = undefined;
    instrumented.hitCount = undefined;
    const { status } = await this.#runTest(id);
    Object.assign(instrumented, { hitCount, activeMutant });
    return status === TestStatus.Success;
  }

  /** @param {string} id @returns {Promise<TestResult>} */
  async #runTest(id) {
    const test = this.#tests?.get(id);
    if (test === undefined) throw new Error(`no test ${id}`);
    const abort = new AbortController();
    const started = performance.now();
    Atomics.store(this.#running, 0, ++this.#runs);
    const spent = () => performance.now() - started;
    try {
      await Promise.race([
        perform(test),
        new Promise((_, reject) => (this.#fail = reject)),
        endlessness(abort.signal).then(() => Promise.reject(new Error("did not end"))),
      ]);
      return { id, name: test.name, fileName: resolve(test.file), timeSpentMs: spent(), status: TestStatus.Success };
    } catch (error) {
      return { ...failed(id, spent(), error), name: test.name, fileName: resolve(test.file) };
    } finally {
      Atomics.store(this.#running, 0, 0);
      abort.abort();
      // What the test left behind fails itself, not the next one.
      await nextTurn();
    }
  }
}

/**
 * Tests in the order in which they are tried: quick ones, those that reach few mutants and so are about little else, those of a file of the same name,
 * and those that have killed others of this file. @param {readonly string[]} ids @param {string} file @param {ReadonlyMap<string, number>} kills
 */
function inOrder(ids, file, kills) {
  /** @type {Times} */
  const times = readJson(resolve(TIMES));
  const stem = basename(file, ".ts");
  const cost = (/** @type {string} */ id) => {
    const { spent, reached } = times[id] ?? { spent: 0, reached: 0 };
    const [testFile = ""] = id.split("#");
    const own = basename(testFile).split(".")[0] ?? "";
    const kin = own.length > 3 && (stem.includes(own) || own.includes(stem)) ? KIN_BONUS : 1;
    return (spent * (reached + 1)) / (1 + KILLER_BONUS * (kills.get(id) ?? 0)) / kin;
  };
  return ids.toSorted((a, b) => cost(a) - cost(b));
}

/** Settles when what runs meanwhile does not end; loops that never give way are stopped by the number of their hits. @param {AbortSignal} signal */
async function endlessness(signal) {
  const start = process.cpuUsage();
  for (let idle = 0; idle < IDLE_LOOKS;) {
    const before = { cpu: process.cpuUsage(), time: performance.now() };
    await sleep(LOOK_MS, undefined, { signal });
    const late = performance.now() - before.time > LOOK_MS * 1.1;
    const spent = process.cpuUsage(before.cpu).user / 1000;
    idle = late || spent > LOOK_MS / 50 ? 0 : idle + 1;
    if (process.cpuUsage(start).user / 1000 > ENDLESS_MS) return;
  }
}

/** @param {CollectedTest} test */
async function perform({ suite, body }) {
  // In a turn of its own: where it has to be stopped, nothing of the runner is on the stack.
  await nextTurn();
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

/**
 * Words of an error say what to do; tests check its code, and what of the words matters. Every string of a sentence as a mutant of its own would say
 * nothing about the tests.
 * @type {import("@stryker-mutator/api/ignore").Ignorer}
 */
const errorTexts = {
  shouldIgnore(path) {
    const { node, parentPath } = /** @type {ErrorText} */ (path);
    const { type, callee, key } = parentPath?.node ?? {};
    const inError =
      type === "NewExpression" && callee?.name === "IommuError" && parentPath?.node.arguments?.[0] !== node;
    return inError || (type === "ObjectProperty" && key?.name === "hint") ? ERROR_TEXT : undefined;
  },
};

export const strykerPlugins = [
  declareValuePlugin(PluginKind.Ignore, "error-texts", errorTexts),
  declareClassPlugin(PluginKind.TestRunner, "in-process", Runner),
];

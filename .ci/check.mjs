// `pnpm check`: everything about the code that a machine can judge without running the tests, independent steps side by
// side. A step is one line in `steps`; `after` makes it wait for another one.
// Options: --json FILE writes { passed, failed, steps } for other programs.
import { existsSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { memberFolders, publishedPackages, root, run } from "./workspace.mjs";

/** @typedef {{ name: string, command: string[], after?: string }} Step */

/** @type {Step[]} */
const steps = [
  { name: "packages", command: ["tsc", "-b", ...publishedPackages().map(({ directory }) => directory)] },
  { name: "packaging", command: ["node", ".ci/packaging.mjs"], after: "packages" },
  { name: "supply chain", command: ["node", ".ci/supply-chain.mjs"], after: "packages" },
  { name: "api", command: ["node", ".ci/api.mjs"], after: "packages" },
  { name: "size", command: ["size-limit", "--config", ".ci/size-limit.mjs"], after: "packages" },
  { name: "build", command: ["tsc", "-b", "tsconfig.build.json"], after: "packages" },
  { name: "types", command: ["tsc", "-p", "tsconfig.json"] },
  { name: "types of .ci", command: ["tsc", "-p", ".ci/tsconfig.json"] },
  { name: "types of docs", command: ["tsc", "-p", "docs/site/src"] },
  ...pageProjects().map((project) => ({
    name: `types of ${project}`,
    command: ["tsc", "-p", project, "--noEmit"],
    after: "build",
  })),
  { name: "lint", command: ["oxlint", "--type-aware", "--deny-warnings"] },
  { name: "unused", command: ["knip"], after: "build" },
  { name: "format", command: ["oxfmt", "--check", "."] },
  { name: "manifests", command: ["sherif", "--ignore-dependency", "typescript@6.0.3"] },
  { name: "conventions", command: ["node", ".ci/conventions.mjs"] },
];

/** Code for web pages has projects of its own, with the browser's types. */
function pageProjects() {
  return memberFolders()
    .flatMap((folder) => [`${folder}/web/tsconfig.json`, `${folder}/web/node/tsconfig.json`])
    .filter((project) => existsSync(join(root, project)));
}

/** @type {Map<string, number>} exit codes of the finished steps */
const finished = new Map();
const waiting = [...steps];
const started = performance.now();

/** Takes steps that are ready until none is left; several of these run side by side. */
async function work() {
  for (;;) {
    const index = waiting.findIndex(({ after }) => after === undefined || finished.has(after));
    const [step] = index < 0 ? [] : waiting.splice(index, 1);
    if (step !== undefined) await perform(step);
    else if (waiting.length === 0) return;
    else await setTimeout(50);
  }
}

/** @param {Step} step */
async function perform({ name, command, after }) {
  if (after !== undefined && finished.get(after) !== 0) {
    report(name, 1, 0, `not run: ${after} failed`);
    return;
  }
  const { code, output, seconds } = await run(command);
  report(name, code, seconds, code === 0 ? "" : `$ ${command.join(" ")}\n${output.trimEnd()}`);
}

/**
 * @param {string} name
 * @param {number} code
 * @param {number} seconds
 * @param {string} details
 */
function report(name, code, seconds, details) {
  finished.set(name, code);
  console.log(`${code === 0 ? "ok    " : "FAILED"} ${name.padEnd(14)} ${seconds.toFixed(1).padStart(5)} s`);
  if (details !== "") console.log(details.replaceAll(/^/gm, "  | "));
}

await Promise.all(Array.from({ length: Math.max(2, availableParallelism()) }, work));

const failed = [...finished].filter(([, code]) => code !== 0).map(([name]) => name);
const passed = finished.size - failed.length;
const flag = process.argv.indexOf("--json");
const file = process.argv[flag + 1];
if (flag > 0 && file !== undefined) {
  writeFileSync(file, JSON.stringify({ passed, failed: failed.length, steps: Object.fromEntries(finished) }, null, 2));
}
console.log(`\n${passed} passed, ${failed.length} failed in ${((performance.now() - started) / 1000).toFixed(1)} s`);
if (failed.length > 0) console.log(`failed: ${failed.join(", ")}`);
process.exitCode = failed.length === 0 ? 0 : 1;

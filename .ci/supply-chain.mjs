// What whoever installs a package has to trust: nothing runs at installation, what is published can be traced to this
// repository, and a main entry reaches no code but eventemitter3, the other packages' main entries and its own files.
// Each problem is one line that says what to do. Reads the built files.
import { readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { publishedPackages, readJson, root } from "./workspace.mjs";

/** Scripts that a package manager runs by itself at installation or publication. */
const LIFECYCLE = new Set([
  "preinstall",
  "install",
  "postinstall",
  "prepare",
  "preprepare",
  "postprepare",
  "prepublish",
]);
const REPOSITORY = "git+https://github.com/iommu-kit/iommu-kit.git";
/** Code made from text at run time: browsers forbid it, and no reader can check it. */
const CODE_FROM_TEXT = /\beval\s*\(|\bnew\s+Function\s*\(/;
const IMPORTS =
  /(?:^|[^.\w])(?:import|export)\s*(?:[\w*{}\s,$]+\s*from\s*)?["']([^"']+)["']|\bimport\s*\(\s*["']([^"']+)["']\s*\)/gm;

/** @type {string[]} */
const problems = [];
const packages = publishedPackages();
const ours = new Set(packages.map(({ name }) => name));

for (const { directory, name, shortName, manifest } of packages) {
  const given =
    /** @type {{ scripts?: Record<string, string>, bin?: unknown, publishConfig?: { provenance?: boolean, access?: string }, repository?: { url?: string, directory?: string }, optionalDependencies?: object, bundledDependencies?: unknown, bundleDependencies?: unknown }} */ (
      /** @type {unknown} */ (manifest)
    );
  const say = (/** @type {string} */ text) => problems.push(`packages/${shortName}/package.json: ${text}`);
  for (const script of Object.keys(given.scripts ?? {}))
    if (LIFECYCLE.has(script)) say(`remove the script "${script}": installing a package must run nothing`);
  if (given.publishConfig?.provenance !== true || given.publishConfig.access !== "public")
    say('"publishConfig" must say { "access": "public", "provenance": true }');
  if (given.repository?.url !== REPOSITORY || given.repository.directory !== `packages/${shortName}`)
    say(`"repository" must name ${REPOSITORY} and packages/${shortName}: provenance is checked against it`);
  for (const dependency of Object.keys(manifest.dependencies ?? {}))
    if (dependency !== "eventemitter3" && !ours.has(dependency))
      say(`remove the dependency "${dependency}", or make it an optional peer of a subpath`);
  if (
    given.optionalDependencies !== undefined ||
    given.bundledDependencies !== undefined ||
    given.bundleDependencies !== undefined
  )
    say("optional and bundled dependencies are installed like any other: remove them");
  checkMain(name, directory);
}

/**
 * Follows what a main entry imports, file by file.
 * @param {string} name
 * @param {string} directory
 */
function checkMain(name, directory) {
  const entry = packages.find((it) => it.name === name)?.entries.find(({ subpath }) => subpath === ".");
  if (entry === undefined) {
    problems.push(`${name}: give it a main entry`);
    return;
  }
  const waiting = [entry.code];
  const seen = new Set(waiting);
  for (let file = waiting.pop(); file !== undefined; file = waiting.pop()) {
    const text = readFileSync(file, "utf8");
    if (CODE_FROM_TEXT.test(text)) problems.push(`${file.slice(root.length + 1)}: makes code from text`);
    for (const [, from, dynamic] of text.matchAll(IMPORTS)) {
      const specifier = from ?? dynamic ?? "";
      if (specifier === "eventemitter3" || ours.has(specifier)) continue;
      const next = resolve(dirname(file), specifier);
      if (!specifier.startsWith("."))
        problems.push(`${file.slice(root.length + 1)}: the main entry of ${name} may not import "${specifier}"`);
      else if (!next.startsWith(join(directory, "dist")))
        problems.push(`${name}: ${specifier} leads out of the package`);
      else if (!seen.has(next)) waiting.push(next);
      if (specifier.startsWith(".")) seen.add(next);
    }
  }
  if (seen.size < 2) problems.push(`${name}: found no imports behind its main entry; is it built?`);
}

// pnpm runs build scripts of dependencies only when they are listed; those listed are for development.
/** @type {{ scripts?: Record<string, string> }} */
const workspace = readJson(join(root, "package.json"));
for (const script of Object.keys(workspace.scripts ?? {}))
  if (LIFECYCLE.has(script)) problems.push(`package.json: remove the script "${script}"`);

for (const problem of problems) console.error(problem);
process.exitCode = problems.length === 0 ? 0 : 1;

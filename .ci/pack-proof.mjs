// Proves that the packages work for a stranger: each is packed, installed by npm into an empty project together with the
// packages of this workspace that it depends on, and used there. Entry points come from `exports`; what using a package
// means is in .ci/consumer/<package>/: plain.mjs, require.cjs, di.mjs and types.mts, each required.
// First without the optional peers (nothing but eventemitter3 may have come along, and what misses them says so), then with them.
// Then the guides of docs/guides are followed, word for word, each in an empty folder: files saved, commands run, output compared. Only where `npm install`
// names one of our packages, its tarball is installed. What the guides save has to type-check, too.
// Names of packages or guides limit it to these. Options: --json FILE writes { passed, failed, proofs } for other programs; --keep leaves the projects for a look.
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { guideNames, readGuide } from "../docs/site/src/guide.mjs";
import { npmInstall, Proofs } from "./proofs.mjs";
import { packAll, publishedPackages, root, run } from "./workspace.mjs";

/**
 * @typedef {import("./workspace.mjs").Package} Package
 * @typedef {import("./workspace.mjs").Entry} Entry
 */

const packages = publishedPackages();
const workspace = mkdtempSync(join(tmpdir(), "iommu-kit-proof-"));
const proofs = new Proofs();

const build = await run(["tsc", "-b", ...packages.map(({ directory }) => directory)]);
if (build.code !== 0) throw new Error(`the packages do not compile:\n${build.output}`);
const tarballs = await packAll(workspace);
const wanted = process.argv.slice(2).filter((name, i, all) => !name.startsWith("--") && all[i - 1] !== "--json");
const isWanted = (/** @type {string} */ name) => wanted.length === 0 || wanted.includes(name);
for (const pkg of packages.filter(({ shortName }) => isWanted(shortName))) await provePackage(pkg);
for (const guide of guideNames().filter(isWanted)) await followGuide(guide);

if (process.argv.includes("--keep")) console.log(`the projects are in ${workspace}`);
else rmSync(workspace, { recursive: true, force: true });
proofs.finish();

/** @param {Package} pkg */
async function provePackage(pkg) {
  const project = join(workspace, pkg.shortName);
  mkdirSync(project);
  cpSync(join(root, ".ci", "consumer", pkg.shortName), project, { recursive: true });
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "consumer", private: true }));

  const isPlain = (/** @type {Entry} */ entry) => entry.subpath !== "./di";
  await prove(
    pkg,
    "npm installs it",
    project,
    npmInstall(withDependencies(pkg).map((name) => tarballs.get(name) ?? name)),
  );
  proofs.record(
    pkg.shortName,
    "brings nothing but eventemitter3",
    strangers(project).length === 0,
    strangers(project).join(", "),
  );
  for (const entry of pkg.entries.filter(isPlain)) await proveEntry(pkg, entry, project);
  await prove(pkg, "works by plain new", project, ["node", "plain.mjs"]);
  await prove(pkg, "works from CommonJS", project, ["node", "require.cjs"]);

  await proveMissingPeers(pkg, project);
  const peers = Object.entries(pkg.manifest.peerDependencies ?? {}).map(([name, range]) => `${name}@${range}`);
  await prove(pkg, "npm installs the optional peers", project, npmInstall(peers));
  for (const entry of pkg.entries.filter((each) => !isPlain(each))) await proveEntry(pkg, entry, project);
  await prove(pkg, "works through DI", project, ["node", "di.mjs"]);
  await proveTypes(pkg, project);
}

/** @param {string} guide */
async function followGuide(guide) {
  const project = join(workspace, `guide-${guide}`);
  mkdirSync(project);
  let output = "";
  const files = [];
  for (const step of readGuide(guide)) {
    if (step.kind === "file") {
      writeFileSync(join(project, step.name), step.text);
      files.push(step.name);
    } else if (step.kind === "output") {
      const same = output === step.text;
      proofs.record(`guide ${guide}`, "prints what it says", same, `expected:\n${step.text}got:\n${output}`);
    } else {
      for (const command of step.commands) {
        const outcome = await run(withTarballs(command), { cwd: project, env: plainEnvironment() });
        output = outcome.output;
        proofs.record(`guide ${guide}`, command, outcome.code === 0, output);
      }
    }
  }
  if (files.length === 0) return;
  const compilerOptions = {
    target: "ES2022",
    module: "NodeNext",
    strict: true,
    noEmit: true,
    types: ["node"],
    typeRoots: [join(root, "node_modules", "@types")],
  };
  writeFileSync(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, files }));
  const { code, output: findings } = await run(["tsc", "-p", "tsconfig.json"], { cwd: project });
  proofs.record(`guide ${guide}`, "type-checks", code === 0, findings);
}

/**
 * A command of a guide, with tarballs for our packages: theirs come along, as they would from a registry.
 * @param {string} command
 * @returns {string[]}
 */
function withTarballs(command) {
  const words = command.split(" ");
  if (!command.startsWith("npm install ")) return words;
  const ours = words.flatMap((word) => packages.filter(({ name }) => name === word).flatMap(withDependencies));
  const others = words.filter((word) => !tarballs.has(word));
  return [...others, ...new Set(ours)].map((word) => tarballs.get(word) ?? word);
}

/** The environment without what pnpm adds for npm, which npm warns about. */
function plainEnvironment() {
  const added = Object.keys(process.env).filter((name) => name.toLowerCase().startsWith("npm_"));
  return { ...Object.fromEntries(added.map((name) => [name, undefined])), npm_config_update_notifier: "false" };
}

/**
 * The package and every package of this workspace that it needs.
 * @param {Package} pkg
 * @returns {string[]}
 */
function withDependencies(pkg) {
  const direct = packages.filter(({ name }) => pkg.manifest.dependencies?.[name] !== undefined);
  return [...new Set([pkg.name, ...direct.flatMap(withDependencies)])];
}

/**
 * Installed packages that are neither ours nor eventemitter3.
 * @param {string} project
 */
function strangers(project) {
  const folder = join(project, "node_modules");
  const installed = existsSync(folder) ? readdirSync(folder) : [];
  return installed.filter((name) => !name.startsWith(".") && name !== "@iommu-kit" && name !== "eventemitter3");
}

/**
 * Both module systems see the entry point, with the same exports.
 * @param {Package} pkg
 * @param {Entry} entry
 * @param {string} project
 */
async function proveEntry(pkg, { specifier, label }, project) {
  const file = `entry-${label}.mjs`;
  writeFileSync(
    join(project, file),
    `import assert from "node:assert/strict";
    import { createRequire } from "node:module";
    import * as imported from ${JSON.stringify(specifier)};
    const names = (exports) => Object.keys(exports).filter((name) => name !== "__esModule" && name !== "module.exports");
    assert.notEqual(names(imported).length, 0, "exports nothing");
    assert.deepEqual(names(createRequire(import.meta.url)(${JSON.stringify(specifier)})), names(imported));`,
  );
  await prove(pkg, `import and require ${specifier}`, project, ["node", file]);
}

/**
 * Without its peers, `./di` cannot run a line of its own: docs/errors.md says what Node answers, and it does.
 * @param {Package} pkg
 * @param {string} project
 */
async function proveMissingPeers({ name, shortName }, project) {
  const { code, output } = await run(["node", "-e", `import("${name}/di")`], { cwd: project, env: plainEnvironment() });
  const isAsDocumented = /Cannot find package '(tsyringe|reflect-metadata)' imported from .*di\.js/.test(output);
  proofs.record(
    shortName,
    "./di without its peers: Node names the package that is missing",
    code !== 0 && isAsDocumented,
    output,
  );
}

/**
 * A strict TypeScript consumer without decorator options checks every declaration file.
 * @param {Package} pkg
 * @param {string} project
 */
async function proveTypes(pkg, project) {
  const imports = pkg.entries.map(
    ({ specifier }, index) => `export * as entry${index} from ${JSON.stringify(specifier)};`,
  );
  writeFileSync(join(project, "every-entry.mts"), imports.join("\n"));
  const compilerOptions = {
    target: "ES2022",
    module: "NodeNext",
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: false,
    noEmit: true,
    types: [],
  };
  writeFileSync(
    join(project, "tsconfig.json"),
    JSON.stringify({ compilerOptions, files: ["every-entry.mts", "types.mts"] }),
  );
  await prove(pkg, "type-checks for a consumer", project, ["tsc", "-p", "tsconfig.json"]);
}

/**
 * @param {Package} pkg
 * @param {string} proof
 * @param {string} cwd
 * @param {string[]} command
 */
async function prove(pkg, proof, cwd, command) {
  await proofs.prove(pkg.shortName, proof, command, { cwd });
}

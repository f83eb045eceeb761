// Proves that the packages work for a stranger: each is packed, installed by npm into an empty project together with the
// packages of this workspace that it depends on, and used there. Entry points come from `exports`; what using a package
// means is in .ci/consumer/<package>/: plain.mjs, require.cjs, di.mjs and types.mts, each required.
// First without the optional peers (nothing but eventemitter3 may have come along), then with them.
// Options: --json FILE writes { passed, failed, proofs } for other programs; --keep leaves the projects for a look.
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packAll, publishedPackages, root, run } from "./workspace.mjs";

/**
 * @typedef {import("./workspace.mjs").Package} Package
 * @typedef {import("./workspace.mjs").Entry} Entry
 * @typedef {{ package: string, proof: string, ok: boolean, output: string }} Proof
 */

const packages = publishedPackages();
const workspace = mkdtempSync(join(tmpdir(), "iommu-kit-proof-"));
/** @type {Proof[]} */
const proofs = [];

const build = await run(["tsc", "-b", ...packages.map(({ directory }) => directory)]);
if (build.code !== 0) throw new Error(`the packages do not compile:\n${build.output}`);
const tarballs = await packAll(workspace);
for (const pkg of packages) await provePackage(pkg);

const failed = proofs.filter(({ ok }) => !ok).length;
const passed = proofs.length - failed;
const jsonFlag = process.argv.indexOf("--json");
const jsonFile = process.argv[jsonFlag + 1];
if (jsonFlag > 0 && jsonFile !== undefined)
  writeFileSync(jsonFile, JSON.stringify({ passed, failed, proofs }, null, 2));
if (process.argv.includes("--keep")) console.log(`the projects are in ${workspace}`);
else rmSync(workspace, { recursive: true, force: true });
console.log(`\n${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;

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
  record(pkg, "brings nothing but eventemitter3", strangers(project).length === 0, strangers(project).join(", "));
  for (const entry of pkg.entries.filter(isPlain)) await proveEntry(pkg, entry, project);
  await prove(pkg, "works by plain new", project, ["node", "plain.mjs"]);
  await prove(pkg, "works from CommonJS", project, ["node", "require.cjs"]);

  const peers = Object.entries(pkg.manifest.peerDependencies ?? {}).map(([name, range]) => `${name}@${range}`);
  await prove(pkg, "npm installs the optional peers", project, npmInstall(peers));
  for (const entry of pkg.entries.filter((each) => !isPlain(each))) await proveEntry(pkg, entry, project);
  await prove(pkg, "works through DI", project, ["node", "di.mjs"]);
  await proveTypes(pkg, project);
}

/** @param {string[]} specs */
function npmInstall(specs) {
  return ["npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "--loglevel=error", ...specs];
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
  const { code, output } = await run(command, { cwd });
  record(pkg, proof, code === 0, output);
}

/**
 * @param {Package} pkg
 * @param {string} proof
 * @param {boolean} ok
 * @param {string} output
 */
function record(pkg, proof, ok, output) {
  proofs.push({ package: pkg.name, proof, ok, output: ok ? "" : output });
  console.log(`${ok ? "ok    " : "FAILED"} ${pkg.shortName}: ${proof}`);
  if (!ok) console.log(output.trimEnd().replaceAll(/^/gm, "  | "));
}

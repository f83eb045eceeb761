// What the checks need to know about the workspace: its published packages, their entry points, and how to run a tool.
// Entry points are read from each package's `exports`, so a new subpath is covered by every check without further work.
import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { delimiter, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

/**
 * @typedef {{ types: string, default: string }} ExportTarget
 * @typedef {object} Manifest
 * @property {string} name
 * @property {string} version
 * @property {Record<string, string | ExportTarget>} exports
 * @property {Record<string, string>} [dependencies]
 * @property {Record<string, string>} [peerDependencies]
 * @typedef {object} Entry
 * @property {string} subpath as in `exports`: "." or "./di"
 * @property {string} specifier what a consumer imports: "@iommu-kit/iommu-core/di"
 * @property {string} label a file-name-safe name: "index", "di"
 * @property {string} types absolute path of the built declaration file
 * @property {string} code absolute path of the built module
 * @typedef {{ directory: string, name: string, shortName: string, manifest: Manifest, entries: Entry[] }} Package
 * @typedef {{ code: number, output: string, seconds: number }} Outcome
 */

/** The root folder of the repository. */
export const root = resolve(fileURLToPath(import.meta.url), "../..");

/**
 * Reads a JSON file; the caller names the shape it relies on.
 * @template T
 * @param {string} file
 * @returns {T}
 */
export function readJson(file) {
  return /** @type {T} */ (JSON.parse(readFileSync(file, "utf8")));
}

/**
 * The folders of every workspace member that has a manifest, relative to the root.
 * @returns {string[]}
 */
export function memberFolders() {
  const nested = ["packages", "examples"].flatMap((group) =>
    existsSync(join(root, group)) ? readdirSync(join(root, group)).map((name) => `${group}/${name}`) : [],
  );
  return [...nested, "bench", "fuzz", "docs/site"].filter((folder) => existsSync(join(root, folder, "package.json")));
}

/**
 * The packages that are published, each with its entry points.
 * @returns {Package[]}
 */
export function publishedPackages() {
  return memberFolders()
    .filter((folder) => folder.startsWith("packages/"))
    .map((folder) => {
      const directory = join(root, folder);
      /** @type {Manifest} */
      const manifest = readJson(join(directory, "package.json"));
      const entries = Object.entries(manifest.exports).flatMap(([subpath, target]) =>
        typeof target === "string" ? [] : [entryOf(directory, manifest.name, subpath, target)],
      );
      return { directory, name: manifest.name, shortName: folder.slice("packages/".length), manifest, entries };
    });
}

/**
 * @param {string} directory
 * @param {string} packageName
 * @param {string} subpath
 * @param {ExportTarget} target
 * @returns {Entry}
 */
function entryOf(directory, packageName, subpath, target) {
  return {
    subpath,
    specifier: packageName + subpath.slice(1),
    label: subpath === "." ? "index" : subpath.slice(2).replaceAll("/", "-"),
    types: join(directory, target.types),
    code: join(directory, target.default),
  };
}

/**
 * Runs a program to its end and keeps what it printed. Tools of the workspace are found by their bare name.
 * @param {string[]} command program and arguments
 * @param {{ cwd?: string, env?: NodeJS.ProcessEnv }} [options]
 * @returns {Promise<Outcome>}
 */
export function run(command, options = {}) {
  const [program, ...args] = command;
  const started = performance.now();
  const path = [join(root, "node_modules", ".bin"), process.env["PATH"] ?? ""].join(delimiter);
  return new Promise((settle) => {
    let output = "";
    const child = spawn(/** @type {string} */ (program), args, {
      cwd: options.cwd ?? root,
      env: { ...process.env, ...options.env, PATH: path },
      stdio: ["ignore", "pipe", "pipe"],
      shell: process.platform === "win32",
    });
    const finish = (/** @type {number} */ code) =>
      settle({ code, output, seconds: (performance.now() - started) / 1000 });
    child.stdout.on("data", (chunk) => (output += String(chunk)));
    child.stderr.on("data", (chunk) => (output += String(chunk)));
    child.on("error", (error) => {
      output += `${command.join(" ")}: ${error.message}\n`;
      finish(127);
    });
    child.on("close", (code) => finish(code ?? 1));
  });
}

/**
 * The command that starts pnpm: the one that runs us, else the pinned version fetched by npx.
 * @returns {string[]}
 */
export function pnpmCommand() {
  const runner = process.env["npm_execpath"];
  if (runner !== undefined && /pnpm[^/\\]*$/.test(runner)) {
    return /\.c?js$/.test(runner) ? [process.execPath, runner] : [runner];
  }
  /** @type {{ packageManager: string }} */
  const manifest = readJson(join(root, "package.json"));
  return ["npx", "-y", manifest.packageManager];
}

/**
 * Packs every published package, with workspace and catalog versions replaced by real ones.
 * @param {string} folder an existing folder that receives the tarballs
 * @returns {Promise<Map<string, string>>} package name -> absolute path of its tarball
 */
export async function packAll(folder) {
  const packed = await Promise.all(
    publishedPackages().map(async ({ name, directory, manifest }) => {
      const outcome = await run([...pnpmCommand(), "pack", "--pack-destination", folder], { cwd: directory });
      const file = join(folder, `${name.replace("@", "").replace("/", "-")}-${manifest.version}.tgz`);
      if (outcome.code !== 0 || !existsSync(file)) throw new Error(`packing ${name} failed:\n${outcome.output}`);
      return /** @type {[string, string]} */ ([name, file]);
    }),
  );
  return new Map(packed);
}

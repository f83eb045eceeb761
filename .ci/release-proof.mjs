// Proves a release end to end, in a copy of this repository and with a registry on this machine: changesets become versions and
// changelogs, each package is published by itself, and strangers install what came out: by npm, by pnpm, and in a page that Vite
// bundles and a browser runs; Deno and Bun run it too. The workflow that does the same for real is .github/workflows/release.yml.
// Options: --json FILE writes { passed, failed, proofs } for other programs; --keep leaves the folders for a look.
import { execFileSync } from "node:child_process";
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, extname, join } from "node:path";
import { chromium } from "playwright-core";
import { startRegistry } from "./local-registry.mjs";
import { npmInstall, Proofs } from "./proofs.mjs";
import { pnpmCommand, publishedPackages, readJson, root } from "./workspace.mjs";

/** @typedef {{ version: string, dependencies?: Record<string, string> }} Manifest */

const CHROMIUM = process.env["CHROMIUM"] ?? "/usr/bin/chromium";
const packages = publishedPackages();
const names = packages.map(({ name }) => name);
const folder = mkdtempSync(join(tmpdir(), "iommu-kit-release-"));
const copy = join(folder, "repository");
const proofs = new Proofs();

const registry = await startRegistry(join(folder, "registry"));
try {
  proveWorkflow();
  await copyRepository();
  await proveFirstRelease();
  await proveSecondRelease();
  await proveConsumers();
} finally {
  registry.stop();
  if (process.argv.includes("--keep")) console.log(`everything is in ${folder}`);
  else rmSync(folder, { recursive: true, force: true });
}
proofs.finish();

/** What cannot be had here, a signed statement of where a package was built, must be asked for. */
function proveWorkflow() {
  const workflow = readFileSync(join(root, ".github/workflows/release.yml"), "utf8");
  for (const part of ["id-token: write", "version: pnpm exec changeset version", "publish: pnpm release"])
    proofs.record("workflow", `says ${part}`, workflow.includes(part), "release.yml lacks it");
  for (const { name, directory } of packages)
    proofs.equal(name, "is published with provenance", publishConfigOf(directory).provenance, true);
}

/**
 * @param {string} directory
 * @returns {{ provenance?: boolean }}
 */
function publishConfigOf(directory) {
  /** @type {{ publishConfig: { provenance?: boolean } }} */
  const { publishConfig } = readJson(join(directory, "package.json"));
  return publishConfig;
}

/** The files as they are here, committed or not, with packages installed and built. */
async function copyRepository() {
  const list = git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0");
  for (const file of list.filter((name) => name !== "" && existsSync(join(root, name)))) {
    mkdirSync(dirname(join(copy, file)), { recursive: true });
    cpSync(join(root, file), join(copy, file));
  }
  // Only the workflow can sign.
  for (const { shortName } of packages) {
    const file = join(copy, "packages", shortName, "package.json");
    writeFileSync(file, readFileSync(file, "utf8").replace(/,\s*"provenance": true/, ""));
  }
  git(copy, "init", "--quiet", "--initial-branch=main");
  // For commits of ours and for tags of the publisher, on a machine where git knows nobody.
  git(copy, "config", "user.name", "proof");
  git(copy, "config", "user.email", "proof@localhost");
  commit("everything");
  writeFileSync(join(copy, ".npmrc"), registry.publisherNpmrc);
  const install = [
    ...pnpmCommand(),
    "install",
    "--frozen-lockfile",
    "--prefer-offline",
    "--filter=.",
    "--filter=./packages/*",
  ];
  await proofs.prove("repository", "installs in a copy", install, { cwd: copy });
  await proofs.prove(
    "repository",
    "builds",
    ["tsc", "-b", ...packages.map(({ shortName }) => `packages/${shortName}`)],
    {
      cwd: copy,
    },
  );
}

async function proveFirstRelease() {
  const before = versions();
  addChangeset("first", { "@iommu-kit/iommu-core": "patch" }, "A line for the release proof.");
  await release();
  const after = versions();
  for (const { name, shortName } of packages) {
    proofs.record(name, "a changeset bumps its version", after[name] !== before[name], `it is still ${after[name]}`);
    const changelog = join(copy, "packages", shortName, "CHANGELOG.md");
    const text = existsSync(changelog) ? readFileSync(changelog, "utf8") : "";
    proofs.record(name, "has a changelog of that version", text.includes(`## ${after[name]}`), text);
    await provePublished(name, after[name] ?? "");
  }
  const core = readFileSync(join(copy, "packages/iommu-core/CHANGELOG.md"), "utf8");
  proofs.record("iommu-core", "its changelog has the line", core.includes("A line for the release proof."), core);
}

/** A change of one package releases that one, and nothing else. */
async function proveSecondRelease() {
  const before = versions();
  addChangeset("second", { "@iommu-kit/iommu-vtd": "patch" }, "Another line.");
  await release();
  const after = versions();
  const changed = names.filter((name) => after[name] !== before[name]);
  proofs.equal("repository", "a package is released by itself", changed, ["@iommu-kit/iommu-vtd"]);
  for (const name of names) {
    const published = Object.keys((await registry.document(name))?.versions ?? {});
    proofs.equal(name, "has a version for each of its releases", published.length, changed.includes(name) ? 2 : 1);
  }
}

/** What the workflow does: versions, a commit, and publishing. */
async function release() {
  const changeset = join(copy, "node_modules", ".bin", "changeset");
  const environment = {
    CI: "true",
    npm_config_registry: registry.url,
    PATH: `${pnpmFolder()}:${process.env["PATH"] ?? ""}`,
  };
  await proofs.prove("repository", "changeset version", [changeset, "version"], { cwd: copy });
  commit("versions");
  await proofs.prove("repository", "changeset publish", [changeset, "publish"], { cwd: copy, env: environment });
}

/**
 * The registry has this version, as a stranger may use it.
 * @param {string} name
 * @param {string} version
 */
async function provePublished(name, version) {
  const document = await registry.document(name);
  const manifest = /** @type {Manifest | undefined} */ (document?.versions[version]);
  proofs.equal(name, "is published as the latest version", document?.["dist-tags"]["latest"], version);
  const ranges = Object.entries(manifest?.dependencies ?? {});
  const bad = ranges.filter(([, range]) => !/^\^\d/.test(range));
  proofs.equal(name, "depends on real versions only", bad, []);
  const isTagged = git(copy, "tag", "--list").split("\n").includes(`${name}@${version}`);
  proofs.record(name, "has a tag of its own", isTagged, git(copy, "tag", "--list"));
}

async function proveConsumers() {
  const program = readmeProgram();
  const byNpm = emptyProject("by-npm");
  await proofs.prove("npm", "installs every package", npmInstall(names), { cwd: byNpm });
  await proveProgram("npm", byNpm, program);
  for (const { name, shortName } of packages) {
    const folderOfName = join(byNpm, "node_modules", name);
    for (const file of ["README.md", "LICENSE", "CHANGELOG.md"])
      proofs.record(name, `brings its ${file}`, existsSync(join(folderOfName, file)), "it is not in the package");
    const consumer = join(byNpm, shortName);
    cpSync(join(root, ".ci", "consumer", shortName), consumer, { recursive: true });
    await proofs.prove(name, "works by plain new", ["node", "plain.mjs"], { cwd: consumer });
    await proofs.prove(name, "works from CommonJS", ["node", "require.cjs"], { cwd: consumer });
  }
  const byPnpm = emptyProject("by-pnpm");
  await proofs.prove("pnpm", "installs every package", [...pnpmCommand(), "add", "--prefer-offline", ...names], {
    cwd: byPnpm,
  });
  await proveProgram("pnpm", byPnpm, program);
  await proveRuntimes(byNpm);
  await proveBrowser(program);
}

/**
 * Other runtimes, from their npm packages, run what npm installed.
 * @param {string} project
 */
async function proveRuntimes(project) {
  const runtimes = emptyProject("runtimes");
  await proofs.prove("runtimes", "npm installs Deno and Bun", npmInstall(["deno@2.5.6", "bun@1.3.3"]), {
    cwd: runtimes,
  });
  const bin = join(runtimes, "node_modules", ".bin");
  const files = ["host.mjs", ...packages.map(({ shortName }) => `${shortName}/plain.mjs`)];
  for (const file of files) {
    await proofs.prove("deno", `runs ${file}`, [join(bin, "deno"), "run", "--allow-read", file], { cwd: project });
    await proofs.prove("bun", `runs ${file}`, [join(bin, "bun"), file], { cwd: project });
  }
}

/**
 * The program of the README, and what it says that it prints.
 * @returns {{ code: string, prints: string[] }}
 */
function readmeProgram() {
  const [, code = ""] = /^```ts\n([^]*?)^```$/m.exec(readFileSync(join(root, "README.md"), "utf8")) ?? [];
  return { code, prints: [...code.matchAll(/^console\.log\(.*\); \/\/ (.*)$/gm)].map(([, text = ""]) => text) };
}

/**
 * @param {string} subject
 * @param {string} project
 * @param {{ code: string, prints: string[] }} program
 */
async function proveProgram(subject, project, { code, prints }) {
  writeFileSync(join(project, "host.mjs"), code);
  const output = await proofs.prove(subject, "runs the host of the README", ["node", "host.mjs"], { cwd: project });
  proofs.equal(subject, "which prints what the README says", output.trim().split("\n"), prints);
}

/** @param {{ code: string, prints: string[] }} program */
async function proveBrowser({ code, prints }) {
  const project = emptyProject("browser");
  /** @type {{ devDependencies: Record<string, string> }} */
  const { devDependencies } = readJson(join(root, "package.json"));
  await proofs.prove(
    "browser",
    "installs packages and Vite",
    npmInstall([...names, `vite@${devDependencies["vite"]}`]),
    {
      cwd: project,
    },
  );
  writeFileSync(
    join(project, "index.html"),
    '<!doctype html><title>host</title><script type="module" src="/main.js"></script>',
  );
  writeFileSync(join(project, "main.js"), code);
  await proofs.prove("browser", "Vite bundles the host of the README", ["node_modules/.bin/vite", "build"], {
    cwd: project,
  });
  const printed = await printedInBrowser(join(project, "dist"));
  // Browsers print an array of objects in their own way: the other lines are enough.
  proofs.equal("browser", "Chromium runs the bundle", printed.slice(-2), prints.slice(-2));
}

/**
 * Opens a page from a folder and waits until it has printed three lines.
 * @param {string} pages
 * @returns {Promise<string[]>}
 */
async function printedInBrowser(pages) {
  const types = { ".html": "text/html", ".js": "text/javascript" };
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
  try {
    const page = await browser.newPage();
    /** @type {string[]} */
    const printed = [];
    page.on("console", (message) => printed.push(message.text()));
    page.on("pageerror", (error) => printed.push(error.message));
    await page.route("**/*", (route) => {
      const path = new URL(route.request().url()).pathname;
      const file = join(pages, path === "/" ? "index.html" : path);
      const contentType = /** @type {Record<string, string>} */ (types)[extname(file)] ?? "text/plain";
      return existsSync(file)
        ? route.fulfill({ contentType, body: readFileSync(file) })
        : route.fulfill({ status: 204, body: "" });
    });
    await page.goto("http://page.test/");
    for (let waits = 0; waits < 100 && printed.length < 3; waits += 1) await page.waitForTimeout(100);
    return printed;
  } finally {
    await browser.close();
  }
}

/**
 * An empty project that finds our packages in the registry.
 * @param {string} name
 */
function emptyProject(name) {
  const project = join(folder, name);
  mkdirSync(project);
  writeFileSync(join(project, "package.json"), JSON.stringify({ name, private: true, type: "module" }));
  writeFileSync(join(project, ".npmrc"), registry.npmrc);
  return project;
}

/**
 * @param {string} name
 * @param {Record<string, string>} bumps
 * @param {string} line
 */
function addChangeset(name, bumps, line) {
  const head = Object.entries(bumps).map(([subject, kind]) => `"${subject}": ${kind}`);
  writeFileSync(join(copy, ".changeset", `release-proof-${name}.md`), `---\n${head.join("\n")}\n---\n\n${line}\n`);
}

/** @returns {Record<string, string>} */
function versions() {
  return Object.fromEntries(
    packages.map(({ name, shortName }) => {
      /** @type {Manifest} */
      const manifest = readJson(join(copy, "packages", shortName, "package.json"));
      return [name, manifest.version];
    }),
  );
}

/** A folder with a `pnpm` that is the one of this repository: changesets look for it by name. */
function pnpmFolder() {
  const bin = join(folder, "bin");
  mkdirSync(bin, { recursive: true });
  const command = pnpmCommand().map((word) => `'${word}'`);
  writeFileSync(join(bin, "pnpm"), `#!/bin/sh\nexec ${command.join(" ")} "$@"\n`);
  chmodSync(join(bin, "pnpm"), 0o755);
  return bin;
}

/** @param {string} message */
function commit(message) {
  git(copy, "add", "--all");
  git(copy, "commit", "--quiet", "--message", message);
}

/**
 * @param {string} cwd
 * @param {readonly string[]} words
 */
function git(cwd, ...words) {
  return execFileSync("git", words, { cwd, encoding: "utf8", maxBuffer: 2 ** 26 });
}

// Compares the public API of every entry point with its report in packages/*/etc (one report per subpath). All entry
// points share one compiler run. `--update` writes the reports instead. In both modes a type that appears in a public
// signature must be exported (from that entry point, or from the main one of its package), and every export has a
// docstring.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CompilerState, Extractor, ExtractorConfig, ExtractorLogLevel } from "@microsoft/api-extractor";
import { publishedPackages } from "./workspace.mjs";

/**
 * @typedef {import("./workspace.mjs").Package} Package
 * @typedef {import("./workspace.mjs").Entry} Entry
 * @typedef {import("@microsoft/api-extractor").ExtractorMessage} ExtractorMessage
 */

const update = process.argv.includes("--update");
const temporary = join(tmpdir(), `iommu-kit-api-${process.pid}`);
const packages = publishedPackages();
let problemCount = 0;

const built = packages.flatMap((pkg) => pkg.entries.map((entry) => ({ pkg, entry })));
for (const { entry } of built) {
  if (!existsSync(entry.types)) problem(`${entry.specifier} is exported but not built: ${entry.types}`);
}
if (problemCount === 0) checkReports();
for (const pkg of packages) checkLeftovers(pkg);
rmSync(temporary, { recursive: true, force: true });

console.log(problemCount === 0 ? "every API report is up to date" : `${problemCount} problems`);
process.exitCode = problemCount === 0 ? 0 : 1;

function checkReports() {
  const configs = built.map(({ pkg, entry }) => ({ pkg, entry, config: extractorConfig(pkg, entry) }));
  const first = configs[0];
  if (first === undefined) return;
  const compilerState = CompilerState.create(first.config, {
    additionalEntryPoints: built.map(({ entry }) => entry.types),
  });
  for (const { pkg, entry, config } of configs) checkReport(pkg, entry, { config, compilerState });
}

/**
 * @param {Package} pkg
 * @param {Entry} entry
 * @param {{ config: ExtractorConfig, compilerState: CompilerState }} extractor
 */
function checkReport(pkg, entry, { config, compilerState }) {
  /** @type {ExtractorMessage[]} */
  const messages = [];
  const result = Extractor.invoke(config, {
    compilerState,
    localBuild: update,
    messageCallback: (message) => {
      if (message.logLevel === ExtractorLogLevel.Error || message.logLevel === ExtractorLogLevel.Warning) {
        messages.push(message);
      }
      message.handled = true;
    },
  });
  const exported = exportedNames(join(temporary, reportName(entry)));
  const main = entry.subpath === "." ? exported : exportedNames(join(pkg.directory, "etc", "index.api.md"));
  for (const message of messages.filter((each) => isProblem(each, exported, main))) {
    problem(`${entry.specifier}: ${textOf(message)}`);
  }
  if (!result.apiReportChanged) return;
  const report = `packages/${pkg.shortName}/etc/${reportName(entry)}`;
  if (update) console.log(`wrote ${report}`);
  else problem(`${report} is out of date; run: pnpm run api`);
}

/**
 * @param {ExtractorMessage} message
 * @param {Set<string>} exported by this entry point
 * @param {Set<string>} main exported by the package's main entry point, which its subpaths may mention
 */
function isProblem({ messageId, text }, exported, main) {
  if (messageId.startsWith("console-api-report")) return false;
  const symbol = /"(\w+)"/.exec(text)?.[1] ?? "";
  if (messageId === "ae-forgotten-export") return !main.has(symbol);
  return messageId !== "ae-undocumented" || exported.has(symbol);
}

/**
 * The names that a report lists as exports of the entry point.
 * @param {string} report
 * @returns {Set<string>}
 */
function exportedNames(report) {
  const text = existsSync(report) ? readFileSync(report, "utf8") : "";
  const declared = text.matchAll(
    /^export (?:declare )?(?:abstract )?(?:class|const|function|interface|type|let) (\w+)/gm,
  );
  return new Set([...declared].map(([, name]) => name ?? ""));
}

/**
 * Reports of entry points that no longer exist.
 * @param {Package} pkg
 */
function checkLeftovers(pkg) {
  const folder = join(pkg.directory, "etc");
  const known = new Set(pkg.entries.map(reportName));
  for (const stale of existsSync(folder) ? readdirSync(folder).filter((file) => !known.has(file)) : []) {
    if (update) rmSync(join(folder, stale));
    else problem(`packages/${pkg.shortName}/etc/${stale} belongs to no entry point; run: pnpm run api`);
  }
}

/**
 * @param {Package} pkg
 * @param {Entry} entry
 */
function extractorConfig(pkg, entry) {
  const reportFolder = join(pkg.directory, "etc");
  mkdirSync(reportFolder, { recursive: true });
  return ExtractorConfig.prepare({
    configObjectFullPath: undefined,
    packageJsonFullPath: join(pkg.directory, "package.json"),
    configObject: {
      projectFolder: pkg.directory,
      newlineKind: "lf",
      mainEntryPointFilePath: entry.types,
      compiler: {
        overrideTsconfig: {
          compilerOptions: { target: "ES2022", module: "NodeNext", moduleResolution: "NodeNext", types: ["node"] },
          files: [entry.types],
        },
      },
      apiReport: { enabled: true, reportFileName: reportName(entry), reportFolder, reportTempFolder: temporary },
      docModel: { enabled: false },
      dtsRollup: { enabled: false },
      tsdocMetadata: { enabled: false },
      messages: {
        compilerMessageReporting: { default: { logLevel: ExtractorLogLevel.Error } },
        extractorMessageReporting: {
          default: { logLevel: ExtractorLogLevel.Error },
          "ae-internal-missing-underscore": { logLevel: ExtractorLogLevel.None },
          "ae-missing-release-tag": { logLevel: ExtractorLogLevel.None },
          "ae-undocumented": { logLevel: ExtractorLogLevel.Error },
        },
        tsdocMessageReporting: { default: { logLevel: ExtractorLogLevel.None } },
      },
    },
  });
}

/** @param {Entry} entry */
function reportName({ label }) {
  return `${label}.api.md`;
}

/** @param {ExtractorMessage} message */
function textOf({ text, sourceFilePath, sourceFileLine }) {
  return sourceFilePath === undefined ? text : `${text} (${sourceFilePath}:${sourceFileLine ?? 0})`;
}

/** @param {string} text */
function problem(text) {
  problemCount += 1;
  console.error(text);
}

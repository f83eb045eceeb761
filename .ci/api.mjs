// Compares the public API of every entry point with its report in packages/*/etc (one report per subpath). All entry
// points share one compiler run. `--update` writes the reports instead. In both modes a type that appears in a public
// signature must be exported, from any entry point of its package, and every export has a docstring. Members without one
// are counted for each report in .ci/undocumented.json, and the counts only go down: `--update` writes lower ones.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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
checkUndocumented();
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
  /** @type {Map<Package, Set<string>>} */
  const exportedBy = new Map(packages.map((pkg) => [pkg, new Set()]));
  const findings = configs.map(({ pkg, entry, config }) => {
    const messages = checkReport(pkg, entry, { config, compilerState });
    for (const name of exportedNames(join(temporary, reportName(entry)))) exportedBy.get(pkg)?.add(name);
    return { pkg, entry, messages };
  });
  for (const { pkg, entry, messages } of findings) {
    const exported = exportedBy.get(pkg) ?? new Set();
    for (const message of messages.filter((each) => isProblem(each, exported))) {
      problem(`${entry.specifier}: ${textOf(message)}`);
    }
  }
}

/**
 * Compares or writes one report.
 * @param {Package} pkg
 * @param {Entry} entry
 * @param {{ config: ExtractorConfig, compilerState: CompilerState }} extractor
 * @returns {ExtractorMessage[]} what the extractor says about the entry point
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
  const report = `packages/${pkg.shortName}/etc/${reportName(entry)}`;
  if (result.apiReportChanged && update) console.log(`wrote ${report}`);
  else if (result.apiReportChanged) problem(`${report} is out of date; run: pnpm run api`);
  return messages;
}

/**
 * @param {ExtractorMessage} message
 * @param {Set<string>} exported by any entry point of the package
 */
function isProblem(message, exported) {
  if (message.messageId.startsWith("console-api-report")) return false;
  const { comment, declaration } = placeOf(message);
  if (message.messageId === "ae-undocumented") return /^\S/.test(declaration);
  const symbol = /"(\w+)"/.exec(message.text)?.[1] ?? "";
  return message.messageId !== "ae-forgotten-export" || !(exported.has(symbol) || comment.includes("@internal"));
}

/**
 * The source line that a message is about (unindented for what is not a member), and the comment above it.
 * @param {ExtractorMessage} message
 */
function placeOf({ sourceFilePath, sourceFileLine }) {
  if (sourceFilePath === undefined || sourceFileLine === undefined) return { comment: "", declaration: "" };
  const lines = readFileSync(sourceFilePath, "utf8").split("\n");
  const above = lines.slice(0, sourceFileLine - 1);
  const commentStart = above.findLastIndex((line) => !/^\s*(\/?\*|@)/.test(line)) + 1;
  return { comment: above.slice(commentStart).join("\n"), declaration: lines[sourceFileLine - 1] ?? "" };
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

/** Members without a docstring, those marked `@internal` aside: no report may have more of them than before, a new one none. */
function checkUndocumented() {
  const file = new URL("undocumented.json", import.meta.url);
  const allowed = /** @type {Record<string, number>} */ (JSON.parse(readFileSync(file, "utf8")));
  /** @type {Record<string, number>} */
  const counts = {};
  for (const { pkg, entry } of built) {
    const report = join(pkg.directory, "etc", reportName(entry));
    const text = existsSync(report) ? readFileSync(report, "utf8") : "";
    const count = [...text.matchAll(/^ *\/\/ \(undocumented\)$/gm)].length;
    const most = allowed[entry.specifier] ?? 0;
    if (count > most) problem(`${entry.specifier}: expected at most ${most} members without a docstring, got ${count}`);
    if (Math.min(count, most) > 0) counts[entry.specifier] = Math.min(count, most);
  }
  if (update) writeFileSync(file, `${JSON.stringify(counts, undefined, 2)}\n`);
  else if (JSON.stringify(counts) !== JSON.stringify(allowed))
    problem(".ci/undocumented.json has higher counts than the reports; run: pnpm run api");
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
          compilerOptions: { target: "ES2022", lib: ["ES2023"], module: "NodeNext", types: [] },
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

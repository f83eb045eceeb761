// Compares the public API of every entry point with its report in packages/*/etc (one report per subpath), in one
// process so that the compiler is loaded once. `--update` writes the reports instead. An export without a docstring is
// an error in both modes.
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Extractor, ExtractorConfig, ExtractorLogLevel } from "@microsoft/api-extractor";
import { publishedPackages } from "./workspace.mjs";

const update = process.argv.includes("--update");
let problemCount = 0;

for (const pkg of publishedPackages()) {
  const folder = join(pkg.directory, "etc");
  mkdirSync(folder, { recursive: true });
  for (const entry of pkg.entries) checkEntry(pkg, entry, folder);
  const known = new Set(pkg.entries.map(({ label }) => `${label}.api.md`));
  for (const stale of readdirSync(folder).filter((file) => !known.has(file))) {
    if (update) rmSync(join(folder, stale));
    else problem(`packages/${pkg.shortName}/etc/${stale} belongs to no entry point; run: pnpm run api`);
  }
}
console.log(problemCount === 0 ? "every API report is up to date" : `${problemCount} problems`);
process.exitCode = problemCount === 0 ? 0 : 1;

/**
 * @param {import("./workspace.mjs").Package} pkg
 * @param {import("./workspace.mjs").Entry} entry
 * @param {string} reportFolder
 */
function checkEntry(pkg, entry, reportFolder) {
  if (!existsSync(entry.types)) {
    problem(`${entry.specifier}: ${entry.types} does not exist`);
    return;
  }
  const config = ExtractorConfig.prepare({
    configObject: configOf(pkg.directory, entry, reportFolder),
    configObjectFullPath: undefined,
    packageJsonFullPath: join(pkg.directory, "package.json"),
  });
  const result = Extractor.invoke(config, {
    localBuild: update,
    messageCallback: (message) => {
      message.handled = true;
      const isError = message.logLevel === ExtractorLogLevel.Error || message.logLevel === ExtractorLogLevel.Warning;
      if (isError && message.messageId !== "console-api-report-not-copied") problem(`${entry.specifier}: ${textOf(message)}`);
    },
  });
  const report = `packages/${pkg.shortName}/etc/${entry.label}.api.md`;
  if (!result.apiReportChanged) return;
  if (update) console.log(`wrote ${report}`);
  else problem(`${report} is out of date; run: pnpm run api`);
}

/**
 * @param {string} projectFolder
 * @param {import("./workspace.mjs").Entry} entry
 * @param {string} reportFolder
 * @returns {import("@microsoft/api-extractor").IConfigFile}
 */
function configOf(projectFolder, entry, reportFolder) {
  return {
    projectFolder,
    mainEntryPointFilePath: entry.types,
    compiler: {
      overrideTsconfig: {
        compilerOptions: { target: "ES2022", module: "NodeNext", moduleResolution: "NodeNext", types: [], strict: true },
        files: [entry.types],
      },
    },
    apiReport: {
      enabled: true,
      reportFileName: `${entry.label}.api.md`,
      reportFolder,
      reportTempFolder: join(tmpdir(), "iommu-kit-api"),
    },
    docModel: { enabled: false },
    dtsRollup: { enabled: false },
    tsdocMetadata: { enabled: false },
    messages: {
      compilerMessageReporting: { default: { logLevel: /** @type {any} */ ("error") } },
      extractorMessageReporting: {
        default: { logLevel: /** @type {any} */ ("error") },
        "ae-missing-release-tag": { logLevel: /** @type {any} */ ("none") },
      },
      tsdocMessageReporting: { default: { logLevel: /** @type {any} */ ("none") } },
    },
  };
}

/** @param {import("@microsoft/api-extractor").ExtractorMessage} message */
function textOf(message) {
  const place = message.sourceFilePath === undefined ? "" : ` (${message.sourceFilePath}:${message.sourceFileLine ?? 0})`;
  return `${message.text}${place}`;
}

/** @param {string} text */
function problem(text) {
  problemCount += 1;
  console.error(text);
}

/**
 * `pnpm conformance FILE...`: our unit against recorded answers. Exit code 0: nothing failed; 1: something did; 2: a file or an option is wrong.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { type Options, readOptions, USAGE } from "./options.js";
import { compareCounts, countsOf, renderDocument } from "./report/deviations-document.js";
import { describeFile, toJson, totalLine, totals } from "./report/report.js";
import type { FileResult } from "./run-file.js";
import { runFiles } from "./run-files.js";

const FIRST_MISMATCHES = 10;
const DOCUMENT = new URL("../../../docs/deviations.md", import.meta.url);

process.exitCode = await main(process.argv.slice(2));

async function main(args: readonly string[]): Promise<number> {
  let options: Options;
  try {
    options = readOptions(args);
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n${USAGE}`);
    return 2;
  }
  const results = await run(options);
  const settled = documentAgrees(options, results);
  if (options.json) console.log(toJson(results));
  // Standard output is one JSON document then; the last line of everything stays the same.
  (options.json ? console.error : console.log)(totalLine(results));
  if (results.length < options.files.length) return 2;
  return totals(results).failed === 0 && settled ? 0 : 1;
}

/** Files that cannot be read are complained about and left out. */
async function run({ files, json, verbose, onlyCase }: Options): Promise<FileResult[]> {
  const results: FileResult[] = [];
  for (const answer of runFiles(files, { keep: verbose ? Infinity : FIRST_MISMATCHES, onlyCase })) {
    const output = await answer;
    if ("problem" in output) console.error(output.problem);
    else {
      results.push(output.result);
      if (!json) console.log(`${describeFile(output.result)}\n`);
    }
  }
  return results;
}

function documentAgrees({ checkDocs, updateDocs, onlyCase }: Options, results: readonly FileResult[]): boolean {
  if (onlyCase !== undefined || !(checkDocs || updateDocs)) return true;
  const document = readFileSync(DOCUMENT, { encoding: "utf8", flag: "a+" });
  if (updateDocs) writeFileSync(DOCUMENT, renderDocument(countsOf(results), document));
  const problems = updateDocs ? [] : compareCounts(document, countsOf(results));
  for (const problem of problems) console.error(problem);
  return problems.length === 0;
}

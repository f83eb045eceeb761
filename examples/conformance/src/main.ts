/**
 * `pnpm conformance FILE...`: our unit against recorded answers. Exit code 0: nothing failed; 1: something did; 2: a file or an option is wrong.
 */

import { FileError } from "./files/file-error.js";
import { type Options, readOptions, USAGE } from "./options.js";
import { describeFile, toJson, totalLine, totals } from "./report/report.js";
import { type FileResult, runFile } from "./run-file.js";

const FIRST_MISMATCHES = 10;

process.exitCode = await main(process.argv.slice(2));

async function main(args: readonly string[]): Promise<number> {
  let options: Options;
  try {
    options = readOptions(args);
  } catch (error) {
    console.error(`${error instanceof Error ? error.message : String(error)}\n${USAGE}`);
    return 2;
  }
  const results: FileResult[] = [];
  try {
    for (const path of options.files) {
      const result = await runFile(path, { keep: options.verbose ? Infinity : FIRST_MISMATCHES, onlyCase: options.onlyCase });
      results.push(result);
      if (!options.json) console.log(`${describeFile(result)}\n`);
    }
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    console.error(error.message);
    return 2;
  }
  if (options.json) console.log(toJson(results));
  console.log(totalLine(results));
  return totals(results).failed === 0 ? 0 : 1;
}

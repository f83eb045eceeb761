// Adds up the suites that .ci/run ran: reads suites.tsv (name, kind of verdict, exit code, seconds) and each suite's own
// report in the folder given, prints a table, what went wrong in each suite that failed (a log is often kept by its end
// alone) and, alone on the last line, "N passed, N failed".
import { existsSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { readJson } from "./workspace.mjs";

/** @typedef {{ passed: number, failed: number }} Count */

const folder = process.argv[2] ?? ".ci/out";
const lines = readFileSync(join(folder, "suites.tsv"), "utf8").trim().split("\n");
const total = { passed: 0, failed: 0 };
/** @type {string[]} */
const complaints = [];
console.log("");
for (const line of lines) {
  const [name = "", verdict = "", code = "1", seconds = "0"] = line.split("\t");
  const { passed, failed } = judge(name, verdict, Number(code));
  total.passed += passed;
  total.failed += failed;
  const state = failed === 0 ? "ok    " : "FAILED";
  if (failed > 0) complaints.push(`\n${name}: exit code ${code}`, ...complaintsOf(name));
  console.log(
    `${state} ${name.padEnd(14)} ${`${passed} passed`.padStart(16)} ${`${failed} failed`.padStart(12)} ${seconds.padStart(6)} s`,
  );
}
for (const line of complaints) console.log(line);
console.log(`${total.passed} passed, ${total.failed} failed`);
process.exitCode = total.failed === 0 && total.passed > 0 ? 0 : 1;

/**
 * A suite that ends badly has failed at least once, whatever it reports; so has one that reports nothing.
 * @param {string} name
 * @param {string} verdict
 * @param {number} code
 * @returns {Count}
 */
function judge(name, verdict, code) {
  if (verdict === "exit-code") return code === 0 ? { passed: 1, failed: 0 } : { passed: 0, failed: 1 };
  const count = fromJson(join(folder, `${name}.json`)) ?? fromLastLine(join(folder, `${name}.log`));
  if (count === undefined) console.log(`${name} left no report`);
  const { passed, failed } = count ?? { passed: 0, failed: 0 };
  const isBad = code !== 0 || passed + failed === 0;
  return { passed, failed: isBad ? Math.max(1, failed) : failed };
}

/**
 * The failed tests with the beginning of what each said. A suite can end badly with every test passed (a coverage
 * threshold, an unhandled rejection, a run cut short), and then only its log knows: the lines that sound like it, or the last.
 * @param {string} name
 * @returns {string[]}
 */
function complaintsOf(name) {
  const file = join(folder, `${name}.json`);
  /** @type {{ testResults?: { name: string, message?: string, assertionResults?: { status: string, fullName: string, failureMessages?: string[] }[] }[] }} */
  const report = existsSync(file) ? readJson(file) : {};
  const failed = (report.testResults ?? []).flatMap(({ name: testFile, message, assertionResults = [] }) => [
    ...(assertionResults.length === 0 && message ? [`${relative(".", testFile)}: ${shortened(message)}`] : []),
    ...assertionResults
      .filter(({ status }) => status === "failed")
      .map(
        ({ fullName, failureMessages = [] }) =>
          `${relative(".", testFile)}: ${fullName}\n${shortened(failureMessages.join("\n"))}`,
      ),
  ]);
  if (failed.length > 0) return failed;
  const log = join(folder, `${name}.log`);
  const printed = existsSync(log) ? readFileSync(log, "utf8").trimEnd().split("\n") : [];
  const telling = printed.filter((line) => /\bERROR|Unhandled|stopped after|not run:/.test(line));
  return telling.length > 0 ? telling.slice(-10) : printed.slice(-10);
}

/** @param {string} text */
function shortened(text) {
  return text.split("\n").slice(0, 12).join("\n").slice(0, 1500);
}

/**
 * @param {string} file
 * @returns {Count | undefined}
 */
function fromJson(file) {
  if (!existsSync(file)) return undefined;
  /** @type {Partial<Count & { numPassedTests: number, numFailedTests: number }>} */
  const report = readJson(file);
  const passed = report.numPassedTests ?? report.passed;
  const failed = report.numFailedTests ?? report.failed;
  return passed === undefined || failed === undefined ? undefined : { passed, failed };
}

/**
 * The last line that says so; pnpm may have added its own after it.
 * @param {string} file
 * @returns {Count | undefined}
 */
function fromLastLine(file) {
  const printed = existsSync(file) ? readFileSync(file, "utf8").split("\n") : [];
  const match = /^(\d+) passed, (\d+) failed/.exec(
    printed.findLast((line) => /^\d+ passed, \d+ failed/.test(line)) ?? "",
  );
  return match === null ? undefined : { passed: Number(match[1]), failed: Number(match[2]) };
}

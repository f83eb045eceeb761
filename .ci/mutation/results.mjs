/**
 * docs/mutation-survivors.json: for each mutated file what the last run that judged it found, and every mutant that survived.
 * A run of a part replaces the files of that part and no others.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { readJson } from "../workspace.mjs";
import { nameOf, reasons } from "./reasons.mjs";
import { ERROR_TEXT, MOST_MS, MOST_RUNS, SLOWEST_MS, TESTS } from "./settings.mjs";

/**
 * @typedef {{ line: number, column: number }} Position
 * @typedef {{ mutatorName: string, replacement?: string, status: string, statusReason?: string, location: { start: Position, end: Position } }} Mutant
 * @typedef {{ line: number, mutator: string, context: string, original: string, replacement: string, covered: boolean, reason: string }} Survivor
 * @typedef {{ killed: number, endless: number, survived: number, uncovered: number, loading: number }} Counts
 * @typedef {object} FileResult
 * @property {string} source names the text that was judged: a hash
 * @property {string} commit that was checked out
 * @property {string} settings
 * @property {Counts} counts
 * @property {Survivor[]} survivors
 * @typedef {Record<string, FileResult>} Results
 */

const FILE = "docs/mutation-survivors.json";
/** Survivors that have been looked at one by one, by file and by reason; each is tied to the text of its line. @type {Record<string, Record<string, string[]>>} */
const explained = readJson(".ci/mutation/explained.json");
export const UNEXPLAINED = "open";

/** Results with the reasons as they are now. @returns {Results} */
export function readResults() {
  /** @type {Results} */
  const all = existsSync(FILE) ? readJson(FILE) : {};
  const results = Object.fromEntries(Object.entries(all).filter(([file]) => existsSync(file)));
  for (const [file, { survivors }] of Object.entries(results))
    for (const survivor of survivors) survivor.reason = reasonOf(file, survivor);
  return results;
}

/** @param {Results} results */
export function writeResults(results) {
  const sorted = Object.fromEntries(Object.entries(results).toSorted(([a], [b]) => (a < b ? -1 : 1)));
  writeFileSync(FILE, `${JSON.stringify(sorted, null, 2)}\n`);
}

/** What a run found out about a file. @param {string} file @param {string} source as it was judged @param {readonly Mutant[]} mutants @returns {FileResult} */
export function resultOf(file, source, mutants) {
  const commit = execFileSync("git", ["rev-parse", "--short=9", "HEAD"], { encoding: "utf8" }).trim();
  const by = TESTS === "" ? "" : `, by the test files that match ${TESTS}`;
  const settings = `${MOST_RUNS} runs of a property and ${MOST_MS} ms for a mutant${SLOWEST_MS === 1000 ? "" : `, ${SLOWEST_MS} ms for a test`}${by}`;
  const survivors = survivorsOf(file, source.split("\n"), mutants);
  return { source: hash(source), commit, settings, counts: count(mutants), survivors };
}

/** Whether a file reads as it did when it was judged. @param {string} file @param {FileResult | undefined} result */
export function isCurrent(file, result) {
  return existsSync(file) && hash(readFileSync(file, "utf8")) === result?.source;
}

/** @param {string} text */
function hash(text) {
  return createHash("sha256").update(text).digest("hex").slice(0, 12);
}

/** One that was stopped for the number of its hits does not end. One that was stopped by the clock proves nothing: it survived. @param {Mutant} mutant */
function isEndless({ status, statusReason }) {
  return status === "Timeout" && statusReason?.startsWith("Hit limit") === true;
}

/** @param {Mutant} mutant */
function hasSurvived(mutant) {
  return mutant.status === "Survived" || (mutant.status === "Timeout" && !isEndless(mutant));
}

/** @param {readonly Mutant[]} mutants @returns {Counts} */
function count(mutants) {
  const of = (/** @type {string} */ status) => mutants.filter((mutant) => mutant.status === status).length;
  return {
    killed: of("Killed"),
    endless: mutants.filter(isEndless).length,
    survived: mutants.filter(hasSurvived).length,
    uncovered: of("NoCoverage"),
    loading: mutants.filter(({ status, statusReason }) => status === "Ignored" && statusReason !== ERROR_TEXT).length,
  };
}

/** @param {string} file @param {readonly string[]} lines @param {readonly Mutant[]} mutants @returns {Survivor[]} */
function survivorsOf(file, lines, mutants) {
  return mutants
    .filter((mutant) => hasSurvived(mutant) || mutant.status === "NoCoverage")
    .map(({ mutatorName, replacement = "", status, location: { start, end } }) => {
      const text = lines.slice(start.line - 1, end.line);
      const last = text.length - 1;
      text[last] = (text[last] ?? "").slice(0, end.column - 1);
      text[0] = (text[0] ?? "").slice(start.column - 1);
      const survivor = {
        line: start.line,
        mutator: mutatorName,
        context: (lines[start.line - 1] ?? "").trim(),
        original: short(text.join("\n")),
        replacement: short(replacement),
        covered: status !== "NoCoverage",
      };
      return { ...survivor, reason: reasonOf(file, survivor) };
    })
    .toSorted((a, b) => a.line - b.line);
}

/** @param {string} file @param {Omit<Survivor, "reason">} survivor */
function reasonOf(file, survivor) {
  const name = nameOf(survivor);
  const [id] = Object.entries(explained[file] ?? {}).find(([, names]) => names.includes(name)) ?? [];
  if (id !== undefined && !reasons.some((reason) => reason.id === id)) throw new Error(`no reason ${id} for ${file}`);
  return id ?? reasons.find(({ holds }) => holds?.({ ...survivor, file }) === true)?.id ?? UNEXPLAINED;
}

/** @param {string} text */
function short(text) {
  const line = text.replaceAll(/\s+/g, " ");
  return line.length > 100 ? `${line.slice(0, 97)}...` : line;
}

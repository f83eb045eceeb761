/**
 * docs/mutation-survivors.json: for each mutated file what the last run that judged it found, and every mutant that survived.
 * A run of a part replaces the files of that part and no others.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { readJson } from "../workspace.mjs";
import { FOUND_SINCE, nameOf, reasons } from "./reasons.mjs";
import { ERROR_TEXT, MOST_MS, MOST_RUNS, SLOWEST_MS, TESTS, USUAL_SLOWEST_MS } from "./settings.mjs";

/**
 * @typedef {{ line: number, column: number }} Position
 * @typedef {{ mutatorName: string, replacement?: string, status: string, statusReason?: string, location: { start: Position, end: Position } }} Mutant
 * @typedef {{ line: number, mutator: string, context: string, original: string, replacement: string, covered: boolean, reason: string, nth?: string, change?: string }} Survivor
 * @typedef {{ killed: number, endless: number, survived: number, uncovered: number, loading: number }} Counts
 * @typedef {object} FileResult
 * @property {string} source names the text that was judged: a hash
 * @property {{ runs: number, milliseconds: number, slowestTest?: number, tests?: string }} settings runs of a property; for a mutant; for a test, if not the usual; test files that match
 * @property {Counts} counts
 * @property {Survivor[]} survivors
 * @typedef {Record<string, FileResult>} Results
 */

const FILE = "docs/mutation-survivors.json";
const EXPLAINED = ".ci/mutation/explained.json";
/** Survivors that have been looked at one by one, by file and by reason: see `nameOf`. @type {Record<string, Record<string, string[]>>} */
const explained = readJson(EXPLAINED);
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
  const settings = {
    runs: MOST_RUNS,
    milliseconds: MOST_MS,
    ...(SLOWEST_MS === USUAL_SLOWEST_MS ? {} : { slowestTest: SLOWEST_MS }),
    ...(TESTS === "" ? {} : { tests: TESTS }),
  };
  endClaims(file);
  const survivors = survivorsOf(file, source.split("\n"), mutants);
  return { source: hash(source), settings, counts: count(mutants), survivors };
}

/** Explanations that explain nothing: the survivor has been killed, or its line has changed. @param {Results} results */
export function checkExplained(results) {
  const stale = Object.entries(explained).flatMap(([file, byReason]) => {
    const names = (results[file]?.survivors ?? []).map(nameOf);
    const listed = Object.values(byReason).flat();
    return listed
      .filter((name, i) => names.filter((other) => other === name).length !== 1 || listed.indexOf(name) !== i)
      .map((name) => `${file}: ${name}`);
  });
  if (stale.length > 0)
    throw new Error(
      `${EXPLAINED}: expected each entry to name one survivor, once; to be taken out:\n${stale.join("\n")}`,
    );
}

/** A file is judged: what was said to be found since it was is killed now, or it was not true. @param {string} file */
function endClaims(file) {
  const { [FOUND_SINCE]: claims, ...others } = explained[file] ?? {};
  if (claims === undefined) return;
  explained[file] = others;
  writeFileSync(EXPLAINED, `${JSON.stringify(explained, null, 2)}\n`);
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
  const trimmed = lines.map((line) => line.trim());
  const places = mutants
    .toSorted(({ location: { start: a } }, { location: { start: b } }) => a.line - b.line || a.column - b.column)
    .map((mutant) => {
      const {
        mutatorName,
        replacement = "",
        status,
        location: { start, end },
      } = mutant;
      const text = lines.slice(start.line - 1, end.line);
      const last = text.length - 1;
      text[last] = (text[last] ?? "").slice(0, end.column - 1);
      text[0] = (text[0] ?? "").slice(start.column - 1);
      const survivor = {
        line: start.line,
        mutator: mutatorName,
        context: trimmed[start.line - 1] ?? "",
        original: short(text.join("\n")),
        replacement: short(replacement),
        covered: status !== "NoCoverage",
        ...nth("nth", trimmed, start.line - 1),
      };
      return { survivor, mutant, name: `${start.line} ${nameOf(survivor)}` };
    });
  const names = places.map(({ name }) => name);
  return places
    .map(({ survivor, mutant }, i) => ({ mutant, survivor: { ...survivor, ...nth("change", names, i) } }))
    .filter(({ mutant }) => hasSurvived(mutant) || mutant.status === "NoCoverage")
    .map(({ survivor }) => ({ ...survivor, reason: reasonOf(file, survivor) }));
}

/** Which of its equals the one at `index` is, if it has any. @param {"nth" | "change"} key @param {readonly string[]} all @param {number} index */
function nth(key, all, index) {
  const equals = all.flatMap((other, i) => (other === all[index] ? [i] : []));
  return equals.length === 1 ? {} : { [key]: `${equals.indexOf(index) + 1} of ${equals.length}` };
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

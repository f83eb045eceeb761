/**
 * docs/mutation-testing.md and docs/mutation-survivors.json, from Stryker's reports: scores by file, every mutant that
 * survived, and why the group to which it belongs may survive.
 */
import { readdirSync, statSync, writeFileSync } from "node:fs";
import { readJson } from "../workspace.mjs";
import { reasons } from "./reasons.mjs";

/**
 * @typedef {{ line: number, column: number }} Position
 * @typedef {{ mutatorName: string, replacement?: string, status: string, location: { start: Position, end: Position } }} Mutant
 * @typedef {{ file: string, line: number, mutator: string, original: string, replacement: string, covered: boolean, reason: string }} Survivor
 * @typedef {Record<string, { source: string, mutants: Mutant[] }>} Files
 * @typedef {{ killed: number, timedOut: number, survived: number, uncovered: number, loading: number }} Counts
 */

const UNEXPLAINED = "open";

const REPORTS = "out/mutation";

/** Later reports count for the files that they name. */
export function writeSummary() {
  /** @type {Survivor[]} */
  const survivors = [];
  /** @type {Map<string, Counts>} */
  const byFile = new Map();
  const reports = readdirSync(REPORTS).map((name) => `${REPORTS}/${name}`);
  /** @type {Files} */
  const files = {};
  for (const report of reports.toSorted((a, b) => statSync(a).mtimeMs - statSync(b).mtimeMs)) {
    /** @type {{ files: Files }} */
    const read = readJson(report);
    Object.assign(files, read.files);
  }
  for (const file of Object.keys(files).toSorted()) {
    const { source, mutants } = files[file] ?? { source: "", mutants: [] };
    byFile.set(file, count(mutants));
    survivors.push(...survivorsOf(file, source.split("\n"), mutants));
  }
  writeFileSync("docs/mutation-survivors.json", `${JSON.stringify(survivors, null, 2)}\n`);
  writeFileSync("docs/mutation-testing.md", page(byFile, survivors));
}

/** @param {readonly Mutant[]} mutants @returns {Counts} */
function count(mutants) {
  const of = (/** @type {string} */ status) => mutants.filter((mutant) => mutant.status === status).length;
  return {
    killed: of("Killed"),
    timedOut: of("Timeout"),
    survived: of("Survived"),
    uncovered: of("NoCoverage"),
    loading: of("Ignored"),
  };
}

/** @param {string} file @param {readonly string[]} lines @param {readonly Mutant[]} mutants @returns {Survivor[]} */
function survivorsOf(file, lines, mutants) {
  return mutants
    .filter(({ status }) => status === "Survived" || status === "NoCoverage")
    .map(({ mutatorName, replacement = "", status, location: { start, end } }) => {
      const text = lines.slice(start.line - 1, end.line);
      const last = text.length - 1;
      text[last] = (text[last] ?? "").slice(0, end.column - 1);
      text[0] = (text[0] ?? "").slice(start.column - 1);
      const survivor = {
        file,
        line: start.line,
        mutator: mutatorName,
        original: short(text.join("\n")),
        replacement: short(replacement),
        covered: status === "Survived",
      };
      const context = (lines[start.line - 1] ?? "").trim();
      const reason = reasons.find((each) => each.holds({ ...survivor, context }));
      return { ...survivor, reason: reason?.id ?? UNEXPLAINED };
    })
    .toSorted((a, b) => a.line - b.line);
}

/** @param {string} text */
function short(text) {
  const line = text.replaceAll(/\s+/g, " ");
  return line.length > 100 ? `${line.slice(0, 97)}...` : line;
}

/** @param {Map<string, Counts>} byFile @param {readonly Survivor[]} survivors */
function page(byFile, survivors) {
  const total = sum([...byFile.values()]);
  const open = survivors.filter(({ reason }) => reason === UNEXPLAINED);
  /** @type {Map<string, [string, Counts][]>} */
  const folders = new Map();
  for (const [file, counts] of byFile) {
    const folder = file.replace(/\/[^/]+$/, "");
    folders.set(folder, [...(folders.get(folder) ?? []), [file, counts]]);
  }
  return `# Mutation testing

What the tests are worth where it matters most: StrykerJS changes the code in one place after the other, and for each change some
test has to fail. To be mutated are \`iommu-core\` and the walk, invalidation and fault code of \`iommu-vtd\`, each judged by the tests of
its own package. \`pnpm mutation\` does it and writes this page; \`pnpm mutation PACKAGE FILE...\` judges a part, \`pnpm mutation --summary\`
writes the page from the reports that there are. The aim is 85 %.

**Judged so far: the files in the table, and nothing else.** What is not in it has no score yet. The last run used only the tests of the
queue, register invalidation, completion, faults, caches and device TLBs: what is not reached by those is often reached by others.

Score of those: **${percent(total)}** of ${judged(total)} mutants: ${total.killed} killed, ${total.timedOut} stopped because they did not end, ${total.survived} survived,
${total.uncovered} in code that no quick test reaches. ${total.loading} more act only while modules load (constants) and were not judged.

A mutant is judged by a bounded part of the tests: properties run a few times from one seed, no test that takes more than a second
is used, and a mutant that has survived a second or two of tests, the quickest first, is said to survive. So the score is a lower bound of
what \`pnpm test\` finds.

| | score | killed | timeout | survived | not reached |
|---|---|---|---|---|---|
${[...folders]
  .flatMap(([folder, files]) => [
    row(`**${folder}**`, sum(files.map(([, counts]) => counts))),
    ...files.map(([file, counts]) => row(file.slice(folder.length + 1), counts)),
  ])
  .join("\n")}

## Survivors

Every one is in [mutation-survivors.json](mutation-survivors.json) with its place, what it was replaced by, and the reason's name.

| reason | mutants | why they may survive |
|---|---|---|
${reasons
  .map(({ id, why }) => ({ id, why, n: survivors.filter(({ reason }) => reason === id).length }))
  .filter(({ n }) => n > 0)
  .map(({ id, why, n }) => `| \`${id}\` | ${n} | ${why} |`)
  .join("\n")}
| \`${UNEXPLAINED}\` | ${open.length} | not looked at one by one: a test may be missing |
`;
}

/** @param {string} name @param {Counts} counts */
function row(name, counts) {
  const { killed, timedOut, survived, uncovered } = counts;
  return `| ${name} | ${percent(counts)} | ${killed} | ${timedOut} | ${survived} | ${uncovered} |`;
}

/** @param {Counts} counts */
function judged({ killed, timedOut, survived, uncovered }) {
  return killed + timedOut + survived + uncovered;
}

/** @param {Counts} counts */
function percent(counts) {
  const all = judged(counts);
  return all === 0 ? "-" : `${((100 * (counts.killed + counts.timedOut)) / all).toFixed(1)} %`;
}

/** @param {readonly Counts[]} all @returns {Counts} */
function sum(all) {
  const total = { killed: 0, timedOut: 0, survived: 0, uncovered: 0, loading: 0 };
  for (const each of all)
    for (const key of /** @type {(keyof Counts)[]} */ (Object.keys(total))) total[key] += each[key];
  return total;
}

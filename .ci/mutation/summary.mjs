/**
 * docs/mutation-testing.md, from docs/mutation-survivors.json: scores by file, and why the group to which a survivor belongs may survive.
 */
import { writeFileSync } from "node:fs";
import { reasons } from "./reasons.mjs";
import { isCurrent, UNEXPLAINED } from "./results.mjs";

/** @import { Counts, FileResult, Results } from "./results.mjs" */

/** @param {Results} results */
export function writeSummary(results) {
  writeFileSync("docs/mutation-testing.md", page(Object.entries(results)));
}

/** @param {readonly [string, FileResult][]} results */
function page(results) {
  const total = sum(results);
  const survivors = results.flatMap(([, result]) => result.survivors);
  /** @type {Map<string, [string, FileResult][]>} */
  const folders = new Map();
  for (const [file, result] of results) {
    const folder = file.replace(/\/[^/]+$/, "");
    folders.set(folder, [...(folders.get(folder) ?? []), [file, result]]);
  }
  const changed = results.filter(([file, result]) => !isCurrent(file, result)).map(([file]) => `\`${file}\``);
  const open = survivors.filter(({ reason }) => reason === UNEXPLAINED).length;
  return `# Mutation testing

What the tests are worth where it matters most: StrykerJS changes the code in one place after the other, and for each change some
test has to fail. Mutated are \`iommu-core\` (without its test kit) and the walk, invalidation and fault code of \`iommu-vtd\`, each judged by the
tests of its own package. The aim is 85 %.

\`pnpm mutation\` judges everything, \`pnpm mutation PACKAGE [FILE...]\` a part, \`pnpm mutation --changed\` the files that have changed since they were
judged; each puts its files into [mutation-survivors.json](mutation-survivors.json) and writes this page, \`pnpm mutation --summary\` the page alone.

**${percent(total)}** of ${judged(total)} mutants: ${total.killed} killed, ${total.endless} stopped because they never end, ${total.survived} survived,
${total.uncovered} in code that no test of the run reaches. Mutants that act only while modules load (constants) were not judged, nor were the words of errors.

A mutant is judged by a bounded part of the tests: properties run a few times from one seed, no test that takes more than a second
is used (unless the settings say how long it may take), and a mutant that has survived its share of processor time, the quickest tests first, is said to survive. So the score is a lower bound of
what \`pnpm test\` finds. Slow machines kill no mutants: what does not end is told by how often code ran, by the processor time of a test or by an idle process, not by the clock;
a test counts against a mutant only if it passes without it right afterwards.

What is not in the table has no score yet. Judged with ${between(results.map(([, { settings }]) => settings.runs))} runs of a property and ${between(results.map(([, { settings }]) => settings.milliseconds))} ms for a mutant;
the test files, and a hash of the source that was judged, are in mutation-survivors.json.
${changed.length === 0 ? "No judged file has changed since." : `Changed since they were judged: ${changed.join(", ")}.`}

| | score | killed | endless | survived | not reached |
|---|---|---|---|---|---|
${[...folders]
  .flatMap(([folder, files]) => [
    row(`**${folder}**`, sum(files)),
    ...files.map(([file, { counts }]) => row(file.slice(folder.length + 1), counts)),
  ])
  .join("\n")}

## Survivors

Every one is in [mutation-survivors.json](mutation-survivors.json) with its place, what it was replaced by, and the reason's name.
Reasons hold for single survivors that were looked at (.ci/mutation/explained.json), or for a group that a rule describes (.ci/mutation/reasons.mjs).
An entry names one survivor: one that names none, or several, fails the command. What is said to be found since a file was judged ends with its next judgement.

| reason | mutants | why they may survive |
|---|---|---|
${reasons
  .map(({ id, why }) => ({ id, why, n: survivors.filter(({ reason }) => reason === id).length }))
  .filter(({ n }) => n > 0)
  .map(({ id, why, n }) => `| \`${id}\` | ${n} | ${why} |`)
  .join("\n")}
| \`${UNEXPLAINED}\` | ${open} | no explanation that holds is known: a test may be missing |
`;
}

/** @param {string} name @param {Counts} counts */
function row(name, counts) {
  const { killed, endless, survived, uncovered } = counts;
  return `| ${name} | ${percent(counts)} | ${killed} | ${endless} | ${survived} | ${uncovered} |`;
}

/** The least and the most of them. @param {readonly number[]} all */
function between(all) {
  const [least, most] = [Math.min(...all), Math.max(...all)];
  return least === most ? `${least}` : `${least} to ${most}`;
}

/** @param {Counts} counts */
function judged({ killed, endless, survived, uncovered }) {
  return killed + endless + survived + uncovered;
}

/** @param {Counts} counts */
function percent(counts) {
  const all = judged(counts);
  return all === 0 ? "-" : `${((100 * (counts.killed + counts.endless)) / all).toFixed(1)} %`;
}

/** @param {readonly [string, FileResult][]} results @returns {Counts} */
function sum(results) {
  const total = { killed: 0, endless: 0, survived: 0, uncovered: 0, loading: 0 };
  for (const [, { counts }] of results)
    for (const key of /** @type {(keyof Counts)[]} */ (Object.keys(total))) total[key] += counts[key];
  return total;
}

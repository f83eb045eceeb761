/**
 * docs/deviations.md: what deviates, why, and how often on each file. Written from the list and from results; checked against them.
 */

import { basename } from "node:path";
import { DEVIATIONS, type Deviation, type DeviationName } from "../deviations.js";
import type { FileResult } from "../run-file.js";

/** Counts by file name. */
export type CountTable = Map<string, ReadonlyMap<DeviationName, number>>;

const NAMES = Object.keys(DEVIATIONS) as DeviationName[];
const COUNTS_HEADING = "## Counts";
const REMARKS = [
  "Remarks",
  "",
  "- In `irq`, all 1,646 compatibility-format messages with interrupt remapping on pass on the recorded system. It has no CFI: GSTS.CFIS stays 0",
  "  although 853 of them come after the guest has set it. The runner configures our unit alike (`compatibilityInterrupts: false`).",
  "- A check that follows from a deviation counts under its name too: the fault record that only one side wrote, the descriptors behind one that",
  "  only one side took.",
  "- The answers of the recorded system to DMA right after an invalidation depend on what it still has cached. Ours caches as much; where the",
  "  recorded system drops more than it was told to (`page-selective-mask-of-8-bits`), both answers are right, and both are predicted.",
  "- In the Linux traces the architecture demands the record that `write-refused-in-silence` misses (SGN.6 and LGN.2 are recorded unless FPD is set, and no earlier",
  "  record of the requester stands), so that deviation cannot be agreed away. `page-selective-base-not-aligned` is one in what is announced only: the pages behind the",
  "  range hold what the tables say, only earlier than any descriptor names them, which a cache may always do.",
  "- In `sm48`, 13 is all 144 faults of the trace and the 36 register values that show them; 14 is the records that the driver read; 15 is six comparisons of views, which",
  "  find 75 mappings of one device, the one that vfio let go (00:06.0, edu), and of no other. What is beyond these, 12 and 16, is in the legacy traces too.",
  "- An answer of ours that holds for fewer pages than the mapping because the mapping contains the interrupt window passes: the target is the same.",
];

/** The counts of some results. */
export function countsOf(results: readonly FileResult[]): CountTable {
  return new Map(results.map(({ path, tally }) => [basename(path), tally.deviations]));
}

/** The counts that a document states. Its columns go by its own list, which may be older than ours. */
export function parseCounts(document: string): CountTable {
  const names = [...document.matchAll(/^\| \d+ \| `([^`]+)` \|/gm)].map(([, name]) => name as DeviationName);
  const table: CountTable = new Map();
  const section = document.slice(document.indexOf(COUNTS_HEADING));
  for (const [, file = "", rest = ""] of section.matchAll(/^\| `([^`]+\.gz)` \|(.*)\|$/gm)) {
    const cells = rest.split("|").map((cell) => Number(cell.trim() || 0));
    table.set(file, new Map(names.map((name, index) => [name, cells[index] ?? 0])));
  }
  return table;
}

/** Differences between what a document states and what was counted; files that were not run are not looked at. */
export function compareCounts(document: string, counted: CountTable): string[] {
  const stated = parseCounts(document);
  const found: string[] = [];
  for (const [file, counts] of counted) {
    const row = stated.get(file);
    if (row === undefined) {
      found.push(`${file} is not in docs/deviations.md`);
      continue;
    }
    for (const name of NAMES) {
      const [is, says] = [counts.get(name) ?? 0, row.get(name) ?? 0];
      if (is !== says) found.push(`${file}: ${name}: docs/deviations.md says ${says}, counted ${is}`);
    }
  }
  return found;
}

/** The document, with the counts that an earlier one states for files that were not run. */
export function renderDocument(counted: CountTable, earlier: string): string {
  const all = new Map([...parseCounts(earlier), ...counted]);
  const files = [...all.keys()].sort();
  const counts = files.map(
    (file) => `| \`${file}\` | ${NAMES.map((name) => all.get(file)?.get(name) || "").join(" | ")} |`,
  );
  return [
    "# Deviations",
    "",
    "Where the systems whose answers we test against do something else than the architecture, and we follow the architecture.",
    "The list is closed: it is `examples/conformance/src/deviations.ts`, from which this file is written. A check counts as deviated",
    "only where two naive reference units (`examples/conformance/src/reference`), one by the architecture and one with the trait,",
    "predict both our answer and the recorded one; every other difference is a failure. Sections are those of revision 5.10.",
    "",
    "`pnpm conformance FILE... --check-docs` compares the counts; `--update-docs` writes them. The files with `part` in their names, `sm48` and",
    "`vfio39pt` lie in `examples/conformance/data` and run in `pnpm test`.",
    "",
    "| | deviation | section | we | the recorded system | in its own description |",
    "|---|---|---|---|---|---|",
    ...NAMES.map((name, index) => describe(index + 1, name, DEVIATIONS[name])),
    "",
    COUNTS_HEADING,
    "",
    "Checks, by the number of the deviation above.",
    "",
    `| file | ${NAMES.map((_, index) => index + 1).join(" | ")} |`,
    `|---|${NAMES.map(() => "---:|").join("")}`,
    ...counts,
    "",
    ...REMARKS,
    "",
  ].join("\n");
}

function describe(number: number, name: DeviationName, { section, ours, theirs, known }: Deviation): string {
  return `| ${number} | \`${name}\` | ${section} | ${ours} | ${theirs} | ${known ? "yes" : "no"} |`;
}

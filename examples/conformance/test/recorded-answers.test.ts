/**
 * The representative part of the recorded answers (data/README.md says which part of which file) on the unit, and docs/deviations.md against what was counted.
 */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { DEVIATIONS } from "../src/deviations.js";
import { compareCounts, countsOf, parseCounts } from "../src/report/deviations-document.js";
import { totalLine } from "../src/report/report.js";
import { type FileResult, runFile } from "../src/run-file.js";
import { NOTE } from "../src/view/watched-devices.js";

/** Every file, what it holds, and kinds of checks that must have happened on it. */
const PARTS = {
  "cases-48-part": [
    "250 of 2,000 DMA cases, host width 48",
    { dma: 2500, "fault registers": 1400, register: 500, memory: 150, "message write": 25 },
  ],
  "cases-39-part": [
    "250 of 2,000 DMA cases, host width 39",
    { dma: 2500, "fault registers": 1400, register: 500, memory: 150, "message write": 25 },
  ],
  "irq-part": ["250 of 1,500 interrupt cases", { interrupt: 1800, register: 250, memory: 600 }],
  "replay-48-part": [
    "60 of 1,500 notifier cases, host width 48",
    { "final view": 800, contract: 960, "case completed": 4 },
  ],
  "replay-39-part": ["60 of 1,500 notifier cases, host width 39", { "final view": 800, contract: 960 }],
  "strict48-part": [
    "the first 70,000 events of a strict Linux",
    { dma: 1000, "view after write": 3000, "register after write": 3000, contract: 18 },
  ],
  "lazy39-part": [
    "the first 24,000 events of a lazy Linux",
    { dma: 15_000, "cached answer": 5000, "register after write": 600 },
  ],
  sm48: [
    "a whole Linux trace in scalable mode, with faults and the release of a VFIO device",
    { dma: 52_000, "view after write": 40_000, "register after write": 39_000, contract: 18 },
  ],
  vfio39pt: [
    "a whole Linux trace: pass-through and VFIO",
    { dma: 300, "register read": 70, "view after write": 4000, "status write": 2000, contract: 18 },
  ],
} as const;

const results: FileResult[] = [];

describe("the unit against recorded answers", () => {
  for (const [name, [what, least]] of Object.entries(PARTS)) {
    it(`agrees on ${name}: ${what}`, { timeout: 60_000 }, async () => {
      const result = await runFile(pathOf(name), { keep: 5 });
      results.push(result);
      const { tally } = result;
      expect(tally.mismatches).toEqual([]);
      expect(tally.total).toMatchObject({ failed: 0, uncovered: 0 });
      for (const [kind, count] of Object.entries({ ...least, capabilities: 3 })) {
        const counts = tally.kinds.get(kind);
        expect(counts === undefined ? 0 : counts.passed + counts.deviated, kind).toBeGreaterThanOrEqual(count);
      }
      expect(tally.notes.get(NOTE.live) ?? 0).toBe(0);
    });
  }

  it("deviates exactly as often as docs/deviations.md says, file by file", () => {
    expect(results).toHaveLength(Object.keys(PARTS).length);
    expect(compareCounts(documentText(), countsOf(results))).toEqual([]);
  });

  it("deviates in scalable mode on all 144 faults, on PP of the records without PASID, and on 75 mappings of the edu device; beyond these, as in legacy mode", () => {
    const tally = results.find(({ path }) => path.endsWith("/sm48.jsonl.gz"))?.tally;
    const noted = (prefix: string): Record<string, number> =>
      Object.fromEntries([...(tally?.notes ?? [])].filter(([name]) => name.startsWith(prefix)));
    expect(noted("faults with")).toEqual({
      "faults with legacy code 0x5 where ours is 0x79": 128,
      "faults with legacy code 0x5 where ours is 0x85": 16,
    });
    expect(noted("stale mappings")).toEqual({ "stale mappings the oracle still holds of 00:06.0": 75 });
    expect(Object.fromEntries(tally?.deviations ?? [])).toEqual({
      "scalable-mode-with-legacy-codes": 180,
      "records-without-pasid-say-pasid-0": 7,
      "pasid-invalidations-not-announced": 6,
      "page-selective-base-not-aligned": 4,
      "write-refused-in-silence": 32,
    });
  });

  it("meets every deviation that is listed, in these files or in the whole ones", () => {
    const met = new Set(
      [...parseCounts(documentText()).values()].flatMap((counts) =>
        [...counts].filter(([, count]) => count > 0).map(([name]) => name),
      ),
    );
    expect([...met].sort()).toEqual(Object.keys(DEVIATIONS).sort());
  });

  it("sums up in one line", () => {
    expect(totalLine(results)).toMatch(/^\d+ passed, 0 failed, \d+ deviated, 0 not covered$/);
  });
});

function pathOf(name: string): string {
  return fileURLToPath(new URL(`../data/${name}.jsonl.gz`, import.meta.url));
}

function documentText(): string {
  return readFileSync(new URL("../../../docs/deviations.md", import.meta.url), "utf8");
}

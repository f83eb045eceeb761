/**
 * docs/failure-modes.md and the tests: every row names a test that exists, and every test of failing consumers and hosts is in a row.
 */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const ROOT = fileURLToPath(new URL("../../../../", import.meta.url));

interface Row {
  readonly failure: string;
  /** The calls at which it was tried, or none. */
  readonly at: readonly string[];
  readonly file: string;
  readonly test: string;
}

function rows(): Row[] {
  const page = readFileSync(`${ROOT}docs/failure-modes.md`, "utf8");
  const found: Row[] = [];
  for (const line of page.split("\n")) {
    const cells = line.split("|").map((cell) => cell.trim());
    const named = /^`([^`]+\.test\.ts)`: (.+)$/.exec(cells.at(-2) ?? "");
    if (named === null) continue;
    const at = cells.length === 8 ? (cells[2] ?? "").split(", ") : [];
    found.push({ failure: cells[1] ?? "", at, file: named[1] ?? "", test: named[2] ?? "" });
  }
  return found;
}

/** Names of the suites and tests of a file; those made from a list of failures are spelled out. */
function namesIn(file: string): string[] {
  const source = readFileSync(`${ROOT}packages/${file}`, "utf8");
  const failures = [...source.matchAll(/^\s+(?:\{ )?name: "([^"]+)"/gm)].map(([, name]) => name ?? "");
  const titles = [...source.matchAll(/\b(?:it|describe)(?:\.each\([^)]*\))?(?:<[^>]*>)?\(\s*(["`])((?:(?!\1).)+)\1/g)];
  return titles.flatMap(([, , title = ""]) =>
    title.includes("${failure.name}") ? failures.map((name) => title.replace("${failure.name}", name)) : [title],
  );
}

describe("docs/failure-modes.md", () => {
  const all = rows();

  it("has rows", () => {
    expect(all.length).toBeGreaterThan(35);
  });

  it.each(all.map((row) => [row.test, row] as const))("names a test that exists: %s", (_name, row) => {
    expect(namesIn(row.file)).toContain(row.test);
  });

  it("names every failure that is tried, at the calls at which it is tried", () => {
    const file = "iommu-vtd/test/hostile/failing-consumers.test.ts";
    const source = readFileSync(`${ROOT}packages/${file}`, "utf8");
    const suites = namesIn(file).filter((name) =>
      /^(a|an) (MAP|UNMAP-only) notifier|^a consumer|^a device TLB/.test(name),
    );
    const documented = all.filter((row) => row.file === file);
    expect(documented.map(({ test }) => test).sort()).toEqual(suites.sort());
    for (const { test, at } of documented.filter((row) => row.test.startsWith("a MAP notifier"))) {
      const failure = source.slice(source.indexOf(`name: "${test.slice("a MAP notifier that ".length)}"`)).split("}");
      const answers = failure[0]?.includes('answer: "') === true;
      expect(at, test).toEqual([...(answers ? [] : ["begin"]), "map", "unmap", "replace", "commit", "replay"]);
    }
  });

  it("names every failure of a host that is tried", () => {
    const file = "iommu-vtd/test/hostile/failing-hosts.test.ts";
    const documented = new Set(all.filter((row) => row.file === file).map(({ test }) => test));
    const source = readFileSync(`${ROOT}packages/${file}`, "utf8");
    for (const suite of source.split(/^describe\(/m).slice(1)) {
      const names = [...suite.matchAll(/(?:^|it\()"([^"]+)"/g)].map(([, name]) => name ?? "");
      const [title = "", ...tests] = names;
      expect(documented.has(title) || tests.every((test) => documented.has(test)), title).toBe(true);
    }
  });
});

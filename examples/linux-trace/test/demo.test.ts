import { existsSync, readFileSync } from "node:fs";
import { join, dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { gunzipSync, gzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { ExitCode, runDemo } from "../src/demo.js";
import { HEADER, packed, traceFile } from "./small-trace.js";

const data = (name: string): string => fileURLToPath(new URL(`../data/${name}.jsonl.gz`, import.meta.url));
const VFIO48 = data("vfio48");

/** Runs the program and gathers what it says. */
function run(...words: readonly string[]) {
  const report = join(dirname(traceFile("")), "sub", "report.html");
  const printed: string[] = [];
  const progress: string[] = [];
  const code = runDemo(words, {
    print: (line) => void printed.push(line),
    progress: { isTTY: false, write: (text: string) => progress.push(text) },
    defaultTraces: [VFIO48, data("lazy39")],
    defaultReport: report,
  });
  return { code, text: printed.join("\n"), progress: progress.join(""), report };
}

/** A row of a printed table: its figures. */
function figures(text: string, row: string): string[] {
  const line = text.split("\n").find((candidate) => candidate.trimStart().startsWith(row)) ?? "";
  return line
    .trimStart()
    .slice(row.length)
    .trim()
    .split(/\s{2,}/);
}

/** The figures that the README gives for a recording. */
function readmeRow(name: string): string[] {
  const readme = readFileSync(new URL("../../../README.md", import.meta.url), "utf8");
  const row = readme.split("\n").find((line) => line.startsWith(`| \`${name}\``)) ?? "";
  return row
    .replaceAll("*", "")
    .split("|")
    .slice(2, -1)
    .map((cell) => cell.trim());
}

describe("the demo", () => {
  it("plays the recorded driver, agrees with the recording, and loses no live page where the old strategy does", () => {
    const { code, text, progress, report } = run();
    expect(text).not.toContain("DIFFERS");
    expect(code).toBe(ExitCode.ok);

    const [strict = "", lazy = ""] = text.split("\nlazy39:");
    expect(figures(strict, "register writes")).toEqual(["7,467"]);
    expect(figures(strict, "interrupts: address and data after remapping")).toEqual(["5,490", "0"]);
    expect(figures(strict, "registers: the value that the driver read")).toEqual(["108", "0"]);
    expect(figures(strict, "wait descriptors: the word stored")).toEqual(["7,401", "0"]);
    expect(figures(strict, "containers compared with a fresh walk of the tables")).toEqual(["315", "0"]);
    expect(figures(strict, "how often (invalidations x devices)")).toEqual(["6", "0"]);
    expect(figures(lazy, "translations, one domain")).toEqual(["2,038"]);
    expect(figures(lazy, "how often (invalidations x devices)")).toEqual(["2,830", "0"]);
    expect(figures(lazy, "longest gap in calls to the container")).toEqual(["258", "0"]);
    for (const [name, part] of [
      ["vfio48", strict],
      ["lazy39", lazy],
    ] as const) {
      const [passed = "", failed] = figures(part, "DMA requests: address, rights and block size");
      const [vanished = "", ours = ""] = figures(part, "live pages that vanished");
      const [refused = "", ourRefused = ""] = figures(part, "requests of a device at work, refused meanwhile");
      expect(failed).toBe("0");
      expect(readmeRow(name)).toEqual([`${passed} of ${passed}`, vanished, ours, refused, ourRefused]);
      expect(figures(part, "window: live pages briefly unmapped")).toEqual(["0"]);
    }
    expect(progress.split("\n").filter((line) => /^(vfio48|lazy39), .*: [\d.]+ s$/.test(line))).toHaveLength(4);

    const html = readFileSync(report, "utf8");
    expect(html.match(/<svg /g)).toHaveLength(16);
    expect(html).toContain("5,243,669");
    expect(html).toContain("prefers-color-scheme: dark");
    expect(html).not.toMatch(/https?:|src=|<link|@import|url\(/);
  });

  it("says which request was answered otherwise, and fails", () => {
    const lines = gunzipSync(readFileSync(VFIO48)).toString("utf8").split("\n");
    const at = lines.findIndex((line) => line.startsWith('["T","30",1,') && line.endsWith('"fff",3]'));
    const line = lines[at] ?? "";
    const event = JSON.parse(line) as (string | number)[];
    event[4] = (Number.parseInt(String(event[4]), 16) + 0x1000).toString(16);
    lines[at] = JSON.stringify(event);
    // The driver's later work is not needed.
    const { code, text } = run(traceFile(gzipSync(`${lines.slice(0, at + 1).join("\n")}\n`)));
    expect(code).toBe(ExitCode.differs);
    expect(text).toMatch(new RegExp(`DIFFERS line ${at + 1}: edu, page 0x[0-9a-f]+: the cache answers frame 0x`));
    expect(figures(text, "DMA requests: address, rights and block size")[1]).toBe("1");
  });

  it("explains a missing trace without a stack, and writes no report", () => {
    const { code, text, progress, report } = run("/nowhere/trace.jsonl.gz");
    expect(code).toBe(ExitCode.unusable);
    expect(text).toBe("");
    expect(progress).toBe(
      "cannot read the trace /nowhere/trace.jsonl.gz\n  give the path of a .jsonl.gz file, or no path at all for the traces that come with the demo\n",
    );
    expect(existsSync(report)).toBe(false);
  });

  it("explains a damaged trace, also one that is damaged only in a late line", () => {
    const cut = traceFile(readFileSync(VFIO48).subarray(0, 100_000));
    expect(run(cut).progress).toContain("cut off");
    const late = traceFile(packed(HEADER, '["R","0",4,"10"]', '["R","0",4,"xyz"]'));
    const { code, progress } = run(late);
    expect(code).toBe(ExitCode.unusable);
    expect(progress).toContain("line 3 of the trace");
  });

  it("explains itself, and what it does not understand", () => {
    expect(run("--help")).toMatchObject({ code: ExitCode.ok });
    expect(run("--help").text).toContain("Usage: pnpm demo");
    expect(run("--fast").progress).toContain("there is no option --fast");
    expect(run("--report").progress).toContain("--report needs the name of a file");
    expect(run("--fast").code).toBe(ExitCode.unusable);
  });
});

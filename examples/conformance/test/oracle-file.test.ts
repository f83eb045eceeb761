import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readOptions } from "../src/options.js";
import { compareCounts, parseCounts, renderDocument } from "../src/report/deviations-document.js";
import { runFile } from "../src/run-file.js";

const HEADER = {
  format: "vtd-cases",
  version: 1,
  iommu: { host_address_width: 48 },
  registers: { VER: "0x10", CAP: "0xd2008c222f0686", ECAP: "0xf00f4a" },
  sids: ["0x18"],
  ram: [["0x0", "0x80000000"]],
};
const CASE = { id: 0, k: "te", t: [], s: [["D", "0x18", "r", "0x5000", 4, { untranslated: 1 }]] };

describe("runFile()", () => {
  let folder = "";
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "conformance-"));
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  function write(name: string, content: Uint8Array | string): string {
    const path = join(folder, name);
    writeFileSync(path, content);
    return path;
  }

  const gzipped = (...lines: unknown[]): Uint8Array =>
    gzipSync(lines.map((line) => `${typeof line === "string" ? line : JSON.stringify(line)}\n`).join(""));
  const run = (path: string) => runFile(path, { keep: 3 });

  it("runs a file of any name", async () => {
    const { tally } = await run(write("anything", gzipped(HEADER, CASE)));
    expect(tally.total).toEqual({ passed: 4, failed: 0, deviated: 0, uncovered: 0 });
  });

  it("runs a file whose last line has no end", async () => {
    const { tally } = await run(write("open-end", gzipSync(`${JSON.stringify(HEADER)}\n${JSON.stringify(CASE)}`)));
    expect(tally.total.passed).toBe(4);
  });

  it("fails when the unit cannot report the capabilities of the header", async () => {
    const { tally } = await run(
      write("capabilities", gzipped({ ...HEADER, registers: { ...HEADER.registers, CAP: "0xd2008c22af0686" } }, CASE)),
    );
    expect(tally.mismatches).toMatchObject([{ kind: "capabilities", what: "CAP" }]);
  });

  it("counts what was recorded on a unit with more capabilities than ours can have as not covered", async () => {
    const registers = { ...HEADER.registers, ECAP: "0x8000000f00f4a" };
    const { tally } = await run(write("more", gzipped({ ...HEADER, registers }, CASE, CASE)));
    expect(tally.total).toEqual({ passed: 0, failed: 0, deviated: 0, uncovered: 2 });
    expect([...tally.uncovered]).toEqual([["performance monitoring", 2]]);
  });

  it("fails a case with a step that it does not know, and runs the others", async () => {
    const { tally } = await run(write("unknown", gzipped(HEADER, { ...CASE, s: [["Z"]] }, CASE)));
    expect(tally.total).toMatchObject({ passed: 4, failed: 1 });
    expect(tally.mismatches[0]?.ours).toMatch(/step Z does not belong to this format/);
  });

  it("says what is wrong with a file", async () => {
    const good = gzipped(HEADER, CASE);
    await expect(run(join(folder, "missing.gz"))).rejects.toThrow(/missing\.gz: no such file/);
    await expect(run(folder)).rejects.toThrow(/is a folder/);
    await expect(run(write("plain", JSON.stringify(HEADER)))).rejects.toThrow(/not a gzip file/);
    await expect(run(write("cut", good.subarray(0, good.length - 12)))).rejects.toThrow(
      /damaged: the gzip data ends early/,
    );
    await expect(
      run(
        write(
          "flipped",
          good.map((byte, index) => (index === 40 ? byte ^ 0xff : byte)),
        ),
      ),
    ).rejects.toThrow(/damaged|not JSON/);
    await expect(run(write("empty", gzipSync("")))).rejects.toThrow(/is empty/);
    await expect(run(write("not-json", gzipped(HEADER, "{")))).rejects.toThrow(/line 2 is not JSON/);
    await expect(run(write("no-cases", gzipped(HEADER)))).rejects.toThrow(/a header and no cases/);
    await expect(run(write("not-a-case", gzipped(HEADER, { id: 1 })))).rejects.toThrow(/line 2 is not a case/);
    await expect(run(write("foreign", gzipped({ format: "other" })))).rejects.toThrow(
      /expected vtd-cases, vtd-replay-cases, vtd-irq-cases, vtd-linux-trace/,
    );
    await expect(run(write("future", gzipped({ ...HEADER, version: 2 })))).rejects.toThrow(/has version 2/);
    await expect(
      run(write("odd", gzipped({ ...HEADER, registers: { CAP: "0xd2008c222f0687", ECAP: "0" } }, CASE))),
    ).rejects.toThrow(/describes no possible unit: domainIdWidth/);
    await expect(run(write("headless", gzipped({ ...HEADER, ram: undefined })))).rejects.toThrow(/damaged header/);
  });
});

describe("readOptions()", () => {
  it("wants at least one file, known options and a number for a case", () => {
    expect(readOptions(["a.gz", "--case", "7", "--json"])).toMatchObject({
      files: ["a.gz"],
      onlyCase: 7,
      json: true,
      verbose: false,
    });
    expect(() => readOptions([])).toThrow(/at least one file/);
    expect(() => readOptions(["a", "--nonsense"])).toThrow(TypeError);
    expect(() => readOptions(["a", "--case", "x"])).toThrow(/number of a case/);
  });
});

describe("docs/deviations.md", () => {
  const counted = new Map([["a.gz", new Map([["bus-range-reversed", 3]] as const)]]);

  it("states the counts that it was written from, and keeps those of other files", () => {
    const first = renderDocument(counted, "");
    const second = renderDocument(new Map([["b.gz", new Map()]]), first);
    expect(compareCounts(second, counted)).toEqual([]);
    expect([...parseCounts(second).keys()]).toEqual(["a.gz", "b.gz"]);
  });

  it("is found wrong when a count or a file is missing", () => {
    const document = renderDocument(counted, "");
    expect(compareCounts(document, new Map([["a.gz", new Map()]]))).toEqual([
      "a.gz: bus-range-reversed: docs/deviations.md says 3, counted 0",
    ]);
    expect(compareCounts(document, new Map([["c.gz", new Map()]]))).toEqual(["c.gz is not in docs/deviations.md"]);
  });
});

/**
 * The table in the eyes of ACPICA's compiler: `iasl -d` takes it apart without complaint, reads in it what the
 * options said, and the source that it prints compiles back to the same bytes.
 *
 * Needs `iasl` (Debian: acpica-tools). Without it the tests are skipped and say so; with IOMMU_KIT_REQUIRE_IASL=1 in
 * the environment, as in CI, a missing `iasl` fails. The `iasl` of Debian 12 knows neither SATC nor SIDP nor the
 * register set size of a DRHD: what needs those is skipped with it and says so too.
 */

import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { describe, expect, it } from "vitest";
import type { TestContext } from "vitest";

import { buildDmar } from "../../src/acpi/index.js";
import type { DmarTable } from "../../src/acpi/index.js";
import { fullTable } from "./full-table.js";
import { q35Table } from "./golden-q35.js";

const { integratedAtcs: _satc, deviceProperties: _sidp, ...withoutNewTypes } = fullTable;
/** What an `iasl` of any age knows: types 0 to 4, register sets of one page. */
const classicTable: DmarTable = {
  ...withoutNewTypes,
  units: fullTable.units.map((unit) => ({ ...unit, registerByteLength: 4096 })),
};

/** The first release tried that knows SATC, SIDP and the register set size; 20200925 does not. */
const RELEASE_WITH_NEW_TYPES = 20250404;
const release = installedRelease();

describe("iasl -d", () => {
  it("takes the q35 table apart and back to the same bytes", (context) => {
    needRelease(context, 0);
    const bytes = buildDmar(q35Table);

    const { log, fields, recompiled } = disassemble(bytes);

    expect(log).not.toMatch(COMPLAINT);
    expect(withoutCreator(recompiled)).toEqual(withoutCreator(bytes));
    expect(fields).toContain("Host Address Width : 2F");
    expect(fields).toContain("Register Base Address : 00000000FED90000");
    expect(fields.filter((field) => field.startsWith("Subtable Type"))).toEqual([
      "Subtable Type : 0000 [Hardware Unit Definition]",
      "Subtable Type : 0002 [Root Port ATS Capability]",
    ]);
    expect(fields.filter((field) => field.startsWith("PCI Path"))).toEqual([
      "PCI Path : 00,00",
      "PCI Path : 00,00",
      "PCI Path : 01,00",
      "PCI Path : 1F,00",
      "PCI Path : 1F,02",
      "PCI Path : 1F,03",
    ]);
  });

  it("takes a table of DRHD, RMRR, ATSR, RHSA and ANDD apart and back to the same bytes", (context) => {
    needRelease(context, 0);
    const bytes = buildDmar(classicTable);

    const { log, fields, recompiled } = disassemble(bytes);

    expect(log).not.toMatch(COMPLAINT);
    expect(withoutCreator(recompiled)).toEqual(withoutCreator(bytes));
    expect(fields).toEqual(
      expect.arrayContaining([
        "Register Base Address : 0000003FFFF00000",
        "Base Address : 000000007B800000",
        "End Address (limit) : 000000007FFFFFFF",
        "Proximity Domain : 00000003",
        'Device Name : "\\_SB.PCI0.I2C1"',
      ]),
    );
  });

  it("takes a table of all types apart and back to the same bytes", (context) => {
    needRelease(context, RELEASE_WITH_NEW_TYPES);
    const bytes = buildDmar(fullTable);

    const { log, fields, recompiled } = disassemble(bytes);

    expect(log).not.toMatch(COMPLAINT);
    expect(withoutCreator(recompiled)).toEqual(withoutCreator(bytes));
    expect(fields.filter((field) => /^Subtable Type : 000[56]/.test(field))).toEqual([
      expect.stringMatching(/0005 \[(?!.*unknown)/i),
      expect.stringMatching(/0005 \[(?!.*unknown)/i),
      expect.stringMatching(/0006 \[(?!.*unknown)/i),
    ]);
    expect(fields).toContain("Size (pages, log2) : 4");
  });

  it("complains of a wrong checksum (so that its silence above means something)", (context) => {
    needRelease(context, 0);
    const bytes = buildDmar(q35Table);
    bytes[9] = (bytes[9]! + 1) & 0xff;

    expect(disassemble(bytes).log).toMatch(COMPLAINT);
  });
});

const COMPLAINT = /incorrect|invalid|unknown|exceeds|[1-9]\d* (?:errors|warnings|remarks)/i;

function installedRelease(): number | undefined {
  const { status, stdout } = spawnSync("iasl", ["-v"], { encoding: "utf8" });
  const version = status === 0 ? /version (\d{8})/.exec(stdout)?.[1] : undefined;
  return version === undefined ? undefined : Number(version);
}

function needRelease(context: TestContext, oldest: number): void {
  if (release === undefined) {
    if (process.env["IOMMU_KIT_REQUIRE_IASL"] === "1") throw new Error("iasl is required here: install acpica-tools");
    context.skip("iasl is not installed (Debian: apt-get install acpica-tools)");
  } else if (release < oldest) {
    context.skip(`iasl ${release} is too old for SATC, SIDP and register set sizes; ${oldest} knows them`);
  }
}

interface Disassembly {
  /** What iasl said while disassembling and compiling. */
  readonly log: string;
  /** The fields of the source as "name : value". */
  readonly fields: readonly string[];
  /** The bytes that the source compiles to. */
  readonly recompiled: Uint8Array;
}

function disassemble(bytes: Uint8Array): Disassembly {
  const folder = mkdtempSync(join(tmpdir(), "dmar-"));
  const iasl = (...parameters: string[]): string => {
    const { status, stdout, stderr } = spawnSync("iasl", parameters, { cwd: folder, encoding: "utf8" });
    expect(status, `${stdout}${stderr}`).toBe(0);
    return stdout + stderr;
  };
  try {
    writeFileSync(join(folder, "dmar.dat"), bytes);
    const log = iasl("-d", "dmar.dat") + iasl("-p", "again", "dmar.dsl");
    const source = readFileSync(join(folder, "dmar.dsl"), "utf8");
    const fields = source.split("\n").flatMap((line) => {
      const field = /^(?:\[[^\]]*\])?\s+(\S.*? : .*)$/.exec(line)?.[1];
      return field === undefined ? [] : [field.trimEnd()];
    });
    return { log, fields, recompiled: readFileSync(join(folder, "again.aml")) };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** The compiler puts its own name and version, and so another checksum, into what it makes. */
function withoutCreator(bytes: Uint8Array): number[] {
  return Array.from(bytes, (byte, index) => (index === 9 || (index >= 28 && index < 36) ? 0 : byte));
}

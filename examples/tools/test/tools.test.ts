import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildDmar } from "@iommu-kit/iommu-vtd/acpi";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { Tools } from "./run-tool.js";

const tools = new Tools();
beforeAll(() => tools.make());
afterAll(() => tools.remove());

const TABLE = buildDmar({
  hostAddressWidth: 39,
  interruptRemapping: true,
  units: [{ registerGpa: 0xfed9_0000, includeAll: true, scopes: [{ type: "io-apic", ioApicId: 2, path: "00:1e.7" }] }],
});

const HEADER = {
  format: "vtd-linux-trace",
  version: 1,
  guest: "a guest",
  kernel_args: "",
  iommu: { aw_bits: 48, caching_mode: true },
  work: "nothing",
  devices: [
    ["18", "disk"],
    ["20", "net"],
  ],
  ram: [["0", "10000000"]],
  reset_registers: [
    ["8", "222f0686"],
    ["c", "d2008c"],
    ["10", "f00f4a"],
  ],
};
/** Lines 2 to 9: 00:03.0 gets tables that map page 5 to page 9. Then page 6 is mapped, but not announced until line 12. */
const LINES = [
  '["M","10000","11001"]',
  '["M","11180","12001","101"]',
  '["M","12000","13003"]',
  '["M","13000","14003"]',
  '["M","14028","9003"]',
  '["W","20",8,"10000"]',
  '["W","18",4,"40000000"]',
  '["W","18",4,"80000000"]',
  '["M","14030","a003"]',
  '["T","18",2,"5010","9000","fff",3]',
  '["W","f8",8,"a000000100000000"]',
  '["T","18",1,"7000"]',
];

/** The bytes as `acpidump` prints them, behind another table. */
function dumped(bytes: Uint8Array): string {
  const rows = Array.from({ length: Math.ceil(bytes.length / 16) }, (_, row) => {
    const part = [...bytes.subarray(row * 16, row * 16 + 16)];
    return `    ${(row * 16).toString(16).toUpperCase().padStart(4, "0")}: ${part.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ")}  ................`;
  });
  return ["APIC @ 0x0000000000000000", "    0000: 41 50 49 43", "", "DMAR @ 0x0000000000000000", ...rows, "", ""].join(
    "\n",
  );
}

describe("the command line", () => {
  it("explains itself", () => {
    const { code, out } = tools.run(["--help"]);
    expect(code).toBe(0);
    for (const command of ["dmar", "registers", "mappings", "perfetto"]) expect(out).toContain(`\n  ${command} `);
    const [, program] = /^Usage: (.+) COMMAND/.exec(out) ?? [];
    expect(out).toContain(`\n  ${program} dmar /sys/`);
    expect(tools.run(["help"]).out).toBe(out);
  });

  it.each([
    [[], /no command is given\n {2}commands are dmar, registers/],
    [["paint"], /no command paint/],
    [["dmar", "--colour"], /--colour/],
    [["dmar", "--line", "3"], /dmar has no option --line\n {2}it takes --json/],
    [["dmar", "a", "b"], /takes one file, got also b/],
    [["dmar", "/nowhere/at-all"], /cannot read \/nowhere\/at-all \(ENOENT\)/],
    [["mappings"], /mappings needs the file of a trace/],
    [["mappings", "t", "--line", "x"], /--line: expected a line number from 1 on, got x/],
    [["perfetto", "/nowhere/at-all"], /cannot read the trace/],
  ])("says what is wrong with %j, and ends with 2", (words, expected) => {
    const { code, out, err } = tools.run(words);
    expect(err).toMatch(expected);
    expect(err).not.toContain("    at ");
    expect([code, out]).toEqual([2, ""]);
  });
});

describe("dmar", () => {
  it("decodes a table from a file, from standard input, and from what acpidump prints", () => {
    const { code, out, err } = tools.run(["dmar", tools.file("DMAR", TABLE)]);
    expect([code, err]).toEqual([0, ""]);
    expect(out).toContain("hostAddressWidth: 39");
    expect(out).toContain("registerGpa: 0xfed90000");
    expect(out).toContain("ioApicId: 2");
    expect(out).toMatch(/no problems\n$/);
    expect(tools.run(["dmar"], TABLE)).toEqual({ code, out, err });
    expect(tools.run(["dmar", "-"], dumped(TABLE))).toEqual({ code, out, err });
  });

  it("names what is damaged, and ends with 1", () => {
    const damaged = TABLE.slice();
    damaged[9] = (damaged[9] ?? 0) ^ 0xff;
    const { code, out } = tools.run(["dmar"], damaged);
    expect(code).toBe(1);
    expect(out).toMatch(/problem: .*checksum/i);
    expect(tools.run(["dmar"], TABLE.subarray(0, 60)).out).toMatch(/problem: the table: expected \d+ bytes/);
    const { problems } = JSON.parse(tools.run(["dmar", "--json"], damaged).out) as { problems: unknown[] };
    expect(problems).toHaveLength(1);
  });

  it.each([
    ["another table", "FACP and more bytes than a header has, more than that\u0001"],
    ["text without a dump", "hello"],
    ["nothing", ""],
  ])("refuses %s", (_what, input) => {
    expect(tools.run(["dmar"], input)).toMatchObject({ code: 2, out: "" });
  });
});

describe("registers", () => {
  const guest = new GuestDriver({ cachingMode: true });
  guest.start();
  guest.device("00:03.0").dma.read(0x5000, new Uint8Array(4));
  const { mmio } = guest.unit;
  const block = Uint8Array.from({ length: mmio.byteLength }, (_, at) => mmio.read32(at - (at % 4)) >>> ((at % 4) * 8));

  it("decodes a block of bytes: fields in words, and fault records", () => {
    const { code, out } = tools.run(["registers"], block);
    expect(code).toBe(0);
    expect(out).toMatch(/^01c GSTS 0xc4000000 {2}/m);
    expect(out).toMatch(/^ {6}TES \[31\] = 1 {2}/m);
    expect(out).toMatch(/0: 00:03\.0, read at 0x5000: LRT\.2/);
  });

  it("decodes lines of offsets and values, with names as Linux lists them or without", () => {
    const cap = mmio.read64(8).toString(16).padStart(16, "0");
    const listed = `IOMMU: dmar0 Register Base Address: fed90000\nName\tOffset\tContents\nCAP\t0x08\t0x${cap}\nGSTS\t0x1c\t0x00000000c4000000\nFSTS\t0x34\t0x0000000000000002\n`;
    const { out } = tools.run(["registers"], listed);
    expect(out).toContain(`CAP 0x${BigInt(`0x${cap}`).toString(16)}`);
    expect(out).toContain("GSTS 0xc4000000");
    expect(out).toMatch(/PPF \[1\] = 1/);
    const bare = tools.run(["registers", "--json"], `8: ${cap}\n1c: c4000000\n34: 2\n`);
    expect(JSON.parse(tools.run(["registers", "--json"], listed).out)).toEqual({
      unit: "dmar0",
      ...(JSON.parse(bare.out) as object),
    });
  });

  it("keeps the units of a machine apart, and says nothing of registers that the dump lacks", () => {
    const listed = "IOMMU: dmar0 Register Base Address: fed90000\nCAP\t0x08\t0x1\nIOMMU: dmar1 ...\nCAP\t0x08\t0x2\n";
    const { out } = tools.run(["registers"], listed);
    expect(out).toMatch(/^unit dmar0\n008 CAP 0x1 [^]*unit dmar1\n008 CAP 0x2 /);
    expect(out).not.toContain("RTADDR");
    expect(out.match(/fault status and records are not in the dump/g)).toHaveLength(2);
    const units = JSON.parse(tools.run(["registers", "--json"], listed).out) as { unit: string }[];
    expect(units.map(({ unit }) => unit)).toEqual(["dmar0", "dmar1"]);
  });

  it.each([
    [
      "two units without a word between them",
      "8: 1\n8: 2",
      /offset 0x8 is there twice\n {2}give one unit, or begin each/,
    ],
    ["three bytes", Uint8Array.of(1, 2, 3), /multiple of 4 bytes/],
    ["text without values", "hello", /no line has an offset and a value/],
    ["an odd offset", "9: 1", /no multiple of 4/],
  ])("refuses %s", (_what, input, expected) => {
    const { code, err } = tools.run(["registers"], input);
    expect(code).toBe(2);
    expect(err).toMatch(expected);
  });
});

describe("mappings", () => {
  it("prints what a device may reach at any line, and what is not announced yet", () => {
    const trace = tools.trace("mappings.gz", HEADER, LINES);
    const at = (line: string): string => tools.run(["mappings", trace, "--device", "00:03.0", "--line", line]).out;
    expect(at("8")).toContain("reaches all memory");
    expect(at("9")).toBe("after line 9\n\n00:03.0 disk: reaches what its tables map\n    0x5000 -> 0x9000 rw 1 page\n");
    expect(at("11")).toContain("  + 0x5000 -> 0x9000 rw 2 pages\n");
    expect(at("11")).toContain("  - 0x5000 -> 0x9000 rw 1 page\n");
    expect(at("12")).toContain("    0x5000 -> 0x9000 rw 2 pages\n");
    const all = JSON.parse(tools.run(["mappings", trace, "--json"]).out) as { line: number; devices: unknown[] };
    expect(all).toMatchObject({ line: 13, devices: [{ device: "00:03.0" }, { device: "00:04.0", kind: "blocked" }] });
  });

  it("says which devices and lines there are", () => {
    const trace = tools.trace("few.gz", HEADER, LINES);
    expect(tools.run(["mappings", trace, "--device", "00:1f.0"]).err).toMatch(/it has 00:03\.0, 00:04\.0/);
    expect(tools.run(["mappings", trace, "--line", "99"]).err).toMatch(/ends at line 13, got 99/);
    expect(tools.run(["mappings", trace, "--device", "disk"])).toEqual({
      code: 2,
      out: "",
      err: "iommu-kit: --device: there is no device disk\n  give BUS:DEV.FN, such as 00:03.0\n",
    });
    expect(tools.run(["mappings", tools.file("text", "x")]).err).toMatch(/is not gzip/);
  });
});

interface ChromeTrace {
  readonly traceEvents: readonly {
    readonly name: string;
    readonly ph: string;
    readonly pid: number;
    readonly ts: number;
    readonly args?: Readonly<Record<string, unknown>>;
  }[];
}

describe("perfetto", () => {
  const parse = (text: string): ChromeTrace["traceEvents"] => (JSON.parse(text) as ChromeTrace).traceEvents;

  it("writes DMA, register writes and notifications in order, and counts mapped pages", () => {
    const trace = tools.trace("perfetto.gz", HEADER, LINES);
    const events = parse(tools.run(["perfetto", trace, "--device", "00:03.0"]).out);
    const shown = events.filter(({ ph }) => ph !== "M" && ph !== "C").map(({ name, ts }) => `${ts} ${name}`);
    expect(shown).toContain("11 write");
    expect(shown).toContain("13 refused read");
    expect(shown.filter((line) => line.startsWith("12 "))).toEqual(["12 write register 0xf8", "12 flush", "12 map"]);
    const counts = events.filter(({ ph }) => ph === "C").map(({ args }) => args?.["pages"]);
    expect(counts.at(-1)).toBe(2);
    const times = events.map(({ ts }) => ts);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    expect(events.some(({ pid }) => pid === 0x20)).toBe(false);
  });

  it("writes a part into a file", () => {
    const trace = tools.trace("part.gz", HEADER, LINES);
    const output = join(tools.folder, "part.json");
    expect(tools.run(["perfetto", trace, "--from", "11", "--to", "12", "-o", output])).toEqual({
      code: 0,
      out: "",
      err: "",
    });
    const lines = parse(readFileSync(output, "utf8")).filter(({ ph }) => ph !== "M");
    expect([...new Set(lines.map(({ ts }) => ts))]).toEqual([11, 12]);
    expect(tools.run(["perfetto", trace, "--from", "12", "--to", "11"]).err).toMatch(/--from 12 is behind --to 11/);
    expect(tools.run(["perfetto", trace, "--from", "99"]).err).toMatch(/the trace ends at line 13, got 99/);
    expect(tools.run(["perfetto", trace, "-o", "/nowhere/at-all"]).err).toMatch(/cannot write/);
  });
});

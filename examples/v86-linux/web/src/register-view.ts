/**
 * The register block for people: what a driver's developer would look at first, with its fields spelled out.
 */

/** Anything that answers 32-bit reads at byte offsets. */
export interface Registers {
  read32(offsetBytes: number): number;
}

/** One line of the table. */
export interface RegisterLine {
  readonly name: string;
  readonly value: string;
  readonly meaning: string;
}

interface RegisterRow {
  readonly name: string;
  readonly offsetBytes: number;
  readonly words: 1 | 2;
  readonly explain: (low: number, high: number) => string;
}

const COMMAND_BITS: readonly (readonly [bit: number, name: string])[] = [
  [31, "translation on"],
  [30, "root table set"],
  [26, "queue on"],
  [25, "interrupt remapping on"],
];

/** §11.4. */
const ROWS: readonly RegisterRow[] = [
  { name: "VER", offsetBytes: 0x00, words: 1, explain: (low) => `version ${low >>> 4}.${low & 15}` },
  { name: "CAP", offsetBytes: 0x08, words: 2, explain: capabilities },
  { name: "ECAP", offsetBytes: 0x10, words: 2, explain: extendedCapabilities },
  { name: "GSTS", offsetBytes: 0x1c, words: 1, explain: (low) => namesOf(low, COMMAND_BITS) || "all off" },
  {
    name: "RTADDR",
    offsetBytes: 0x20,
    words: 2,
    explain: (low, high) => `root table at ${hex(high * 2 ** 32 + (low & ~0xfff) + (low < 0 ? 2 ** 32 : 0))}`,
  },
  {
    name: "FSTS",
    offsetBytes: 0x34,
    words: 1,
    explain: (low) =>
      namesOf(low, [
        [0, "overflow"],
        [1, "fault pending"],
        [4, "queue error"],
        [5, "completion error"],
        [6, "time-out"],
      ]) || "no fault pending",
  },
  {
    name: "FECTL",
    offsetBytes: 0x38,
    words: 1,
    explain: (low) =>
      namesOf(low, [
        [31, "masked"],
        [30, "message pending"],
      ]) || "messages on",
  },
  { name: "FEDATA", offsetBytes: 0x3c, words: 1, explain: (low) => `vector ${low & 0xff}` },
  { name: "IQH", offsetBytes: 0x80, words: 2, explain: (low) => `next descriptor to fetch: ${(low & 0x7fff0) >>> 4}` },
  { name: "IQT", offsetBytes: 0x88, words: 2, explain: (low) => `next descriptor to fill: ${(low & 0x7fff0) >>> 4}` },
  {
    name: "IQA",
    offsetBytes: 0x90,
    words: 2,
    explain: (low) => `${256 << (low & 7)} descriptors at ${hex((low & ~0xfff) >>> 0)}`,
  },
];

/** The lines as they are now. */
export function registerLines(registers: Registers): readonly RegisterLine[] {
  return ROWS.map(({ name, offsetBytes, words, explain }) => {
    const low = registers.read32(offsetBytes);
    const high = words === 2 ? registers.read32(offsetBytes + 4) : 0;
    const digits = (word: number): string => (word >>> 0).toString(16).padStart(8, "0");
    return { name, value: words === 2 ? `${digits(high)} ${digits(low)}` : digits(low), meaning: explain(low, high) };
  });
}

function capabilities(low: number, high: number): string {
  const widths = [39, 48, 57].filter((_, index) => ((low >>> (9 + index)) & 1) === 1);
  const parts = [`2^${4 + 2 * (low & 7)} domains`, `${widths.join(" or ")}-bit tables`];
  if ((low & 0x80) !== 0) parts.push("caching mode");
  if ((high & 0x80) !== 0) parts.push(`PSI to 2^${(high >>> 16) & 63}`);
  return parts.join(", ");
}

function extendedCapabilities(low: number): string {
  return namesOf(low, [
    [0, "coherent"],
    [1, "queue"],
    [2, "device TLBs"],
    [3, "interrupt remapping"],
    [6, "pass-through"],
    [7, "snoop control"],
  ]);
}

function namesOf(word: number, bits: readonly (readonly [bit: number, name: string])[]): string {
  return bits
    .filter(([bit]) => ((word >>> bit) & 1) === 1)
    .map(([, name]) => name)
    .join(", ");
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

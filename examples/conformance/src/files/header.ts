/**
 * The first line of a file: which format it is, what the unit was, where memory is.
 */

import { FileError } from "./file-error.js";
import { highWord, lowWord, numberIn } from "./numbers.js";
import type { FrameRange } from "@iommu-kit/iommu-core";

/** The formats, by the name in the header. */
export const FORMATS = ["vtd-cases", "vtd-replay-cases", "vtd-irq-cases", "vtd-linux-trace"] as const;
/** One of the formats. */
export type Format = (typeof FORMATS)[number];

/** What every header says, in one form. */
export interface Header {
  readonly format: Format;
  /** 32-bit words, unsigned. */
  readonly ver: number;
  readonly cap: readonly [low: number, high: number];
  readonly ecap: readonly [low: number, high: number];
  readonly hostAddressWidth: number;
  readonly scalable: boolean;
  readonly ram: readonly FrameRange[];
  /** Source-ids of the devices. */
  readonly sourceIds: readonly number[];
}

interface RawHeader {
  readonly format?: unknown;
  readonly version?: unknown;
  readonly iommu?: { readonly host_address_width?: number; readonly aw_bits?: number; readonly scalable?: boolean };
  readonly registers?: Record<string, string>;
  readonly reset_registers?: readonly (readonly [string, string])[];
  readonly ram?: readonly (readonly [string, string])[];
  readonly sids?: readonly string[];
  readonly devices?: readonly (readonly [string, string])[];
}

/**
 * Reads the header line.
 * @throws {FileError} if it names no known format, or lacks what the runner needs.
 */
export function formatOf(path: string, line: unknown): Header {
  const raw = (typeof line === "object" && line !== null ? line : {}) as RawHeader;
  const format = FORMATS.find((name) => name === raw.format);
  if (format === undefined)
    throw new FileError(
      path,
      `is not a known format: expected ${FORMATS.join(", ")} in the header, got ${JSON.stringify(raw.format)}`,
    );
  if (raw.version !== 1)
    throw new FileError(path, `has version ${JSON.stringify(raw.version)} of ${format}: expected 1`);
  const hostAddressWidth = raw.iommu?.host_address_width ?? raw.iommu?.aw_bits;
  if (hostAddressWidth === undefined || raw.ram === undefined)
    throw new FileError(path, "has a damaged header: expected the address width and the RAM ranges");
  const registers = raw.registers === undefined ? fromTrace(raw.reset_registers ?? []) : fromCases(raw.registers);
  return {
    format,
    ...registers,
    hostAddressWidth,
    scalable: raw.iommu?.scalable === true,
    ram: raw.ram.map(([start, end]) => ({
      firstPfn: numberIn(start) / 4096,
      pageCount: (numberIn(end) - numberIn(start)) / 4096,
    })),
    sourceIds: [...new Set((raw.sids ?? raw.devices?.map(([sid]) => sid) ?? []).map(numberIn))],
  };
}

function fromCases(registers: Record<string, string>): Pick<Header, "ver" | "cap" | "ecap"> {
  const { VER = "0x10", CAP = "0", ECAP = "0" } = registers;
  return { ver: lowWord(VER), cap: [lowWord(CAP), highWord(CAP)], ecap: [lowWord(ECAP), highWord(ECAP)] };
}

function fromTrace(registers: readonly (readonly [string, string])[]): Pick<Header, "ver" | "cap" | "ecap"> {
  const words = new Map(registers.map(([offset, value]) => [numberIn(offset), lowWord(value)]));
  const word = (offset: number): number => words.get(offset) ?? 0;
  return { ver: word(0), cap: [word(8), word(0xc)], ecap: [word(0x10), word(0x14)] };
}

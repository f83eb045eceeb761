/**
 * Reads the dump of its page tables that the driver gives in debugfs (`domain_translation_struct`), and compares it with our shadow.
 *
 * Under a line that names the device there is one line for each mapped entry: the frame, then the entry of each level. A superpage has no entry below its
 * level, so its size follows from how many entries there are.
 */

import type { Access } from "@iommu-kit/iommu-core";
import type { Reach } from "./fresh-walk.js";

/** What a comparison found. */
export interface DumpComparison {
  /** Devices in the dump. */
  readonly devices: number;
  /** Pages compared. */
  readonly pages: number;
  /** Pages that differ, or that only one side has. */
  readonly different: number;
  /** Lines that are neither a device, an entry, a heading nor empty: something else wrote to the serial line. */
  readonly unreadable: number;
  /** The first few of them, for people. */
  readonly examples: readonly string[];
}

const COLUMNS = 5;

/** A dump, decoded. */
export interface DriverDump {
  /** Pages by device: source-id, then frame. */
  readonly devices: ReadonlyMap<number, ReadonlyMap<number, Reach>>;
  readonly unreadable: number;
}

/** Decodes the lines of a dump. */
export function parseDriverDump(lines: readonly string[]): DriverDump {
  const devices = new Map<number, Map<number, Reach>>();
  let unreadable = 0;
  let pages: Map<number, Reach> | undefined;
  for (const line of lines) {
    const device = /^Device (?:[0-9a-f]{4}:)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])/.exec(line);
    if (device !== null) {
      pages = new Map();
      devices.set(
        Number.parseInt(device[1] ?? "", 16) * 256 + Number.parseInt(device[2] ?? "", 16) * 8 + Number(device[3]),
        pages,
      );
      continue;
    }
    const entry = /^0x([0-9a-f]+)\s*\|((?:\s+0x[0-9a-f]{16}){1,5})$/.exec(line);
    if (entry !== null && pages !== undefined)
      addEntry(pages, Number.parseInt(entry[1] ?? "", 16), (entry[2] ?? "").trim().split(/\s+/));
    else if (line.trim() !== "" && !line.startsWith("IOVA_PFN")) unreadable += 1;
  }
  return { devices, unreadable };
}

/** Compares the dump with what each device holds; devices that are not in `held` are counted as different. */
export function compareDump(
  lines: readonly string[],
  held: ReadonlyMap<number, ReadonlyMap<number, Reach>>,
): DumpComparison {
  const { devices: dump, unreadable } = parseDriverDump(lines);
  const examples: string[] = [];
  let pages = 0;
  let different = 0;
  const differ = (text: string): void => {
    different += 1;
    if (examples.length < 10) examples.push(text);
  };
  for (const [sourceId, theirs] of dump) {
    const ours = held.get(sourceId) ?? new Map<number, Reach>();
    for (const [pfn, reach] of theirs) {
      pages += 1;
      const own = ours.get(pfn);
      if (own?.gpaPfn !== reach.gpaPfn || own.access !== reach.access)
        differ(
          `source 0x${sourceId.toString(16)} frame 0x${pfn.toString(16)}: driver 0x${reach.gpaPfn.toString(16)}, shadow ${own === undefined ? "nothing" : `0x${own.gpaPfn.toString(16)}`}`,
        );
    }
    for (const pfn of ours.keys())
      if (!theirs.has(pfn))
        differ(`source 0x${sourceId.toString(16)} frame 0x${pfn.toString(16)}: only the shadow has it`);
  }
  return { devices: dump.size, pages, different, unreadable, examples };
}

/** Entries are printed from the fifth level down; levels that the tables do not have print as zero. */
function addEntry(pages: Map<number, Reach>, firstPfn: number, columns: readonly string[]): void {
  const values = columns.map((column) => BigInt(column));
  const leaf = values.findLastIndex((value) => value !== 0n);
  const value = values[leaf];
  if (value === undefined) return;
  const pageCount = 512 ** (COLUMNS - 1 - leaf);
  const gpaPfn = Number((value >> 12n) & 0xffffffffffn);
  const rights = values.filter((entry) => entry !== 0n).reduce((all, entry) => all & entry, 3n);
  for (let i = 0; i < pageCount; i += 1)
    pages.set(firstPfn + i, { gpaPfn: gpaPfn + i, access: Number(rights & 3n) as Access });
}

/**
 * What first-stage tables map in a range, alone or nested in the second stage (§3.6, §3.8): the walk's rules for a whole range.
 *
 * Nested, the shadow holds the combined translation: every table is found through the second stage, and every leaf is scanned there. Flags are not set: nothing is accessed yet.
 * What a table or entry that cannot be used would map is left out (design D8).
 */

import {
  type Access,
  accessOf,
  endOf,
  type FrameRange,
  intersect,
  type GuestMemory,
  type MappingSink,
  PAGE_BYTES,
} from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { FirstStageBits, firstStageFrame, firstStageReserved, firstStageReservedIndex } from "../spec/first-stage.js";
import { secondStageFrame } from "../spec/second-stage.js";
import type { Binding } from "../translate/binding.js";
import type { OutputFilter } from "../translate/output-filter.js";
import { levelSpan } from "../translate/table-index.js";
import { tellLeaf } from "./leaf.js";
import type { SecondStageScan } from "./second-stage-scan.js";

const ENTRIES = 512;
const HIGHEST_LEVEL = 5;
const ALL = 2 ** 52;
/** The frame in the two words of a 4 KiB leaf, bits 51:12. */
const FRAME_LOW = ~0xfff;
const FRAME_HIGH = 0xfffff;
const { PRESENT, WRITE, USER, PAGE_SIZE } = FirstStageBits;

/** What a scan of first-stage tables works with. */
export interface FirstStageParts {
  readonly memory: GuestMemory;
  readonly capabilities: UnitCapabilities;
  readonly secondStage: SecondStageScan;
  readonly filter: OutputFilter;
}

/** Scans the first stage of bindings. */
export class FirstStageScan {
  readonly #memory: GuestMemory;
  readonly #secondStage: SecondStageScan;
  readonly #filter: OutputFilter;
  readonly #reserved: Int32Array;
  readonly #tables: readonly Int32Array[] = Array.from(
    { length: HIGHEST_LEVEL + 1 },
    () => new Int32Array(ENTRIES * 2),
  );
  readonly #decoded = new Int32Array(ENTRIES * 2);
  readonly #lookup = new PageFinder();

  constructor(parts: FirstStageParts) {
    const { memory, capabilities, secondStage, filter } = parts;
    this.#filter = filter;
    this.#memory = memory;
    this.#secondStage = secondStage;
    this.#reserved = firstStageReserved(capabilities);
  }

  /** Tells the sink what is mapped in `range`: the canonical lower half, then the upper one. */
  scan(binding: Binding, range: FrameRange, sink: MappingSink): void {
    const half = levelSpan(binding.firstLevels) * (ENTRIES / 2);
    const end = range.firstPfn + range.pageCount;
    const pass = new Pass(binding, range.firstPfn, end, sink);
    if (range.firstPfn < half && !this.#table(pass, binding.firstRootPfn, binding.firstLevels, 0, USER | WRITE)) return;
    // The upper half is the same table: its entries 256 to 511 are sign-extended.
    if (end > ALL - half) this.#table(pass, binding.firstRootPfn, binding.firstLevels, ALL - 2 * half, USER | WRITE);
  }

  #table(pass: Pass, tablePfn: number, level: number, firstPfn: number, rights: number): boolean {
    const span = levelSpan(level);
    const top = level === pass.binding.firstLevels;
    const lowest = top && firstPfn > 0 ? ENTRIES / 2 : 0;
    const highest = top && firstPfn === 0 ? ENTRIES / 2 : ENTRIES;
    const from = Math.max(lowest, Math.floor((pass.firstPfn - firstPfn) / span));
    const to = Math.min(highest, Math.ceil((pass.endPfn - firstPfn) / span));
    if (from >= to) return true;
    const at = Math.max(pass.firstPfn, firstPfn + from * span);
    const again = firstPfn < pass.firstPfn;
    if (!pass.sink.reach(at, to - from, again)) return false;
    const words = this.#read(pass, { pfn: tablePfn, level, iovaPfn: at, again });
    if (this.#lookup.stopped) return false;
    if (words === undefined) return true;
    if (level === 1 && pass.binding.kind !== "nested") return this.#leafTable(pass, words, firstPfn, rights);
    for (let index = from; index < to; index++) {
      const low = words[index * 2] ?? 0;
      if ((low & PRESENT) === 0) continue;
      if (!this.#entry(pass, { low, high: words[index * 2 + 1] ?? 0 }, level, firstPfn + index * span, rights))
        return false;
    }
    return true;
  }

  /** A table of 4 KiB leaves, told as one, so that runs of pages are told together. */
  #leafTable(pass: Pass, words: Int32Array, firstPfn: number, rights: number): boolean {
    const { privileged, writeProtect } = pass.binding;
    const at = firstStageReservedIndex(1, 0);
    const reservedLow = this.#reserved[at] ?? 0;
    const reservedHigh = this.#reserved[at + 1] ?? 0;
    const decoded = this.#decoded;
    for (let i = 0; i < ENTRIES * 2; i += 2) {
      const low = words[i] ?? 0;
      const high = words[i + 1] ?? 0;
      const left = rights & low;
      const mapped =
        (low & PRESENT) !== 0 &&
        ((low & reservedLow) | (high & reservedHigh)) === 0 &&
        (privileged || (left & USER) !== 0) &&
        !this.#filter.blocks(firstStageFrame(low, high, 1));
      const access = (left & WRITE) !== 0 || (privileged && !writeProtect) ? 3 : 1;
      decoded[i] = mapped ? (low & FRAME_LOW) | access : 0;
      decoded[i + 1] = mapped ? high & FRAME_HIGH : 0;
    }
    return pass.sink.table(firstPfn, decoded);
  }

  #entry(
    pass: Pass,
    entry: { readonly low: number; readonly high: number },
    level: number,
    firstPfn: number,
    rights: number,
  ): boolean {
    const { low, high } = entry;
    const { binding } = pass;
    const at = firstStageReservedIndex(level, low);
    if (((low & (this.#reserved[at] ?? 0)) | (high & (this.#reserved[at + 1] ?? 0))) !== 0) return true;
    const left = rights & low;
    if (!binding.privileged && (left & USER) === 0) return true;
    const leaf = level === 1 || (low & PAGE_SIZE) !== 0;
    const span = levelSpan(level);
    const frame = firstStageFrame(low, high, leaf ? span : 1);
    if (binding.kind === "nested" && frame >= binding.limitPfn) return true;
    if (!leaf) return this.#table(pass, frame, level - 1, firstPfn, left);
    const writable = (left & WRITE) !== 0 || (binding.privileged && !binding.writeProtect);
    return this.#leaf(pass, firstPfn, span, frame, writable ? 3 : 1);
  }

  #leaf(pass: Pass, firstPfn: number, span: number, frame: number, access: Access): boolean {
    if (pass.binding.kind !== "nested")
      return tellLeaf(pass.sink, this.#filter, { firstPfn, pageCount: span, gpaPfn: frame, access });
    // Where the pass was cut short, the second stage is asked only for what is left.
    const skip = Math.max(0, pass.firstPfn - firstPfn);
    const count = Math.min(span, pass.endPfn - firstPfn) - skip;
    const { rootPfn, levels, limitPfn } = pass.binding;
    const range = { firstPfn: frame + skip, pageCount: Math.min(count, limitPfn - frame - skip) };
    const shifted = new ShiftedSink(pass.sink, range, firstPfn - frame, access);
    this.#secondStage.scan(rootPfn, levels, range, shifted);
    return shifted.goes;
  }

  /** The table that maps `iovaPfn`. Nested, it is found through the second stage, which may spend the slice: `#lookup.stopped`. */
  #read(pass: Pass, table: TableInPass): Int32Array | undefined {
    const { binding } = pass;
    this.#lookup.stopped = false;
    const words = this.#tables[table.level];
    const pfn = binding.kind === "nested" ? this.#hostFrameOf(pass, table) : table.pfn;
    return words !== undefined && pfn !== undefined && this.#memory.fetch(pfn * PAGE_BYTES, words) ? words : undefined;
  }

  /** Where the second stage puts a table, if it lets the walk read it. With SSADE the read needs the write right too. */
  #hostFrameOf({ binding, sink }: Pass, { pfn, iovaPfn, again }: TableInPass): number | undefined {
    if (pfn >= binding.limitPfn) return undefined;
    this.#lookup.start(pfn, binding.secondStageFlags ? 3 : 1, (entries) => sink.reach(iovaPfn, entries, again));
    this.#secondStage.scan(binding.rootPfn, binding.levels, { firstPfn: pfn, pageCount: 1 }, this.#lookup);
    return this.#lookup.found;
  }
}

/** A first-stage table that a pass comes to, or, where it was cut short, enters again. */
interface TableInPass {
  readonly pfn: number;
  readonly level: number;
  readonly iovaPfn: number;
  readonly again: boolean;
}

class Pass {
  readonly binding: Binding;
  readonly firstPfn: number;
  readonly endPfn: number;
  readonly sink: MappingSink;

  constructor(binding: Binding, firstPfn: number, endPfn: number, sink: MappingSink) {
    this.binding = binding;
    this.firstPfn = firstPfn;
    this.endPfn = endPfn;
    this.sink = sink;
  }
}

/** Turns what the second stage says of guest-physical frames into input frames, with the rights of both stages. */
class ShiftedSink implements MappingSink {
  goes = true;
  readonly #sink: MappingSink;
  readonly #range: FrameRange;
  readonly #shift: number;
  readonly #access: Access;

  constructor(sink: MappingSink, range: FrameRange, shift: number, access: Access) {
    this.#sink = sink;
    this.#range = range;
    this.#shift = shift;
    this.#access = access;
  }

  run(pfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    const both = (access & this.#access) as Access;
    const { firstPfn, pageCount: count } = intersect({ firstPfn: pfn, pageCount }, this.#range);
    if (both !== 0 && count > 0)
      this.goes = this.#sink.run(firstPfn + this.#shift, count, gpaPfn + (firstPfn - pfn), both);
    return this.goes;
  }

  reach(pfn: number, entriesRead: number): boolean {
    this.goes = this.#sink.reach(pfn + this.#shift, entriesRead);
    return this.goes;
  }

  unchanged(): boolean {
    return false;
  }

  table(firstPfn: number, entries: Int32Array): boolean {
    const part = intersect({ firstPfn, pageCount: ENTRIES }, this.#range);
    for (let pfn = part.firstPfn; pfn < endOf(part); pfn++) {
      const at = (pfn - firstPfn) * 2;
      const low = entries[at] ?? 0;
      const high = entries[at + 1] ?? 0;
      if ((low & 3) !== 0 && !this.run(pfn, 1, secondStageFrame(low, high), accessOf(low))) return false;
    }
    return true;
  }
}

/** Finds where one frame goes, if it grants the rights. What is read for it counts like everything that a scan reads. */
class PageFinder implements MappingSink {
  found: number | undefined;
  /** The slice was spent on the way. */
  stopped = false;
  #reads: (entries: number) => boolean = () => true;
  #pfn = 0;
  #wanted: Access = 1;

  start(pfn: number, wanted: Access, reads: (entries: number) => boolean): void {
    this.found = undefined;
    this.#reads = reads;
    this.#pfn = pfn;
    this.#wanted = wanted;
  }

  run(pfn: number, _pageCount: number, gpaPfn: number, access: Access): boolean {
    if ((this.#wanted & ~access) === 0) this.found = gpaPfn + (this.#pfn - pfn);
    return false;
  }

  reach(_pfn: number, entriesRead: number): boolean {
    this.stopped = !this.#reads(entriesRead);
    return !this.stopped;
  }

  unchanged(): boolean {
    return false;
  }

  table(firstPfn: number, entries: Int32Array): boolean {
    const at = (this.#pfn - firstPfn) * 2;
    const low = entries[at] ?? 0;
    if ((low & 3) !== 0) this.run(this.#pfn, 1, secondStageFrame(low, entries[at + 1] ?? 0), accessOf(low));
    return false;
  }
}

/**
 * What first-stage tables map in a range, alone or nested in the second stage (§3.6, §3.8): the walk's rules for a whole range.
 *
 * Nested, the shadow holds the combined translation: every table is found through the second stage, and every leaf is scanned there. Flags are not set: nothing is accessed yet.
 * What a table or entry that cannot be used would map is left out (design D8).
 */

import {
  type Access,
  type FrameRange,
  type GuestMemory,
  intersect,
  LeafTable,
  type MappingSink,
} from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { FirstStageBits, firstStageFrame, firstStageReserved, firstStageReservedIndex } from "../spec/first-stage.js";
import type { Binding } from "../translate/binding.js";
import { OutputFilter } from "../translate/output-filter.js";
import { levelSpan } from "../translate/table-index.js";
import { tellLeaf } from "./leaf.js";
import { firstStageFormats, firstStageRules, type LeafFormats } from "./leaf-formats.js";
import { SecondStageScan } from "./second-stage-scan.js";
import { TableReader } from "./table-reader.js";

const ENTRIES = 512;
const ALL = 2 ** 52;
const { PRESENT, WRITE, USER, PAGE_SIZE } = FirstStageBits;

/** What a scan of first-stage tables works with. */
export interface FirstStageParts {
  readonly memory: GuestMemory;
  readonly capabilities: UnitCapabilities;
  readonly secondStage: SecondStageScan;
  readonly filter: OutputFilter;
}

/** Scans the first stage of bindings. One pass at a time: a scan that begins inside another one, from a consumer's callback, has a scanner of its own. */
export class FirstStageScan {
  readonly #parts: FirstStageParts;
  readonly #reader: TableReader;
  readonly #secondStage: SecondStageScan;
  /** Finds tables. Protected regions do not bind the unit's own reads (§11.4.8), and in the interrupt window there is no memory. */
  readonly #tables: SecondStageScan;
  readonly #filter: OutputFilter;
  readonly #reserved: Int32Array;
  readonly #formats: LeafFormats;
  readonly #leafTable = new LeafTable();
  readonly #lookup = new PageFinder();
  #scanning = false;
  #inner: FirstStageScan | undefined;

  /** `formats`: those of another scanner, so that what it has told needs no second look. */
  constructor(parts: FirstStageParts, formats?: LeafFormats) {
    const { memory, capabilities, secondStage, filter } = parts;
    this.#parts = parts;
    this.#filter = filter;
    this.#reader = new TableReader(memory);
    this.#secondStage = secondStage;
    this.#tables = new SecondStageScan(memory, capabilities, new OutputFilter());
    this.#reserved = firstStageReserved(capabilities);
    this.#formats = formats ?? firstStageFormats(this.#reserved, filter);
  }

  /** Tells the sink what is mapped in `range`: the canonical lower half, then the upper one. */
  scan(binding: Binding, range: FrameRange, sink: MappingSink): void {
    if (this.#scanning) {
      this.#inner ??= new FirstStageScan(this.#parts, this.#formats);
      this.#inner.scan(binding, range, sink);
      return;
    }
    this.#scanning = true;
    try {
      this.#halves(binding, range, sink);
    } finally {
      this.#scanning = false;
    }
  }

  #halves(binding: Binding, range: FrameRange, sink: MappingSink): void {
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
    const pfn = this.#hostFrameOf(pass, { pfn: tablePfn, iovaPfn: at, again });
    if (this.#lookup.stopped) return false;
    if (pfn === undefined) return true;
    const reader = this.#reader;
    const told = level === 1 && pass.binding.kind !== "nested";
    const generation = told ? reader.generationOf(pfn) : -1;
    const words = reader.read(pfn, level, from, to);
    if (words === undefined) return true;
    const base = reader.firstWord;
    if (told) {
      const { privileged, writeProtect } = pass.binding;
      const table = this.#leafTable;
      table.words = words;
      table.firstWord = base;
      table.format = this.#formats.of(firstStageRules(rights, privileged, writeProtect));
      table.pfn = pfn;
      table.generation = generation;
      return pass.sink.table(firstPfn, table);
    }
    for (let index = from; index < to; index++) {
      const low = words[base + index * 2] ?? 0;
      if ((low & PRESENT) === 0) continue;
      const entry = { low, high: words[base + index * 2 + 1] ?? 0 };
      if (!this.#entry(pass, entry, level, firstPfn + index * span, rights)) return false;
    }
    return true;
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
    const shifted = new ShiftedSink(pass.sink, range, { shift: firstPfn - frame, access, entered: skip > 0 });
    this.#secondStage.scan(rootPfn, levels, range, shifted);
    return shifted.goes;
  }

  /** Where a table lies. Nested, the second stage says, if it lets the walk read it; that may spend the slice: `#lookup.stopped`. With SSADE the read needs the write right too. */
  #hostFrameOf({ binding, sink }: Pass, { pfn, iovaPfn, again }: TableInPass): number | undefined {
    this.#lookup.stopped = false;
    if (binding.kind !== "nested") return pfn;
    if (pfn >= binding.limitPfn) return undefined;
    this.#lookup.start(pfn, binding.secondStageFlags ? 3 : 1, (entries) => sink.reach(iovaPfn, entries, again));
    this.#tables.scan(binding.rootPfn, binding.levels, { firstPfn: pfn, pageCount: 1 }, this.#lookup);
    return this.#lookup.found;
  }
}

/** A first-stage table that a pass comes to, or, where it was cut short, enters again. */
interface TableInPass {
  readonly pfn: number;
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

/** A first-stage leaf whose frames the second stage is asked for. */
interface NestedLeaf {
  /** From guest-physical frames to input frames. */
  readonly shift: number;
  readonly access: Access;
  /** The pass was cut short in the middle of it, and goes on there. */
  readonly entered: boolean;
}

/** Turns what the second stage says of guest-physical frames into input frames, with the rights of both stages. */
class ShiftedSink implements MappingSink {
  goes = true;
  readonly #sink: MappingSink;
  readonly #range: FrameRange;
  readonly #shift: number;
  readonly #access: Access;
  readonly #entered: boolean;

  constructor(sink: MappingSink, range: FrameRange, { shift, access, entered }: NestedLeaf) {
    this.#sink = sink;
    this.#range = range;
    this.#shift = shift;
    this.#access = access;
    this.#entered = entered;
  }

  run(pfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    const both = (access & this.#access) as Access;
    const { firstPfn, pageCount: count } = intersect({ firstPfn: pfn, pageCount }, this.#range);
    if (both !== 0 && count > 0)
      this.goes = this.#sink.run(firstPfn + this.#shift, count, gpaPfn + (firstPfn - pfn), both);
    return this.goes;
  }

  reach(pfn: number, entriesRead: number, again = false): boolean {
    // Each leaf looks for its frames from the top of the second stage: only what this one has read itself is read again.
    this.goes = this.#sink.reach(pfn + this.#shift, entriesRead, again && this.#entered);
    return this.goes;
  }

  table(firstPfn: number, table: LeafTable): boolean {
    return table.visit(firstPfn, this.#range, (pfn, pages, gpaPfn, access) => this.run(pfn, pages, gpaPfn, access));
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

  table(firstPfn: number, table: LeafTable): boolean {
    const page = { firstPfn: this.#pfn, pageCount: 1 };
    return table.visit(firstPfn, page, (pfn, pages, gpaPfn, access) => this.run(pfn, pages, gpaPfn, access));
  }
}

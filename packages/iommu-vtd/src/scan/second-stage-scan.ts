/**
 * What a second-stage table maps in a range, in one ascending pass (§3.7): the walk's rules for a whole range instead of one page.
 *
 * Each table entry is read once, and counted before it is read. Unreadable tables and entries with reserved bits map nothing: what was announced there goes
 * away (design D8). Targets that no request may reach are left out, without blocking the rest of a superpage.
 */

import { type Access, type FrameRange, type GuestMemory, LeafTable, type MappingSink } from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { isSecondStageLeaf, reservedIndex, secondStageReserved } from "../spec/second-stage.js";
import { entryFrame } from "../spec/word.js";
import type { OutputFilter } from "../translate/output-filter.js";
import { levelSpan } from "../translate/table-index.js";
import { tellLeaf } from "./leaf.js";
import { type LeafFormats, secondStageFormats } from "./leaf-formats.js";
import { TableReader } from "./table-reader.js";

const ENTRIES = 512;
const NO_SINK: MappingSink = { run: () => false, reach: () => false, table: () => false };

/** A scanner of second-stage tables. One pass at a time: a scan that begins inside another one, from a consumer's callback, has a scanner of its own. */
export class SecondStageScan {
  readonly #memory: GuestMemory;
  readonly #capabilities: UnitCapabilities;
  readonly #filter: OutputFilter;
  readonly #reader: TableReader;
  readonly #reserved: Int32Array;
  readonly #formats: LeafFormats;
  readonly #leafTable = new LeafTable();
  readonly #generationOf = (pfn: number): number => this.#reader.generationOf(pfn);
  #firstPfn = 0;
  #endPfn = 0;
  #sink: MappingSink = NO_SINK;
  #inner: SecondStageScan | undefined;

  /** `formats`: those of another scanner, so that what it has told needs no second look. */
  constructor(memory: GuestMemory, capabilities: UnitCapabilities, filter: OutputFilter, formats?: LeafFormats) {
    this.#memory = memory;
    this.#capabilities = capabilities;
    this.#filter = filter;
    this.#reader = new TableReader(memory);
    this.#reserved = secondStageReserved(capabilities, false);
    this.#formats = formats ?? secondStageFormats(this.#reserved, filter);
  }

  /** Tells the sink what is mapped in `range`; stops as soon as it answers `false`. */
  scan(rootPfn: number, levels: number, range: FrameRange, sink: MappingSink): void {
    if (this.#sink !== NO_SINK) return this.#scanInside(rootPfn, levels, range, sink);
    this.#firstPfn = range.firstPfn;
    this.#endPfn = Math.min(range.firstPfn + range.pageCount, levelSpan(levels) * ENTRIES);
    this.#sink = sink;
    try {
      if (this.#firstPfn < this.#endPfn) this.#scanTable(rootPfn, levels, 0, 3);
    } finally {
      this.#sink = NO_SINK;
    }
  }

  #scanInside(rootPfn: number, levels: number, range: FrameRange, sink: MappingSink): void {
    this.#inner ??= new SecondStageScan(this.#memory, this.#capabilities, this.#filter, this.#formats);
    this.#inner.scan(rootPfn, levels, range, sink);
  }

  #scanTable(tablePfn: number, level: number, tableFirstPfn: number, rights: Access): boolean {
    const span = levelSpan(level);
    const from = Math.max(0, Math.floor((this.#firstPfn - tableFirstPfn) / span));
    const to = Math.min(ENTRIES, Math.ceil((this.#endPfn - tableFirstPfn) / span));
    const again = tableFirstPfn < this.#firstPfn;
    if (!this.#sink.reach(Math.max(this.#firstPfn, tableFirstPfn), to - from, again)) return false;
    const reader = this.#reader;
    const table = this.#leafTable;
    if (level <= 2) {
      table.format = this.#formats.of(rights);
      table.pfn = tablePfn;
      table.generation = reader.generationOf(tablePfn);
      if (
        level === 2 &&
        to - from === ENTRIES &&
        this.#sink.isProved?.(tableFirstPfn, table, this.#generationOf) === true
      )
        return true;
    }
    const words = reader.read(tablePfn, level, from, to);
    if (words === undefined) return true;
    const base = reader.firstWord | 0;
    if (level === 1) {
      table.words = words;
      table.firstWord = base;
      return this.#sink.table(tableFirstPfn, table);
    }
    for (let index = from; index < to; index++) {
      const low = words[base + index * 2] ?? 0;
      if ((low & 3) === 0) continue;
      const high = words[base + index * 2 + 1] ?? 0;
      if (!this.#scanEntry(low, high, level, tableFirstPfn + index * span, rights)) return false;
    }
    return true;
  }

  #scanEntry(low: number, high: number, level: number, firstPfn: number, rights: Access): boolean {
    const at = reservedIndex(level, low);
    if (((low & (this.#reserved[at] ?? 0)) | (high & (this.#reserved[at + 1] ?? 0))) !== 0) return true;
    const access = (rights & low) as Access;
    if (access === 0) return true;
    const frame = entryFrame(low, high);
    if (isSecondStageLeaf(low))
      return tellLeaf(this.#sink, this.#filter, { firstPfn, pageCount: levelSpan(level), gpaPfn: frame, access });
    return this.#scanTable(frame, level - 1, firstPfn, access);
  }
}

/**
 * What a second-stage table maps in a range, in one ascending pass (§3.7): the walk's rules for a whole range instead of one page.
 *
 * Each table entry is read once, and counted before it is read. Unreadable tables and entries with reserved bits map nothing: what was announced there goes
 * away (design D8). Targets that no request may reach are left out, without blocking the rest of a superpage.
 */

import { type Access, type FrameRange, type GuestMemory, type MappingSink, PAGE_BYTES } from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "../spec/capabilities.js";
import {
  isSecondStageLeaf,
  reservedIndex,
  SECOND_STAGE_MAPPING,
  secondStageFrame,
  secondStageReserved,
} from "../spec/second-stage.js";
import { EntryReader } from "../translate/entry-reader.js";
import type { OutputFilter } from "../translate/output-filter.js";
import { levelSpan } from "../translate/table-index.js";
import { tellLeaf } from "./leaf.js";

const ENTRIES = 512;
const HIGHEST_LEVEL = 5;
const NO_SINK: MappingSink = { run: () => false, reach: () => false, unchanged: () => false, table: () => false };

/** A scanner of second-stage tables. */
export class SecondStageScan {
  readonly #memory: GuestMemory;
  readonly #filter: OutputFilter;
  readonly #reader: EntryReader;
  readonly #reserved: Int32Array;
  /** Bits of a leaf that matter: what maps, and what must be 0. */
  readonly #leafMasks: Int32Array;
  readonly #decoded = new Int32Array(ENTRIES * 2);
  /** Copies of tables, one a level, where the host gives no direct view. */
  readonly #copies: readonly Int32Array[] = Array.from(
    { length: HIGHEST_LEVEL + 1 },
    () => new Int32Array(ENTRIES * 2),
  );
  readonly #single = new Int32Array(2);
  #firstPfn = 0;
  #endPfn = 0;
  #sink: MappingSink = NO_SINK;

  constructor(memory: GuestMemory, capabilities: UnitCapabilities, filter: OutputFilter) {
    this.#memory = memory;
    this.#filter = filter;
    this.#reader = new EntryReader(memory);
    this.#reserved = secondStageReserved(capabilities, false);
    const at = reservedIndex(1, 0);
    this.#leafMasks = SECOND_STAGE_MAPPING.map((bits, word) => bits | (this.#reserved[at + word] ?? 0));
  }

  /** Tells the sink what is mapped in `range`; stops as soon as it answers `false`. */
  scan(rootPfn: number, levels: number, range: FrameRange, sink: MappingSink): void {
    this.#firstPfn = range.firstPfn;
    this.#endPfn = Math.min(range.firstPfn + range.pageCount, levelSpan(levels) * ENTRIES);
    this.#sink = sink;
    if (this.#firstPfn < this.#endPfn) this.#scanTable(rootPfn, levels, 0, 3);
    this.#sink = NO_SINK;
  }

  #scanTable(tablePfn: number, level: number, tableFirstPfn: number, rights: Access): boolean {
    const span = levelSpan(level);
    const from = Math.max(0, Math.floor((this.#firstPfn - tableFirstPfn) / span));
    const to = Math.min(ENTRIES, Math.ceil((this.#endPfn - tableFirstPfn) / span));
    const again = tableFirstPfn < this.#firstPfn;
    if (!this.#sink.reach(Math.max(this.#firstPfn, tableFirstPfn), to - from, again)) return false;
    const window = this.#reader.windowOf(tablePfn);
    const words = window === undefined ? this.#copy(tablePfn, level, from, to) : window.words;
    if (words === undefined) return true;
    const base = window === undefined ? 0 : (tablePfn - window.firstPfn) * ENTRIES * 2;
    if (level === 1) return this.#scanLeafTable(words, base, tableFirstPfn, rights);
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
    const frame = secondStageFrame(low, high);
    if (isSecondStageLeaf(low))
      return tellLeaf(this.#sink, this.#filter, { firstPfn, pageCount: levelSpan(level), gpaPfn: frame, access });
    return this.#scanTable(frame, level - 1, firstPfn, access);
  }

  #scanLeafTable(words: Int32Array, base: number, firstPfn: number, rights: Access): boolean {
    const from = Math.max(0, this.#firstPfn - firstPfn);
    const to = Math.min(ENTRIES, this.#endPfn - firstPfn);
    const whole = to - from === ENTRIES;
    // Entries that have not changed may lead into a region that has become protected.
    const comparable = rights === 3 && whole && this.#filter.protectedRegions.length === 0;
    if (comparable && this.#sink.unchanged(firstPfn, words, base, this.#leafMasks)) return true;
    const at = reservedIndex(1, 0);
    const reservedLow = this.#reserved[at] ?? 0;
    const reservedHigh = this.#reserved[at + 1] ?? 0;
    const decoded = this.#decoded;
    const maskLow = SECOND_STAGE_MAPPING[0] ?? 0;
    const maskHigh = SECOND_STAGE_MAPPING[1] ?? 0;
    for (let i = from * 2; i < to * 2; i += 2) {
      const low = words[base + i] ?? 0;
      const high = words[base + i + 1] ?? 0;
      const mapped =
        (low & rights) !== 0 &&
        ((low & reservedLow) | (high & reservedHigh)) === 0 &&
        !this.#filter.blocks(secondStageFrame(low, high));
      decoded[i] = mapped ? (low & (maskLow & ~3)) | (low & rights) : 0;
      decoded[i + 1] = mapped ? high & maskHigh : 0;
    }
    return this.#sink.table(firstPfn, decoded);
  }

  /** Entries `from` to `to - 1` of a table at their places: one alone, or all of them in one access. */
  #copy(tablePfn: number, level: number, from: number, to: number): Int32Array | undefined {
    const copy = this.#copies[level];
    if (copy === undefined) return undefined;
    const gpa = tablePfn * PAGE_BYTES;
    if (to - from > 1) return this.#memory.fetch(gpa, copy) ? copy : undefined;
    const single = this.#single;
    if (!this.#memory.fetch(gpa + from * 8, single)) return undefined;
    copy.set(single, from * 2);
    return copy;
  }
}

/**
 * The second-stage walk of one input page (§3.7): 3, 4 or 5 levels, 2 MiB and 1 GiB pages, accessed and dirty flags in scalable mode.
 *
 * Each entry is fetched once, and rights accumulate by AND. Legacy mode tests the requested right before reserved bits, scalable mode the other way round (§7.1.3).
 */

import type { Access, GuestMemory } from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { FaultReason } from "../spec/fault-reasons.js";
import { CAP } from "../spec/registers-capability.js";
import {
  isSecondStageLeaf,
  reservedIndex,
  SECOND_STAGE_ACCESSED,
  SECOND_STAGE_DIRTY,
  SECOND_STAGE_SNOOP,
  secondStageReserved,
} from "../spec/second-stage.js";
import { entryFrame } from "../spec/word.js";
import type { Binding } from "./binding.js";
import { EntryReader } from "./entry-reader.js";
import { type FlagUpdate, setFlags } from "./flag-update.js";
import type { OutputFilter } from "./output-filter.js";
import { levelSpan, offsetInBlock, tableIndex } from "./table-index.js";

/** Walks that a guest may spoil by changing an entry under its flag update. */
const ATTEMPTS = 8;
const AGAIN = -1;

/**
 * What a walk is for. A leaf gets its flags when the request succeeds, so not on the way to a target that nobody may reach (`PAGE`), and not by a walk that only finds out
 * (`PROBE`). A first-stage table is accessed in any case (`TABLE`).
 */
export const WalkPurpose = { PAGE: 0, TABLE: 1, PROBE: 2 } as const;
/** One of the values of `WalkPurpose`. */
export type WalkPurpose = (typeof WalkPurpose)[keyof typeof WalkPurpose];

/** A walker with the result of its last walk. */
export class SecondStageWalk {
  /** Target frame of the requested page. */
  gpaPfn = 0;
  /** Rights along the walk. */
  access: Access = 0;
  /** Pages of the leaf. */
  pageCount = 1;
  /** The leaf's dirty flag is still to be set by a write. */
  dirtyPending = false;
  /** The leaf's snoop bit. */
  snooped = false;
  readonly #memory: GuestMemory;
  readonly #reader: EntryReader;
  readonly #reserved: Int32Array;
  readonly #zeroLengthRead: boolean;
  readonly #filter: OutputFilter;
  readonly #update: FlagUpdate;

  constructor(
    memory: GuestMemory,
    capabilities: UnitCapabilities,
    filter: OutputFilter,
    update: FlagUpdate = setFlags,
  ) {
    this.#memory = memory;
    this.#update = update;
    this.#filter = filter;
    this.#reader = new EntryReader(memory);
    this.#reserved = secondStageReserved(capabilities, false);
    this.#zeroLengthRead = CAP.fields.ZLR.get(capabilities.cap, 0) === 1;
  }

  /** Walks the second stage of a binding; answers 0 or a reason. `wanted` 0 is a zero-length read. */
  walk(binding: Binding, iovaPfn: number, wanted: Access, purpose: WalkPurpose = WalkPurpose.PAGE): number {
    if (!binding.scalable) return this.#legacy(binding, iovaPfn, wanted);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const reason = this.#scalable(binding, iovaPfn, wanted, purpose);
      if (reason !== AGAIN) return reason;
    }
    return FaultReason.SSS_6;
  }

  #legacy(binding: Binding, iovaPfn: number, wanted: Access): number {
    const reader = this.#reader;
    let level = binding.levels;
    let rights = 3;
    let at = reader.locate(binding.rootPfn, tableIndex(iovaPfn, level));
    if (at < 0) return FaultReason.LCT_4_3;
    while (at >= 0) {
      const { words } = reader;
      const low = words[at] as number;
      const high = words[at + 1] as number;
      rights &= low;
      const missing = this.#missing(rights, wanted);
      if (missing !== 0) return (missing & 2) !== 0 ? FaultReason.LGN_2 : FaultReason.LGN_3;
      if (this.#isReserved(level, low, high)) return FaultReason.LSS_2;
      if (level === 1 || isSecondStageLeaf(low)) {
        this.dirtyPending = false;
        return this.#found(entryFrame(low, high), low, iovaPfn, level, rights);
      }
      level -= 1;
      at = reader.follow(low, high, tableIndex(iovaPfn, level));
    }
    return FaultReason.LSS_1;
  }

  #scalable(binding: Binding, iovaPfn: number, wanted: Access, purpose: WalkPurpose): number {
    const reader = this.#reader;
    let tablePfn = binding.rootPfn;
    let rights = 3;
    for (let level = binding.levels; ; level--) {
      const index = tableIndex(iovaPfn, level);
      if (!reader.fetch(tablePfn, index)) return level === binding.levels ? FaultReason.SSS_4 : FaultReason.SSS_1;
      const { low, high } = reader;
      if ((low & 3) === 0) return FaultReason.SSS_2;
      if (this.#isReserved(level, low, high)) return FaultReason.SSS_3;
      rights &= low;
      if (rights === 0) return FaultReason.SSS_2;
      const missing = this.#missing(rights, wanted);
      if (missing !== 0) return (missing & 2) !== 0 ? FaultReason.SGN_6 : FaultReason.SGN_7;
      const leaf = level === 1 || isSecondStageLeaf(low);
      const frame = entryFrame(low, high);
      if (binding.secondStageFlags) {
        const dirty = leaf && (wanted & 2) !== 0 ? SECOND_STAGE_DIRTY : 0;
        const spared =
          leaf && purpose !== WalkPurpose.TABLE && this.#spares(frame + (iovaPfn % levelSpan(level)), purpose);
        const reason = this.#updateFlags(binding, tablePfn, index, SECOND_STAGE_ACCESSED | dirty, spared);
        if (reason !== 0) return reason;
      }
      if (leaf) {
        this.dirtyPending = binding.secondStageFlags && (wanted & 2) === 0 && (low & SECOND_STAGE_DIRTY) === 0;
        return this.#found(frame, low, iovaPfn, level, rights);
      }
      tablePfn = frame;
    }
  }

  /** Whether a leaf keeps its flags as they are: the request ends here, or this walk only finds out whether it does. */
  #spares(targetPfn: number, purpose: WalkPurpose): boolean {
    return purpose === WalkPurpose.PROBE || this.#filter.blocks(targetPfn);
  }

  #updateFlags(binding: Binding, tablePfn: number, index: number, flags: number, spared: boolean): number {
    const { low } = this.#reader;
    if ((low & flags) === flags) return 0;
    if (!binding.snooped) return FaultReason.SSS_5;
    if (spared) return 0;
    const outcome = this.#update(this.#memory, this.#reader, tablePfn, index, flags);
    if (outcome === "changed") return AGAIN;
    return outcome === "set" ? 0 : FaultReason.SSS_6;
  }

  #found(frame: number, low: number, iovaPfn: number, level: number, rights: number): number {
    const span = levelSpan(level);
    this.gpaPfn = frame + offsetInBlock(iovaPfn, span);
    this.pageCount = span;
    this.access = rights as Access;
    this.snooped = (low & SECOND_STAGE_SNOOP) !== 0;
    return 0;
  }

  #isReserved(level: number, low: number, high: number): boolean {
    const at = reservedIndex(level, low);
    return ((low & (this.#reserved[at] ?? 0)) | (high & (this.#reserved[at + 1] ?? 0))) !== 0;
  }

  /** Rights that are lacking for a request. A zero-length read needs R, or, where the unit allows it, any right. */
  #missing(rights: number, wanted: Access): number {
    if (wanted !== 0) return wanted & ~rights;
    if ((rights & 1) !== 0 || (this.#zeroLengthRead && (rights & 2) !== 0)) return 0;
    return 1;
  }
}

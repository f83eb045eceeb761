/**
 * The second-stage walk of one input page (§3.7, §4.4 order): 3, 4 or 5 levels, 2 MiB and 1 GiB pages.
 *
 * At each level: the entry is fetched once; a right that is asked for and missing, then reserved bits, then leaf or next table. Rights accumulate by AND.
 */

import type { Access, GuestMemory } from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { FaultReason } from "../spec/fault-reasons.js";
import { CAP } from "../spec/registers-capability.js";
import { isSecondStageLeaf, reservedIndex, secondStageFrame, secondStageReserved } from "../spec/second-stage.js";
import { EntryReader } from "./entry-reader.js";
import { levelSpan, tableIndex } from "./table-index.js";

/** Reasons of the two modes for the same conditions (§7.1.3). */
export interface WalkReasons {
  /** The first table cannot be read. */
  readonly topAccess: number;
  /** A lower table cannot be read. */
  readonly lowerAccess: number;
  readonly noWrite: number;
  readonly noRead: number;
  readonly reserved: number;
}

/** Reasons of legacy mode. */
export const LEGACY_REASONS: WalkReasons = {
  topAccess: FaultReason.LCT_4_3,
  lowerAccess: FaultReason.LSS_1,
  noWrite: FaultReason.LGN_2,
  noRead: FaultReason.LGN_3,
  reserved: FaultReason.LSS_2,
};

/** A walker with the result of its last walk. */
export class SecondStageWalk {
  /** Target frame of the requested page. */
  gpaPfn = 0;
  /** Rights along the walk. */
  access: Access = 0;
  /** Pages of the leaf. */
  pageCount = 1;
  readonly #reader: EntryReader;
  readonly #reserved: Int32Array;
  readonly #zeroLengthRead: boolean;

  constructor(memory: GuestMemory, capabilities: UnitCapabilities) {
    this.#reader = new EntryReader(memory);
    this.#reserved = secondStageReserved(capabilities, false);
    this.#zeroLengthRead = CAP.fields.ZLR.get(capabilities.cap, 0) === 1;
  }

  /** Walks; answers 0 or a reason. `wanted` 0 is a zero-length read. */
  walk(rootPfn: number, levels: number, iovaPfn: number, wanted: Access, reasons: WalkReasons): number {
    const reader = this.#reader;
    let tablePfn = rootPfn;
    let rights = 3;
    for (let level = levels; ; level--) {
      if (!reader.fetch(tablePfn, tableIndex(iovaPfn, level)))
        return level === levels ? reasons.topAccess : reasons.lowerAccess;
      const { low, high } = reader;
      const missing = this.#missing(low, wanted);
      if (missing !== 0) return (missing & 2) !== 0 ? reasons.noWrite : reasons.noRead;
      const at = reservedIndex(level, low);
      if (((low & (this.#reserved[at] ?? 0)) | (high & (this.#reserved[at + 1] ?? 0))) !== 0) return reasons.reserved;
      rights &= low;
      const frame = secondStageFrame(low, high);
      if (level === 1 || isSecondStageLeaf(low)) {
        const span = levelSpan(level);
        this.gpaPfn = frame + (iovaPfn % span);
        this.pageCount = span;
        this.access = rights as Access;
        return 0;
      }
      tablePfn = frame;
    }
  }

  /** Rights that an entry lacks for a request. A zero-length read needs R, or, where the unit allows it, any right. */
  #missing(low: number, wanted: Access): number {
    if (wanted !== 0) return wanted & ~low;
    if ((low & 1) !== 0 || (this.#zeroLengthRead && (low & 2) !== 0)) return 0;
    return 1;
  }
}

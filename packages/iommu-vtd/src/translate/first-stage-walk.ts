/**
 * The first-stage walk of one input page (§3.6), alone or nested in the second stage (§3.8).
 *
 * At each entry: access, present, reserved bits, address width (nested), user right, write right, then flags. Nested, every table access and the result go through the second
 * stage, and the result has the rights that both stages grant. Execute permission does not exist in this revision.
 */

import type { Access, GuestMemory } from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { FaultReason } from "../spec/fault-reasons.js";
import { FirstStageBits, firstStageFrame, firstStageReserved, firstStageReservedIndex } from "../spec/first-stage.js";
import type { Binding } from "./binding.js";
import { EntryReader } from "./entry-reader.js";
import { type FlagUpdate, setFlags } from "./flag-update.js";
import type { OutputFilter } from "./output-filter.js";
import { type SecondStageWalk, WalkPurpose } from "./second-stage-walk.js";
import { levelSpan, offsetInBlock, tableIndex } from "./table-index.js";

const ATTEMPTS = 8;
const AGAIN = -1;
const { PRESENT, WRITE, USER, ACCESSED, DIRTY, EXTENDED_ACCESSED, PAGE_SIZE } = FirstStageBits;

/** A leaf, and where its entry lies. */
interface Leaf {
  readonly hostPfn: number;
  readonly index: number;
  readonly frame: number;
  readonly span: number;
  readonly writable: boolean;
}

/** A walker with the result of its last walk. */
export class FirstStageWalk {
  /** Target frame of the requested page. */
  gpaPfn = 0;
  /** Rights of both stages. */
  access: Access = 0;
  /** Pages of the smaller leaf. */
  pageCount = 1;
  /** A dirty flag is still to be set by a write. */
  dirtyPending = false;
  /** Nested: the snoop bit of the second stage's leaf. */
  snooped = false;
  readonly #memory: GuestMemory;
  readonly #reader: EntryReader;
  readonly #reserved: Int32Array;
  readonly #second: SecondStageWalk;
  readonly #filter: OutputFilter;
  readonly #update: FlagUpdate;

  constructor(
    memory: GuestMemory,
    capabilities: UnitCapabilities,
    second: SecondStageWalk,
    filter: OutputFilter,
    update: FlagUpdate = setFlags,
  ) {
    this.#filter = filter;
    this.#update = update;
    this.#memory = memory;
    this.#reader = new EntryReader(memory);
    this.#reserved = firstStageReserved(capabilities);
    this.#second = second;
  }

  /** Walks; answers 0 or a reason. `wanted` 0 is a zero-length read. */
  walk(binding: Binding, iovaPfn: number, wanted: Access): number {
    if (!isCanonical(iovaPfn, binding.firstLevels)) return FaultReason.SGN_1;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const reason = this.#walkOnce(binding, iovaPfn, wanted);
      if (reason !== AGAIN) return reason;
    }
    return FaultReason.SFS_10;
  }

  #walkOnce(binding: Binding, iovaPfn: number, wanted: Access): number {
    const nested = binding.kind === "nested";
    const supervisor = binding.privileged;
    const reader = this.#reader;
    let tablePfn = binding.firstRootPfn;
    let writable = true;
    for (let level = binding.firstLevels; ; level--) {
      const top = level === binding.firstLevels;
      let hostPfn = tablePfn;
      if (nested) {
        const reason = this.#tableThroughSecondStage(binding, tablePfn, top);
        if (reason !== 0) return reason;
        hostPfn = this.#second.gpaPfn;
      }
      const index = tableIndex(iovaPfn, level);
      if (!reader.fetch(hostPfn, index)) return top ? FaultReason.SFS_4 : FaultReason.SFS_1;
      const { low, high } = reader;
      if ((low & PRESENT) === 0) return FaultReason.SFS_2;
      if (this.#isReserved(level, low, high)) return FaultReason.SFS_3;
      const leaf = level === 1 || (low & PAGE_SIZE) !== 0;
      const span = levelSpan(level);
      const frame = firstStageFrame(low, high, leaf ? span : 1);
      if (nested && frame >= binding.limitPfn) return FaultReason.SFS_5;
      if (!supervisor && (low & USER) === 0) return FaultReason.SGN_2;
      if ((low & WRITE) === 0 && (!supervisor || binding.writeProtect)) writable = false;
      if ((wanted & 2) !== 0 && !writable) return FaultReason.SGN_6;
      if (leaf) return this.#leaf(binding, { hostPfn, index, frame, span, writable }, iovaPfn, wanted);
      const flags = ACCESSED | (binding.extendedAccessed ? EXTENDED_ACCESSED : 0);
      const reason = this.#flagsRefused(binding, flags) || this.#setFlags(hostPfn, index, flags);
      if (reason !== 0) return reason;
      tablePfn = frame;
    }
  }

  /** Nested: a table's frame through the second stage. With SSADE the access counts as a write. */
  #tableThroughSecondStage(binding: Binding, tablePfn: number, top: boolean): number {
    const reason = this.#second.walk(binding, tablePfn, binding.secondStageFlags ? 3 : 1, WalkPurpose.TABLE);
    if (reason !== FaultReason.SGN_6 && reason !== FaultReason.SGN_7) return reason;
    return top ? FaultReason.SFS_6 : FaultReason.SFS_7;
  }

  /** Why flags that are to be set may not be; 0 if they may, or are set. Asked while the second stage's answer is the table's. */
  #flagsRefused(binding: Binding, flags: number): number {
    if ((this.#reader.low & flags) === flags) return 0;
    if (binding.kind === "nested" && (this.#second.access & 2) === 0) return FaultReason.SFS_8;
    return binding.snooped ? 0 : FaultReason.SFS_9;
  }

  #setFlags(tablePfn: number, index: number, flags: number): number {
    const { low } = this.#reader;
    if ((low & flags) === flags) return 0;
    const outcome = this.#update(this.#memory, this.#reader, tablePfn, index, flags);
    if (outcome === "changed") return AGAIN;
    return outcome === "set" ? 0 : FaultReason.SFS_10;
  }

  /** A leaf gets its flags, all at once, when the request succeeds (§3.6.2): after its target has been found, and before the second stage's leaf gets its own. */
  #leaf(binding: Binding, leaf: Leaf, iovaPfn: number, wanted: Access): number {
    const nested = binding.kind === "nested";
    const writes = (wanted & 2) !== 0;
    const { low } = this.#reader;
    const flags = ACCESSED | (writes ? DIRTY : 0) | (binding.extendedAccessed ? EXTENDED_ACCESSED : 0);
    const probes = nested && (low & flags) !== flags;
    const reason =
      this.#flagsRefused(binding, flags) ||
      this.#found(binding, leaf, iovaPfn, wanted, probes ? WalkPurpose.PROBE : WalkPurpose.PAGE);
    if (reason !== 0) return reason;
    this.dirtyPending = !writes && ((low & DIRTY) === 0 || (nested && this.#second.dirtyPending));
    if (this.#filter.blocks(this.gpaPfn)) return 0;
    return (
      this.#setFlags(leaf.hostPfn, leaf.index, flags) || (probes ? this.#found(binding, leaf, iovaPfn, wanted) : 0)
    );
  }

  #found(
    binding: Binding,
    leaf: Leaf,
    iovaPfn: number,
    wanted: Access,
    purpose: WalkPurpose = WalkPurpose.PAGE,
  ): number {
    const target = leaf.frame + offsetInBlock(iovaPfn, leaf.span);
    this.gpaPfn = target;
    this.pageCount = leaf.span;
    this.access = leaf.writable ? 3 : 1;
    this.snooped = false;
    if (binding.kind !== "nested") return 0;
    const reason = this.#second.walk(binding, target, wanted, purpose);
    if (reason !== 0) return reason;
    this.gpaPfn = this.#second.gpaPfn;
    this.pageCount = Math.min(leaf.span, this.#second.pageCount);
    this.access = (this.access & this.#second.access) as Access;
    this.snooped = this.#second.snooped;
    return 0;
  }

  #isReserved(level: number, low: number, high: number): boolean {
    const at = firstStageReservedIndex(level, low);
    return ((low & (this.#reserved[at] ?? 0)) | (high & (this.#reserved[at + 1] ?? 0))) !== 0;
  }
}

/** Whether an input is sign-extended from the top bit of its tables (bit 47 or 56), over the 64-bit space. */
function isCanonical(iovaPfn: number, levels: number): boolean {
  const half = levelSpan(levels) * 256;
  return iovaPfn < half || iovaPfn >= 2 ** 52 - half;
}

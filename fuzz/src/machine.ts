/**
 * A fuzzed machine: memory, unit, and beside it what the naive model needs to know: the pointers that are latched, the regions, and the history of memory.
 *
 * Every register write goes through `write`, which keeps the mirror in step and counts the work that the unit did meanwhile.
 */

import { type AddressSpace, type FrameRange, type MsiMessage, sourceId } from "@iommu-kit/iommu-core";
import { ManualScheduler } from "@iommu-kit/iommu-core/testing";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { type Consumer, WatchedNotifier } from "./consumers.js";
import { demand } from "./failure.js";
import { FuzzMemory } from "./fuzz-memory.js";
import { History } from "./history.js";
import { END_OF_STRUCTURES, Frames, RAM } from "./layout.js";
import type { Latched, Read } from "./model/facts.js";
import { NaiveMachine } from "./model/naive-machine.js";
import type { UnitPlan, Who } from "./step.js";

/** Entries that may be read beyond a slice: the table in hand, and the way down to it again. */
const ENTRY_SLACK = 64 * 512;
/** Calls beyond a slice: a leaf table in hand, each frame unmapped and mapped again, and what puts back the block that it cuts. */
const CALL_SLACK = 4 * 512;

/** Register offsets, as the architecture has them. */
export const Offset = {
  GCMD: 0x18,
  GSTS: 0x1c,
  RTADDR: 0x20,
  CCMD: 0x28,
  FSTS: 0x34,
  PMEN: 0x64,
  PLMBASE: 0x68,
  PLMLIMIT: 0x6c,
  PHMBASE: 0x70,
  PHMLIMIT: 0x78,
  IQH: 0x80,
  IQT: 0x88,
  IQA: 0x90,
  PQT: 0xc8,
  IVA: 0xf0,
  IOTLB: 0xf8,
  FRCD: 0x220,
} as const;

const TE = 0x8000_0000;
/** GCMD.SRTP, and GSTS.RTPS. */
export const SRTP = 0x4000_0000;

/** See the file's header. */
export class Machine {
  readonly plan: UnitPlan;
  readonly memory: FuzzMemory;
  readonly scheduler = new SliceScheduler(
    () => this.#beginSlice(),
    () => this.#checkSlice("a turn of the event loop"),
  );
  readonly unit: VtdIommu;
  readonly model: NaiveMachine;
  readonly history = new History();
  readonly consumers = new Map<number, Consumer>();
  /** Budget events since the last flush, by address space. */
  readonly overBudget = new Map<AddressSpace, string>();
  /** What the model believes to be latched. */
  latched: Latched = { enabled: false, mode: 0, rootPfn: 0, protected: [], regions: regionsOf(RAM) };
  /** Something changed while work was under way: the model cannot say what notifiers should hear until all is quiet. */
  unsettled = false;
  /** A structure changed that contexts may have been cached from. */
  contextsStale = false;
  /** What changed since the last request began, for units without caches. */
  requestHistory = new History();
  /** Messages that left the unit. */
  messages = 0;
  /** The last one. */
  lastMessage: MsiMessage | undefined;

  constructor(plan: UnitPlan) {
    this.plan = plan;
    this.memory = new FuzzMemory(plan.windows);
    this.model = new NaiveMachine(plan);
    this.memory.onChange = (gpa, old, byUnit) => this.#memoryChanges(gpa, old, byUnit);
    this.memory.onAmbush = () => {
      this.unsettled = true;
    };
    this.unit = new VtdIommu({
      memory: this.memory,
      msi: (message) => {
        this.messages += 1;
        this.lastMessage = message;
      },
      scheduler: this.scheduler,
      ...configOf(plan),
      limits: {
        ...plan.limits,
        bytesPerView: 2 ** 26,
        consumerDeadlineMilliseconds: 5000,
        leaseDeadlineMilliseconds: 1000,
      },
    });
    this.unit.events.on("budget", ({ space, budget }) => this.overBudget.set(space, budget));
  }

  /** Memory as the model reads it. */
  readonly read: Read = (gpa) => (gpa < 1n << 52n ? this.memory.peek(Number(gpa)) : undefined);

  space(who: Who): AddressSpace {
    const { source, pasid, privileged = false } = who;
    const id = sourceId(source >> 8, (source >> 3) & 31, source & 7);
    return this.unit.addressSpace(id, pasid === undefined ? {} : { pasid, privileged });
  }

  /** Something is about to happen: if work is under way, the model steps back until all is quiet. */
  begin(): void {
    if (this.scheduler.deferredCount > 0) this.unsettled = true;
  }

  /** A register write of the guest. */
  write(offset: number, bytes: 4 | 8, value: bigint): void {
    this.#mirror(offset, bytes, value);
    this.#beginSlice();
    if (bytes === 4) this.unit.mmio.write32(offset, Number(BigInt.asUintN(32, value)));
    else this.unit.mmio.write64(offset, BigInt.asUintN(64, value));
    this.#checkSlice(`write of ${value.toString(16)} to ${offset.toString(16)}`);
    if (this.plan.protectedRegions) this.reloadProtected();
  }

  read32(offset: number): number {
    return this.unit.mmio.read32(offset);
  }

  read64(offset: number): bigint {
    return this.unit.mmio.read64(offset);
  }

  /** Changes level bits of GCMD as drivers do: the others as GSTS says. */
  command(bit: number, on: boolean): void {
    const levels = (this.read32(Offset.GSTS) & 0x96ff_ffff) >>> 0;
    this.write(Offset.GCMD, 4, BigInt((on ? levels | bit : levels & ~bit) >>> 0));
  }

  /** Takes the protected regions from the registers when PMEN was acted on. */
  reloadProtected(force = false): void {
    const enabled = this.read32(Offset.PMEN) >>> 31 === 1;
    if (!force && enabled === this.#protecting) return;
    this.#protecting = enabled;
    this.unsettled = true;
    const regions: [number, number][] = [];
    const add = (base: bigint, limit: bigint): void => {
      const first = Number(base >> 21n) * 512;
      const end = (Number(limit >> 21n) + 1) * 512;
      if (enabled && end > first) regions.push([first, end - first]);
    };
    add(BigInt(this.read32(Offset.PLMBASE)), BigInt(this.read32(Offset.PLMLIMIT)));
    add(this.read64(Offset.PHMBASE), this.read64(Offset.PHMLIMIT));
    this.latched = { ...this.latched, protected: regions };
  }

  /** Reset: everything is off. */
  resetMirror(): void {
    this.latched = { ...this.latched, enabled: false, mode: 0, rootPfn: 0, protected: [] };
    this.#protecting = false;
    this.contextsStale = false;
  }

  /** The caches are known to be empty. */
  cachesAreClean(): void {
    this.history.clear();
    this.contextsStale = false;
  }

  #protecting = false;
  #named: Set<number> | undefined;

  /** Takes over what a write latches, before the unit acts on it: notifiers are called in the middle of the write. */
  #mirror(offset: number, bytes: 4 | 8, value: bigint): void {
    if (this.plan.protectedRegions && offset <= Offset.PMEN && offset + bytes > Offset.PMEN) this.unsettled = true;
    if (offset % 4 !== 0) return;
    if (offset !== Offset.GCMD && !(bytes === 8 && offset === Offset.GCMD - 4)) return;
    const command = Number(BigInt.asUintN(32, offset === Offset.GCMD ? value : value >> 32n));
    const enabled = (command & TE) !== 0;
    const latches = (command & SRTP) !== 0;
    const changes = enabled !== this.latched.enabled;
    if (latches && changes) this.unsettled = true;
    if (latches) {
      const root = this.read64(Offset.RTADDR);
      const rootPfn = Number((root >> 12n) % (1n << BigInt(this.plan.hostBits - 12)));
      this.latched = { ...this.latched, mode: Number((root >> 10n) & 3n), rootPfn };
    }
    if (changes) this.latched = { ...this.latched, enabled };
    // Latching and switching flush every cache.
    if (latches || changes) this.contextsStale = false;
  }

  #memoryChanges(gpa: number, old: bigint, byUnit: boolean): void {
    const structure = gpa < END_OF_STRUCTURES * 4096;
    const matters = !byUnit || structure;
    if (structure) this.#named = undefined;
    this.history.note(gpa, old, matters);
    this.requestHistory.note(gpa, old, matters);
    // Contexts may lie in any frame that a random pointer names: only edits known to be elsewhere leave them be.
    if (this.plan.caches > 0 && matters) this.contextsStale ||= structure || this.#mayHoldContexts(gpa);
    if (this.scheduler.deferredCount > 0) this.unsettled = true;
  }

  /** Whether a random pointer may have made contexts of this word: then nobody knows where contexts lie. */
  #mayHoldContexts(gpa: number): boolean {
    if (this.latched.rootPfn !== Frames.root || gpa < END_OF_STRUCTURES * 4096) return true;
    this.#named ??= this.#framesNamed();
    return this.#named.has(Math.floor(gpa / 4096));
  }

  /** Frames that root, context and directory entries point to. */
  #framesNamed(): Set<number> {
    const named = new Set<number>();
    for (const frame of [Frames.root, ...Frames.contexts, ...Frames.directories]) {
      for (let index = 0; index < 512; index++) {
        const word = this.memory.peek(frame * 4096 + index * 8) ?? 0n;
        if ((word & 1n) === 1n) named.add(Number(word >> 12n));
      }
    }
    return named;
  }

  #beginSlice(): void {
    for (const { notifier } of this.consumers.values()) if (notifier instanceof WatchedNotifier) notifier.resetCalls();
    this.memory.resetCounters();
  }

  #checkSlice(what: string): void {
    const { entriesPerSlice, mappingsPerSlice } = this.plan.limits;
    const { entries } = this.memory;
    demand(
      entries <= entriesPerSlice + ENTRY_SLACK,
      "slice",
      () => `${what}: ${entries} table entries read with ${entriesPerSlice} for a slice`,
    );
    for (const { notifier } of this.consumers.values()) {
      if (!(notifier instanceof WatchedNotifier)) continue;
      const most = mappingsPerSlice + CALL_SLACK;
      demand(
        notifier.callCount <= most,
        "slice",
        () => `${what}: ${notifier.callCount} calls of one notifier with ${mappingsPerSlice} mappings for a slice`,
      );
    }
  }
}

/** Checks the work of every deferred task. */
class SliceScheduler extends ManualScheduler {
  readonly #begin: () => void;
  readonly #end: () => void;

  constructor(begin: () => void, end: () => void) {
    super();
    this.#begin = begin;
    this.#end = end;
  }

  override defer(task: () => void): void {
    super.defer(() => {
      this.#begin();
      task();
      this.#end();
    });
  }
}

/** Pairs as the model has them. */
function regionsOf(ranges: readonly FrameRange[]): [number, number][] {
  return ranges.map(({ firstPfn, pageCount }) => [firstPfn, pageCount]);
}

function configOf(
  plan: UnitPlan,
): ConstructorParameters<typeof VtdIommu>[0] extends infer Options ? Omit<Options, "memory" | "msi"> : never {
  const common = {
    hostAddressWidth: plan.hostBits,
    maximumGuestAddressWidth: plan.guestBits,
    addressWidths: plan.widths,
    superpages: plan.superpages,
    snoopControl: plan.snoopControl,
    cachingMode: plan.cachingMode,
    zeroLengthRead: plan.zeroLengthRead,
    passThrough: plan.passThrough,
    deviceTlb: plan.deviceTlb,
    faultRecords: plan.faultRecords,
    protectedRegions: plan.protectedRegions ? (["low", "high"] as const) : [],
    iotlbEntries: plan.caches,
    contextEntries: plan.caches,
    interruptEntries: plan.caches,
  };
  if (plan.mode === "legacy") return common;
  return {
    ...common,
    scalableMode: true,
    firstStage: plan.fiveLevels ? ("5-level" as const) : ("4-level" as const),
    firstStage1G: plan.firstStage1G,
    nested: plan.nested,
    secondStageFlags: plan.secondStageFlags,
    extendedAccessed: plan.extendedAccessed,
    pasidWidth: plan.pasidBits,
    requestPasid: plan.requestPasid,
    requestPrivilege: plan.requestPrivilege,
    supervisorRequests: plan.supervisor,
    pageRequests: plan.pageRequests,
  };
}

/**
 * A guest with its driver: memory, a VT-d unit, and the register writes and table edits that an operating system would make, in its order.
 *
 * Builders hide plumbing, never inputs: what a test is about is an argument. Editing tables and telling the unit are two steps, as in a real guest.
 */

import {
  type AddressSpace,
  type AddressSpaceOptions,
  type Access,
  type FrameRange,
  type Limits,
  type MsiMessage,
  parseSourceId,
} from "@iommu-kit/iommu-core";
import { FakeMemory, ManualScheduler, PageTables } from "@iommu-kit/iommu-core/testing";
import type { VtdConfig } from "../config.js";
import { FRCD, FSTS } from "../spec/registers-event.js";
import { VtdIommu } from "../vtd-iommu.js";
import { FirstStageTables } from "./first-stage-tables.js";
import { FrameAllocator } from "./frame-allocator.js";
import { type GuestContext, GuestContexts, type GuestPasid, type GuestScalableContext } from "./guest-contexts.js";
import { GuestInterrupts } from "./guest-interrupts.js";
import { QueuedInvalidation, RegisterCommands } from "./guest-invalidate.js";
import { GuestQueue, type GuestQueueOptions } from "./guest-queue.js";

const GCMD = 0x18;
const GSTS = 0x1c;
const RTADDR = 0x20;
const FSTS_OFFSET = 0x34;
const IRTA = 0xb8;

/** Bits of GCMD and GSTS. */
export const Command = {
  TE: 0x8000_0000,
  SRTP: 0x4000_0000,
  WBF: 0x0800_0000,
  QIE: 0x0400_0000,
  IRE: 0x0200_0000,
  SIRTP: 0x0100_0000,
  CFI: 0x0080_0000,
} as const;

/** GSTS without the bits of one-shot commands: what a driver writes back (§11.4.4.1). */
const LEVELS = 0x96ff_ffff;

/** The guest's RAM and the unit's configuration. */
export interface GuestOptions extends VtdConfig {
  /** Default: 1 GiB from 0 on. The guest's structures live from 512 MiB on. */
  readonly ram?: readonly FrameRange[];
  /** Memory offers direct views of RAM. Default false. */
  readonly windows?: boolean;
  /** Memory says which frames change (`GuestMemory.generation`). Default false. */
  readonly generations?: boolean;
  /** See `VtdOptions.regions`: ascending and disjoint. Default: RAM. */
  readonly regions?: readonly FrameRange[];
  /** Budgets and deadlines that differ from the defaults, in the units that their names give. */
  readonly limits?: Partial<Limits>;
}

/** What `GuestDriver.map` writes. */
export interface GuestMapping {
  /** First input frame. */
  readonly iovaPfn: number;
  /** Default: one leaf. */
  readonly pageCount?: number;
  /** Target of the first frame. */
  readonly gpaPfn: number;
  /** Default: read and write. */
  readonly access?: Access;
  /** Pages of a leaf: 1 (default), 512 or 2^18. */
  readonly leafPages?: number;
}

/** A fault record as software reads it. */
export interface GuestFault {
  /** FR, 8 bits. */
  readonly reason: number;
  /** Bus, device and function in 16 bits. */
  readonly sourceId: number;
  /** FI as a page-frame number; of interrupt faults the index is in its bits 51:36. */
  readonly page: number;
  /** T1 and T2: 0 write, 1 page request, 2 read, 3 AtomicOp. */
  readonly type: number;
  /** `undefined`: a request without PASID. */
  readonly pasid: number | undefined;
  /** The request asked for supervisor privilege. */
  readonly privileged: boolean;
  /** The request asked to execute. */
  readonly execute: boolean;
}

/** Where the guest's structures start. */
const STRUCTURES_PFN = 0x20000;
/** Tables set aside for each second-stage tree. */
const TREE_TABLES = 0x800;
/** Frames at the start of the structures that are not trees. */
const SMALL_STRUCTURES = 0x1000;

/** A whole guest for tests: `new GuestDriver(options)`, `context` and `map` edit its tables, `start` does what a driver does at boot, `device` gives the address space of a device. */
export class GuestDriver {
  /** Guest memory. */
  readonly memory: FakeMemory;
  /** The host's scheduler, driven by the test. */
  readonly scheduler = new ManualScheduler();
  /** The unit that it drives. */
  readonly unit: VtdIommu;
  /** Every message that left the unit, oldest first. */
  readonly messages: MsiMessage[] = [];
  /** Root, context and PASID structures. */
  readonly contexts: GuestContexts;
  /** The interrupt remapping table. */
  readonly interrupts: GuestInterrupts;
  /** The invalidation queue. */
  readonly queue: GuestQueue;
  /** Through the queue. */
  readonly invalidate: QueuedInvalidation;
  /** Through CCMD and IOTLB. */
  readonly registers: RegisterCommands;
  readonly #frames: FrameAllocator;
  readonly #trees: FrameAllocator;
  readonly #domains = new Map<number, PageTables>();

  constructor(options: GuestOptions = {}) {
    const {
      ram = [{ firstPfn: 0, pageCount: 0x40000 }],
      windows = false,
      generations = false,
      regions,
      limits,
      ...config
    } = options;
    this.memory = new FakeMemory({ ram, windows, generations });
    this.#frames = new FrameAllocator(this.memory, STRUCTURES_PFN);
    this.#trees = new FrameAllocator(this.memory, STRUCTURES_PFN + SMALL_STRUCTURES);
    this.unit = new VtdIommu({
      ...config,
      memory: this.memory,
      scheduler: this.scheduler,
      msi: (message) => this.messages.push(message),
      ...(regions && { regions }),
      ...(limits && { limits }),
    });
    this.contexts = new GuestContexts(this.memory, this.#frames);
    this.interrupts = new GuestInterrupts(this.memory, this.#frames);
    this.queue = new GuestQueue(this.unit, this.memory, this.#frames);
    this.invalidate = new QueuedInvalidation(this.queue);
    this.registers = new RegisterCommands(this.unit);
  }

  /** What a device sees: its DMA and its attachments. */
  device(device: string, options: AddressSpaceOptions = {}): AddressSpace {
    return this.unit.addressSpace(parseSourceId(device), options);
  }

  /** The second-stage tables of a domain; made on first use, with 4 levels unless said otherwise. */
  tables(did: number, levels = 4): PageTables {
    let tables = this.#domains.get(did);
    if (tables === undefined) {
      tables = this.newTables(levels);
      this.#domains.set(did, tables);
    }
    return tables;
  }

  /** Second-stage tables that belong to no domain yet. */
  newTables(levels = 4): PageTables {
    return new PageTables(this.memory, { levels, firstTablePfn: this.#trees.reserve(TREE_TABLES) });
  }

  /** First-stage tables. */
  newFirstStageTables(levels = 4): FirstStageTables {
    return new FirstStageTables(this.memory, this.#frames, levels);
  }

  /** A zeroed frame of the guest. */
  newFrame(): number {
    return this.#frames.take();
  }

  /** Maps frames of a domain to consecutive targets; the unit is not told. */
  map(did: number, mapping: GuestMapping): void {
    const { iovaPfn, pageCount = mapping.leafPages ?? 1, gpaPfn, access = 3, leafPages = 1 } = mapping;
    this.tables(did).map(iovaPfn, pageCount, gpaPfn, access, leafPages);
  }

  /** Unmaps frames of a domain; the unit is not told. */
  unmap(did: number, iovaPfn: number, pageCount = 1): void {
    this.tables(did).unmap(iovaPfn, pageCount);
  }

  /** Writes a device's legacy context entry, with the domain's tables unless others are named; the unit is not told. */
  context(device: string, context: GuestContext): void {
    const { did, levels = 4, passThrough = false } = context;
    const rootPfn = context.rootPfn ?? (passThrough ? 0 : this.tables(did, levels).rootPfn);
    const depth = context.rootPfn !== undefined || passThrough ? levels : this.tables(did).levels;
    this.contexts.write(device, { ...context, levels: context.levels ?? depth, rootPfn });
  }

  /** Writes a device's scalable-mode context entry. */
  scalableContext(device: string, context: GuestScalableContext = {}): void {
    this.contexts.writeScalable(device, context);
  }

  /** Writes a PASID-table entry, with the domain's second-stage tables where it needs some and names none. */
  pasid(device: string, pasid: number, entry: GuestPasid): void {
    const withSecond = entry.type === "second-stage" || entry.type === "nested";
    const rootPfn = entry.rootPfn ?? (withSecond ? this.tables(entry.did).rootPfn : 0);
    this.contexts.writePasid(device, pasid, { ...entry, rootPfn });
  }

  /** Writes RTADDR and commands SRTP. `true`: RTPS says that it is done. */
  setRoot(mode: "legacy" | "scalable" | "reserved" | "abort" = "legacy"): boolean {
    const modes = { legacy: 0n, scalable: 1n, reserved: 2n, abort: 3n };
    const pfn = mode === "scalable" ? this.contexts.scalableRootPfn : this.contexts.rootPfn;
    this.unit.mmio.write64(RTADDR, BigInt(pfn) * 4096n + modes[mode] * 1024n);
    return this.command(Command.SRTP);
  }

  /** Commands TE. `true`: TES says that it is done. */
  enable(): boolean {
    return this.command(Command.TE);
  }

  /** Ends TE. `true`: TES says that it is done. */
  disable(): boolean {
    return this.command(Command.TE, false);
  }

  /** Sets up the queue and turns it on. */
  enableQueue(options: GuestQueueOptions = {}): boolean {
    this.queue.setUp(options);
    return this.command(Command.QIE);
  }

  /** Root pointer, queue, translation: what a driver does at boot. */
  start(mode: "legacy" | "scalable" = "legacy"): void {
    this.setRoot(mode);
    this.enableQueue({ wide: mode === "scalable" });
    this.enable();
  }

  /** Writes IRTA, latches it and turns interrupt remapping on. The table has 2^(`sizeOrder` + 1) entries. */
  enableInterruptRemapping(options: { readonly sizeOrder?: number; readonly extended?: boolean } = {}): void {
    const { sizeOrder = 7, extended = false } = options;
    const value = BigInt(this.interrupts.tablePfn) * 4096n + BigInt(sizeOrder) + (extended ? 0x800n : 0n);
    this.unit.mmio.write64(IRTA, value);
    this.command(Command.SIRTP);
    this.command(Command.IRE);
  }

  /** Changes one bit of GCMD as drivers do, the others as GSTS says. Answers whether GSTS shows it already. */
  command(bit: number, on = true): boolean {
    const levels = (this.status & LEVELS) >>> 0;
    this.unit.mmio.write32(GCMD, (on ? levels | bit : levels & ~bit) >>> 0);
    return ((this.status & bit) !== 0) === on;
  }

  /** GSTS. */
  get status(): number {
    return this.unit.mmio.read32(GSTS);
  }

  /** FSTS. */
  get faultStatus(): number {
    return this.unit.mmio.read32(FSTS_OFFSET);
  }

  /** The fault records with F set, from FRI on, in the order in which they were written; nothing is cleared. */
  faults(): GuestFault[] {
    const { faultRecords, faultRecordOffset } = this.unit.config;
    const first = FSTS.fields.FRI.get(Int32Array.of(this.faultStatus), 0);
    const found: GuestFault[] = [];
    for (let n = 0; n < faultRecords; n++) {
      const words = this.#record(faultRecordOffset + ((first + n) % faultRecords) * 16);
      if (FRCD.fields.F.get(words, 0) === 0) break;
      const get = (field: (typeof FRCD.fields)["FR"]): number => field.get(words, 0);
      const { FR, SID, FI, T1, T2, PP, PV, PRIV, EXE } = FRCD.fields;
      found.push({
        reason: get(FR),
        sourceId: get(SID),
        page: get(FI),
        type: get(T1) * 2 + get(T2),
        pasid: get(PP) === 1 ? get(PV) : undefined,
        privileged: get(PRIV) === 1,
        execute: get(EXE) === 1,
      });
    }
    return found;
  }

  /** Reads the fault records as `faults` does, clears them and the overflow bit. */
  takeFaults(): GuestFault[] {
    const found = this.faults();
    const { faultRecords, faultRecordOffset } = this.unit.config;
    for (let n = 0; n < faultRecords; n++) this.unit.mmio.write32(faultRecordOffset + n * 16 + 12, 0x8000_0000);
    this.unit.mmio.write32(FSTS_OFFSET, 1);
    return found;
  }

  #record(offsetBytes: number): Int32Array {
    return Int32Array.from([0, 4, 8, 12], (at) => this.unit.mmio.read32(offsetBytes + at) | 0);
  }
}

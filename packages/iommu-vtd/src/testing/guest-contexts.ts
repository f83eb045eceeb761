/**
 * Root, context and PASID structures of a test guest (§9.1 to §9.6): what a driver writes to say how a device's requests are translated.
 *
 * Entries are written to memory; the unit is not told. Legacy and scalable-mode structures have roots of their own.
 */

import { parseSourceId } from "@iommu-kit/iommu-core";
import type { FakeMemory } from "@iommu-kit/iommu-core/testing";
import { ContextEntry, ScalableContextEntry } from "../spec/context-entry.js";
import { PasidTranslationType, TranslationType } from "../spec/encodings.js";
import { PasidDirectoryEntry, PasidEntry } from "../spec/pasid.js";
import { RootEntry, ScalableRootEntry } from "../spec/root-entry.js";
import { type FrameAllocator, pokeWords } from "./frame-allocator.js";

/** Raw fields of a legacy context-entry. */
export type ContextFields = Parameters<typeof ContextEntry.pack>[0];
/** Raw fields of a scalable-mode context-entry. */
export type ScalableFields = Parameters<typeof ScalableContextEntry.pack>[0];
/** Raw fields of a PASID-table entry. */
export type PasidFields = Parameters<typeof PasidEntry.pack>[0];

/** A legacy context entry. */
export interface GuestContext {
  /** Domain-id, 0 to 2^16 - 1. */
  readonly did: number;
  /** Levels of the second-stage tables, 3 to 5; pass-through names them too. Default 4. */
  readonly levels?: number;
  /** First table. Required unless `passThrough`. */
  readonly rootPfn?: number;
  /** Requests pass untranslated. Default false. */
  readonly passThrough?: boolean;
  /** Default true. */
  readonly present?: boolean;
  /** Do not record faults. Default false. */
  readonly faultsDisabled?: boolean;
  /** Fields to write instead, by their names in the specification. */
  readonly fields?: ContextFields;
}

/** A scalable-mode context entry. Its PASID directory is made on first use. */
export interface GuestScalableContext {
  /** PASID of requests without PASID. Default 0. */
  readonly requestPasid?: number;
  /** Requests with PASID are allowed. Default false: a unit without PASIDs reserves the bit. */
  readonly pasids?: boolean;
  /** Other fields of the entry, by their mnemonics. */
  readonly fields?: ScalableFields;
}

/** A PASID-table entry. */
export interface GuestPasid {
  /** Domain-id, 0 to 2^16 - 1. */
  readonly did: number;
  /** Translation type, PGTT. */
  readonly type: "first-stage" | "second-stage" | "nested" | "pass-through";
  /** First table of the first stage. */
  readonly firstRootPfn?: number;
  /** First table of the second stage. */
  readonly rootPfn?: number;
  /** Levels of the second stage. Default 4. */
  readonly levels?: number;
  /** Other fields of the entry, by their mnemonics. */
  readonly fields?: PasidFields;
}

const TYPES = {
  "first-stage": PasidTranslationType.FIRST_STAGE,
  "second-stage": PasidTranslationType.SECOND_STAGE,
  nested: PasidTranslationType.NESTED,
  "pass-through": PasidTranslationType.PASS_THROUGH,
} as const;

/** Writes and edits the entries of devices, by name (`"00:03.0"`); tables on the way are made when they are needed. */
export class GuestContexts {
  /** Frame of the legacy root table. */
  readonly rootPfn: number;
  /** Frame of the scalable-mode root table. */
  readonly scalableRootPfn: number;
  readonly #memory: FakeMemory;
  readonly #frames: FrameAllocator;
  readonly #directories = new Map<number, number>();

  constructor(memory: FakeMemory, frames: FrameAllocator) {
    this.#memory = memory;
    this.#frames = frames;
    this.rootPfn = frames.take();
    this.scalableRootPfn = frames.take();
  }

  /** Byte address of a device's legacy root entry. */
  rootEntryGpa(device: string): number {
    return this.rootPfn * 4096 + (parseSourceId(device) >> 8) * 16;
  }

  /** Byte address of a device's legacy context entry; the context table is made as needed. */
  contextEntryGpa(device: string): number {
    const gpa = this.rootEntryGpa(device);
    const tablePfn = this.#tableBehind(gpa, (pfn) => RootEntry.pack({ P: 1, CTP: pfn }));
    return tablePfn * 4096 + (parseSourceId(device) & 0xff) * 16;
  }

  /** Writes a legacy context entry. */
  write(device: string, context: GuestContext): void {
    const { did, levels = 4, rootPfn = 0, passThrough = false } = context;
    const words = ContextEntry.pack({
      P: context.present === false ? 0 : 1,
      FPD: context.faultsDisabled === true ? 1 : 0,
      TT: passThrough ? TranslationType.PASS_THROUGH : TranslationType.UNTRANSLATED,
      SSPTPTR: passThrough ? 0 : rootPfn,
      AW: levels - 2,
      DID: did,
      ...context.fields,
    });
    pokeWords(this.#memory, this.contextEntryGpa(device), words);
  }

  /** Clears a legacy context entry. */
  clear(device: string): void {
    pokeWords(this.#memory, this.contextEntryGpa(device), new Int32Array(4));
  }

  /** Byte address of a device's scalable-mode root entry: its half for the device. */
  scalableRootEntryGpa(device: string): number {
    const sourceId = parseSourceId(device);
    return this.scalableRootPfn * 4096 + (sourceId >> 8) * 16 + ((sourceId & 0x80) === 0 ? 0 : 8);
  }

  /** Byte address of a device's scalable-mode context entry; the context table is made as needed. */
  scalableContextEntryGpa(device: string): number {
    const gpa = this.scalableRootEntryGpa(device);
    const tablePfn = this.#tableBehind(gpa, (pfn) => ScalableRootEntry.pack({ LP: 1, LCTP: pfn }).subarray(0, 2));
    return tablePfn * 4096 + (parseSourceId(device) & 0x7f) * 32;
  }

  /** Writes a scalable-mode context entry. */
  writeScalable(device: string, context: GuestScalableContext = {}): void {
    const { requestPasid = 0, pasids = false } = context;
    const words = ScalableContextEntry.pack({
      P: 1,
      PASIDE: pasids ? 1 : 0,
      PASIDDIRPTR: this.directoryPfn(device),
      RID_PASID: requestPasid,
      ...context.fields,
    });
    pokeWords(this.#memory, this.scalableContextEntryGpa(device), words);
  }

  /** Clears a scalable-mode context entry. */
  clearScalable(device: string): void {
    pokeWords(this.#memory, this.scalableContextEntryGpa(device), new Int32Array(8));
  }

  /** Frame of a device's PASID directory: one page, PASIDs below 2^15. */
  directoryPfn(device: string): number {
    const sourceId = parseSourceId(device);
    let pfn = this.#directories.get(sourceId);
    if (pfn === undefined) this.#directories.set(sourceId, (pfn = this.#frames.take()));
    return pfn;
  }

  /** Byte address of the directory entry for a PASID. */
  directoryEntryGpa(device: string, pasid: number): number {
    return this.directoryPfn(device) * 4096 + Math.floor(pasid / 64) * 8;
  }

  /** Byte address of the table entry for a PASID; the table is made as needed. */
  pasidEntryGpa(device: string, pasid: number): number {
    const gpa = this.directoryEntryGpa(device, pasid);
    const tablePfn = this.#tableBehind(gpa, (pfn) => PasidDirectoryEntry.pack({ P: 1, SMPTBLPTR: pfn }));
    return tablePfn * 4096 + (pasid % 64) * 64;
  }

  /** Writes a PASID-table entry. */
  writePasid(device: string, pasid: number, entry: GuestPasid): void {
    const { did, type, firstRootPfn = 0, rootPfn = 0, levels = 4 } = entry;
    const withSecond = type === "second-stage" || type === "nested";
    const words = PasidEntry.pack({
      P: 1,
      PGTT: TYPES[type],
      DID: did,
      AW: withSecond ? levels - 2 : 0,
      SSPTPTR: withSecond ? rootPfn : 0,
      FSPTPTR: firstRootPfn,
      ...(type === "pass-through" || type === "second-stage" ? {} : { PWSNP: 1 }),
      ...entry.fields,
    });
    pokeWords(this.#memory, this.pasidEntryGpa(device, pasid), words);
  }

  /** Clears a PASID-table entry. */
  clearPasid(device: string, pasid: number): void {
    pokeWords(this.#memory, this.pasidEntryGpa(device, pasid), new Int32Array(16));
  }

  #tableBehind(gpa: number, pack: (pfn: number) => Int32Array): number {
    const low = this.#memory.peek(gpa);
    if ((low & 1) !== 0) return (this.#memory.peek(gpa + 4) & 0xfffff) * 0x100000 + (low >>> 12);
    const pfn = this.#frames.take();
    pokeWords(this.#memory, gpa, pack(pfn));
    return pfn;
  }
}

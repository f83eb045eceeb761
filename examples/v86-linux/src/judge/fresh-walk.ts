/**
 * A second opinion: what a device may reach, read straight from the guest's tables with no cache in between.
 *
 * Shares no code with the unit. It knows what the 32-bit Linux driver uses - legacy root table, second-stage tables, pass-through - and nothing else.
 * Sections are those of the VT-d specification.
 */

import { Access, type GuestMemory, PAGE_BYTES } from "@iommu-kit/iommu-core";

/** Offsets and bits of the registers that say where to begin (§11.4.4, §11.4.5). */
const GLOBAL_COMMAND = 0x18;
const ROOT_TABLE_ADDRESS = 0x20;
const ENABLE_TRANSLATION = 0x80000000;
const SET_ROOT_TABLE = 0x40000000;

/** Context entry (§9.3): translation type in bits 3:2, address width in bits 66:64. */
const TYPE_PASS_THROUGH = 2;
const PRESENT = 1;
const LARGE_PAGE = 0x80;
const ENTRIES = 512;

/** Where a page goes: target frame and rights, or `undefined` for a page that the device cannot reach. */
export interface Reach {
  readonly gpaPfn: number;
  readonly access: Access;
}

/**
 * Walks the guest's tables afresh at every question.
 *
 * What the guest commands counts from the moment of the command, before the unit has carried it out: events that carry it out are judged by where they
 * lead. Hence it watches the writes, and does not ask the unit for its status.
 */
export class FreshWalk {
  readonly #memory: GuestMemory;
  readonly #entry = new Int32Array(2);
  readonly #context = new Int32Array(4);
  readonly #ramEndPfn: number;
  #enabled = false;
  #rootPfn = 0;
  #rootAddressLow = 0;
  #rootAddressHigh = 0;

  constructor(memory: GuestMemory) {
    this.#memory = memory;
    this.#ramEndPfn = memory.ram.reduce((end, range) => Math.max(end, range.firstPfn + range.pageCount), 0);
  }

  /** Pass it to the adapter: it is told of each register write before the unit is. */
  readonly onRegisterWrite = (offsetBytes: number, value: number): void => {
    if (offsetBytes === ROOT_TABLE_ADDRESS) this.#rootAddressLow = value;
    else if (offsetBytes === ROOT_TABLE_ADDRESS + 4) this.#rootAddressHigh = value;
    else if (offsetBytes === GLOBAL_COMMAND) {
      if ((value & SET_ROOT_TABLE) !== 0) this.#rootPfn = frameOf(this.#rootAddressLow, this.#rootAddressHigh);
      this.#enabled = (value & ENABLE_TRANSLATION) !== 0;
    }
  };

  /** Takes over what the guest had commanded before this object existed: after a restore. */
  assume(root: { readonly enabled: boolean; readonly rootPfn: number }): void {
    this.#enabled = root.enabled;
    this.#rootPfn = root.rootPfn;
    this.#rootAddressLow = (root.rootPfn * PAGE_BYTES) % 2 ** 32;
    this.#rootAddressHigh = Math.floor((root.rootPfn * PAGE_BYTES) / 2 ** 32);
  }

  /** What `sourceId` reaches at `iovaPfn` at this moment. */
  reach(sourceId: number, iovaPfn: number): Reach | undefined {
    if (!this.#enabled) return this.#identity(iovaPfn);
    const context = this.#fetchContext(sourceId);
    if (context === undefined) return undefined;
    const low = context[0] ?? 0;
    if (((low >>> 2) & 3) === TYPE_PASS_THROUGH) return this.#identity(iovaPfn);
    return this.#walk(frameOf(low, context[1] ?? 0), ((context[2] ?? 0) & 7) + 2, iovaPfn);
  }

  /** With no tables in between a device reaches RAM; what else is there was not announced. */
  #identity(iovaPfn: number): Reach | undefined {
    const isRam =
      iovaPfn < this.#ramEndPfn &&
      this.#memory.ram.some((range) => iovaPfn >= range.firstPfn && iovaPfn < range.firstPfn + range.pageCount);
    return isRam ? { gpaPfn: iovaPfn, access: Access.readWrite } : undefined;
  }

  #fetchContext(sourceId: number): Int32Array | undefined {
    const entry = this.#entry;
    if (!this.#memory.fetch(this.#rootPfn * PAGE_BYTES + Math.floor(sourceId / 256) * 16, entry)) return undefined;
    if (((entry[0] ?? 0) & PRESENT) === 0) return undefined;
    const context = this.#context;
    if (!this.#memory.fetch(frameOf(entry[0] ?? 0, entry[1] ?? 0) * PAGE_BYTES + (sourceId % 256) * 16, context))
      return undefined;
    return ((context[0] ?? 0) & PRESENT) === 0 ? undefined : context;
  }

  #walk(rootPfn: number, levels: number, iovaPfn: number): Reach | undefined {
    const entry = this.#entry;
    let tablePfn = rootPfn;
    let access = 3;
    if (iovaPfn >= ENTRIES ** levels) return undefined;
    for (let level = levels; level >= 1; level -= 1) {
      const framesPerEntry = ENTRIES ** (level - 1);
      const index = Math.floor(iovaPfn / framesPerEntry) % ENTRIES;
      if (!this.#memory.fetch(tablePfn * PAGE_BYTES + index * 8, entry)) return undefined;
      const low = entry[0] ?? 0;
      access &= low & 3;
      if (access === 0) return undefined;
      const pfn = frameOf(low, entry[1] ?? 0);
      if (level === 1 || (low & LARGE_PAGE) !== 0)
        return { gpaPfn: pfn + (iovaPfn % framesPerEntry), access: access as Access };
      tablePfn = pfn;
    }
    return undefined;
  }
}

/** Bits 51:12 of an entry or a register. */
function frameOf(low: number, high: number): number {
  return (low >>> 12) + (high & 0xfffff) * 2 ** 20;
}

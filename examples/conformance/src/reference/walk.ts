/**
 * Second-stage translation as the specification tells it, written to be obvious: 64-bit entries as bigint, nothing cached, nothing shared with the unit.
 *
 * Only what the oracles' units have: no device TLBs, no snoop control; in scalable mode no first stage, no flags and PASID 0 for requests without PASID
 * (§3.4.2, §3.4.3, §3.7, §9.1 to §9.6, §9.8; order of checks as in §7.1.3).
 */

import type { Header } from "../files/header.js";
import { field, has } from "../machine/unit-config.js";
import type { SparseMemory } from "../machine/sparse-memory.js";

/** RTADDR as latched: the root table and the mode. */
export interface Root {
  readonly pfn: number;
  readonly scalable: boolean;
}

/** RTADDR's words as a root. */
export function rootOf(low: number, high: number): Root {
  return { pfn: high * 2 ** 20 + (low >>> 12), scalable: ((low >>> 10) & 3) === 1 };
}

/** What a context-entry (with its PASID-table entry, in scalable mode) says, or why there is none. */
export type Context =
  | { readonly valid: false; readonly reason: number; readonly faultsDisabled: boolean }
  | {
      readonly valid: true;
      readonly scalable: boolean;
      readonly faultsDisabled: boolean;
      readonly domainId: number;
      readonly levels: number;
      readonly rootPfn: number;
    };

/** Levels of a pass-through context. */
export const PASS_THROUGH = 0;

/** Where a page goes: the whole block around it. */
export interface Block {
  readonly firstPfn: number;
  readonly pageCount: number;
  readonly gpaPfn: number;
  readonly access: number;
}

/** See the file's header. */
export class ReferenceWalk {
  readonly #memory: SparseMemory;
  readonly #header: Header;

  constructor(header: Header, memory: SparseMemory) {
    this.#header = header;
    this.#memory = memory;
  }

  get hostWidth(): number {
    return this.#header.hostAddressWidth;
  }

  context(base: Root, sourceId: number): Context {
    if (base.scalable) return this.#scalableContext(base.pfn, sourceId);
    const no = (reason: number): Context => ({ valid: false, reason, faultsDisabled: false });
    const root = this.#pair(base.pfn * 4096 + (sourceId >> 8) * 16);
    if (root === undefined) return no(0x08);
    if (!bit(root[0], 0)) return no(0x01);
    if (range(root[0], 11, 1) !== 0n || root[0] >> BigInt(this.hostWidth) !== 0n || root[1] !== 0n) return no(0x0a);
    const entry = this.#pair(this.#address(root[0]) + (sourceId & 255) * 16);
    if (entry === undefined) return no(0x09);
    return this.#decode(entry);
  }

  #decode([low, high]: readonly [bigint, bigint]): Context {
    const { cap, ecap } = this.#header;
    const faultsDisabled = bit(low, 1);
    const no = (reason: number): Context => ({ valid: false, reason, faultsDisabled });
    if (!bit(low, 0)) return no(0x02);
    const domainWidth = 4 + 2 * field(cap, 2, 0);
    const reserved =
      range(low, 11, 4) | (low >> BigInt(this.hostWidth)) | range(high, 7, 7) | (high >> BigInt(8 + domainWidth));
    if (reserved !== 0n) return no(0x0b);
    const type = Number(range(low, 3, 2));
    if (type === 1 || type === 3 || (type === 2 && !has(ecap, 6))) return no(0x03);
    const width = Number(range(high, 2, 0));
    if (width === 0 || width > 4 || !has(cap, 8 + width)) return no(0x03);
    const levels = type === 2 ? PASS_THROUGH : width + 2;
    return {
      valid: true,
      scalable: false,
      faultsDisabled,
      domainId: Number(range(high, 23, 8)),
      levels,
      rootPfn: this.#address(low) / 4096,
    };
  }

  /** Reserved bits are left to the unit's own tests: no recorded table has any. */
  #scalableContext(rootPfn: number, sourceId: number): Context {
    let faultsDisabled = false;
    const no = (reason: number): Context => ({ valid: false, reason, faultsDisabled });
    const half = this.#word(rootPfn * 4096 + (sourceId >> 8) * 16 + ((sourceId >> 7) & 1) * 8);
    if (half === undefined) return no(0x38);
    if (!bit(half, 0)) return no(0x39);
    const context = this.#word(this.#address(half) + (sourceId & 127) * 32);
    if (context === undefined) return no(0x40);
    faultsDisabled = bit(context, 1);
    if (!bit(context, 0)) return no(0x41);
    const directory = this.#word(this.#address(context));
    if (directory === undefined) return no(0x50);
    faultsDisabled ||= bit(directory, 1);
    if (!bit(directory, 0)) return no(0x51);
    const entry = this.#pair(this.#address(directory));
    if (entry === undefined) return no(0x58);
    faultsDisabled ||= bit(entry[0], 1);
    if (!bit(entry[0], 0)) return no(0x59);
    const type = Number(range(entry[0], 8, 6));
    if (type !== 2 && type !== 4) return no(0x5b);
    const levels = type === 4 ? PASS_THROUGH : Number(range(entry[0], 4, 2)) + 2;
    return {
      valid: true,
      scalable: true,
      faultsDisabled,
      domainId: Number(range(entry[1], 15, 0)),
      levels,
      rootPfn: this.#address(entry[0]) / 4096,
    };
  }

  /** The block that holds a page, or a reason. Legacy mode looks for the right asked for at every level, scalable mode (§3.7.1, SSS.2, SGN.6) in the end. */
  walk(
    context: { readonly scalable: boolean; readonly rootPfn: number; readonly levels: number },
    iovaPfn: number,
    access: number,
  ): Block | number {
    const { cap } = this.#header;
    const reasons = context.scalable ? SCALABLE : LEGACY;
    const limit = 2 ** (Math.min(9 * context.levels + 12, field(cap, 21, 16) + 1) - 12);
    if (iovaPfn >= limit) return reasons.width;
    const missing = access === 2 ? reasons.write : reasons.read;
    let table = context.rootPfn;
    let rights = 3;
    for (let level = context.levels; ; level--) {
      const pages = 512 ** (level - 1);
      const entry = this.#word(table * 4096 + (Math.floor(iovaPfn / pages) % 512) * 8);
      if (entry === undefined) return level === context.levels ? reasons.topTable : reasons.table;
      const here = Number(range(entry, 1, 0));
      if (here === 0) return context.scalable ? 0x79 : missing;
      if (!context.scalable && (here & access) !== access) return missing;
      const leaf =
        level === 1 || ((level === 2 || level === 3) && bit(entry, 7) && (field(cap, 37, 34) >> (level - 2)) % 2 === 1);
      if (this.#hasReserved(entry, level, leaf)) return reasons.reserved;
      rights &= here;
      if (rights === 0) return context.scalable ? 0x79 : missing;
      table = this.#address(entry) / 4096;
      if (!leaf) continue;
      if ((rights & access) !== access) return missing;
      return { firstPfn: iovaPfn - (iovaPfn % pages), pageCount: pages, gpaPfn: table, access: rights };
    }
  }

  #hasReserved(entry: bigint, level: number, leaf: boolean): boolean {
    const { ecap } = this.#header;
    const above = range(entry, 51, this.hostWidth) | range(entry, 62, 62);
    const snoop = leaf && has(ecap, 7) ? 0n : range(entry, 11, 11);
    const sizeBit = leaf || level === 1 ? 0n : range(entry, 7, 7);
    const low = leaf && level > 1 ? range(entry, 9 * level + 2, 12) : 0n;
    return (above | snoop | sizeBit | low) !== 0n;
  }

  #address(entry: bigint): number {
    return Number(range(entry, this.hostWidth - 1, 12)) * 4096;
  }

  #pair(gpa: number): readonly [bigint, bigint] | undefined {
    const low = this.#word(gpa);
    const high = this.#word(gpa + 8);
    return low === undefined || high === undefined ? undefined : [low, high];
  }

  #word(gpa: number): bigint | undefined {
    const words = new Int32Array(2);
    if (!this.#memory.fetch(gpa, words)) return undefined;
    return (BigInt((words[1] ?? 0) >>> 0) << 32n) | BigInt((words[0] ?? 0) >>> 0);
  }
}

const LEGACY = { width: 0x04, write: 0x05, read: 0x06, topTable: 0x03, table: 0x07, reserved: 0x0c };
const SCALABLE = { width: 0x84, write: 0x85, read: 0x86, topTable: 0x7b, table: 0x78, reserved: 0x7a };

function range(value: bigint, hi: number, lo: number): bigint {
  return hi < lo ? 0n : (value >> BigInt(lo)) & ((1n << BigInt(hi - lo + 1)) - 1n);
}

function bit(value: bigint, at: number): boolean {
  return range(value, at, at) === 1n;
}

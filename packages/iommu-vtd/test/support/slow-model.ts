/**
 * A second opinion on legacy-mode translation: bigint arithmetic on bytes, one entry at a time, nothing cached, no code of the package.
 *
 * It knows the facts of root-entries, context-entries and second-stage entries only: bit numbers are written out here once more, on purpose.
 */

import type { GuestMemory } from "@iommu-kit/iommu-core";

/** What of a unit's configuration matters. Widths are bits. */
export interface SlowUnit {
  readonly hostBits: number;
  readonly guestBits: number;
  readonly widths: readonly number[];
  readonly superpages: readonly string[];
  readonly passThrough: boolean;
  readonly snoop: boolean;
}

/** Where a request goes, or the fault code. */
export type SlowAnswer =
  | { readonly gpaPfn: number; readonly access: number; readonly passThrough?: boolean; readonly fault?: undefined }
  | { readonly fault: number; readonly faultsDisabled: boolean; readonly passThrough?: boolean };

/** A leaf, with rights along the walk. */
export interface SlowLeaf {
  readonly iovaPfn: number;
  readonly pageCount: number;
  readonly gpaPfn: number;
  readonly access: number;
}

const field = (value: bigint, hi: number, lo: number): bigint =>
  (value >> BigInt(lo)) & ((1n << BigInt(hi - lo + 1)) - 1n);
const bit = (value: bigint, at: number): boolean => field(value, at, at) === 1n;
const inWindow = (pfn: bigint): boolean => pfn >= 0xfee00n && pfn <= 0xfeeffn;

function load(memory: GuestMemory, gpa: bigint): bigint | undefined {
  const bytes = new Uint8Array(8);
  if (!memory.read(Number(gpa), bytes)) return undefined;
  return bytes.reduceRight((sum, byte) => sum * 256n + BigInt(byte), 0n);
}

interface Context {
  readonly passThrough: boolean;
  readonly rootGpa: bigint;
  readonly levels: number;
  readonly limitBits: number;
  readonly faultsDisabled: boolean;
}

function contextOf(
  memory: GuestMemory,
  unit: SlowUnit,
  rootPfn: number,
  sid: number,
): Context | { readonly fault: number; readonly faultsDisabled: boolean } {
  const no = (fault: number, faultsDisabled = false) => ({ fault, faultsDisabled });
  const rootGpa = BigInt(rootPfn) * 4096n + BigInt(sid >> 8) * 16n;
  const rootLow = load(memory, rootGpa);
  const rootHigh = load(memory, rootGpa + 8n);
  if (rootLow === undefined || rootHigh === undefined) return no(0x08);
  if (!bit(rootLow, 0)) return no(0x01);
  if (field(rootLow, 11, 1) !== 0n || rootLow >> BigInt(unit.hostBits) !== 0n || rootHigh !== 0n) return no(0x0a);
  const gpa = field(rootLow, 63, 12) * 4096n + BigInt(sid & 0xff) * 16n;
  const low = load(memory, gpa);
  const high = load(memory, gpa + 8n);
  if (low === undefined || high === undefined) return no(0x09);
  const disabled = bit(low, 1);
  if (!bit(low, 0)) return no(0x02, disabled);
  if (field(low, 11, 4) !== 0n || low >> BigInt(unit.hostBits) !== 0n) return no(0x0b, disabled);
  if (bit(high, 7) || field(high, 63, 24) !== 0n) return no(0x0b, disabled);
  const type = field(low, 3, 2);
  if (type === 1n || type === 3n || (type === 2n && !unit.passThrough)) return no(0x03, disabled);
  const width = 30 + 9 * Number(field(high, 2, 0));
  if (!unit.widths.includes(width)) return no(0x03, disabled);
  return {
    passThrough: type === 2n,
    rootGpa: field(low, 63, 12) * 4096n,
    levels: (width - 12) / 9,
    limitBits: Math.min(width, unit.guestBits),
    faultsDisabled: disabled,
  };
}

function reservedBits(unit: SlowUnit, entry: bigint, level: number): boolean {
  if (bit(entry, 62)) return true;
  if (unit.hostBits < 52 && field(entry, 51, unit.hostBits) !== 0n) return true;
  if (level >= 4 && bit(entry, 7)) return true;
  const leaf = level === 1 || bit(entry, 7);
  if (bit(entry, 11) && !(leaf && unit.snoop)) return true;
  if (level === 2 && leaf) return !unit.superpages.includes("2M") || field(entry, 20, 12) !== 0n;
  if (level === 3 && leaf) return !unit.superpages.includes("1G") || field(entry, 29, 12) !== 0n;
  return false;
}

/** Where an untranslated request without PASID goes. `access`: 1 read, 2 write, 3 both. */
export function slowTranslate(
  memory: GuestMemory,
  unit: SlowUnit,
  rootPfn: number,
  request: { readonly sid: number; readonly iovaPfn: number; readonly access: number },
): SlowAnswer {
  const context = contextOf(memory, unit, rootPfn, request.sid);
  if ("fault" in context) return context;
  const no = (fault: number): SlowAnswer => ({ fault, faultsDisabled: context.faultsDisabled });
  const pfn = BigInt(request.iovaPfn);
  if (context.passThrough) {
    if (pfn >> BigInt(unit.hostBits - 12) !== 0n) return no(0x04);
    return inWindow(pfn) ? no(0x0e) : { gpaPfn: request.iovaPfn, access: 3, passThrough: true };
  }
  if (pfn >> BigInt(context.limitBits - 12) !== 0n) return no(0x04);
  let tableGpa = context.rootGpa;
  let rights = 3;
  for (let level = context.levels; ; level--) {
    const index = (pfn >> BigInt(9 * (level - 1))) & 511n;
    const entry = load(memory, tableGpa + index * 8n);
    if (entry === undefined) return no(level === context.levels ? 0x03 : 0x07);
    if ((request.access & 2) !== 0 && !bit(entry, 1)) return no(0x05);
    if ((request.access & 1) !== 0 && !bit(entry, 0)) return no(0x06);
    if (reservedBits(unit, entry, level)) return no(0x0c);
    rights &= Number(entry & 3n);
    const target = field(entry, 51, 12);
    if (level > 1 && !bit(entry, 7)) {
      tableGpa = target * 4096n;
      continue;
    }
    const found = target + (pfn & ((1n << BigInt(9 * (level - 1))) - 1n));
    return inWindow(found) ? no(0x0e) : { gpaPfn: Number(found), access: rights };
  }
}

/** Every mapping of a device with its rights, ascending; what a device without PASID cannot reach is left out. */
export function slowMappings(memory: GuestMemory, unit: SlowUnit, rootPfn: number, sid: number): SlowLeaf[] {
  const context = contextOf(memory, unit, rootPfn, sid);
  const found: SlowLeaf[] = [];
  if ("fault" in context || context.passThrough) return found;
  const limit = 2n ** BigInt(context.limitBits - 12);
  const visit = (tableGpa: bigint, level: number, first: bigint, rights: number): void => {
    const span = 1n << BigInt(9 * (level - 1));
    for (let index = 0n; index < 512n && first + index * span < limit; index++) {
      const entry = load(memory, tableGpa + index * 8n);
      if (entry === undefined) continue;
      const left = rights & Number(entry & 3n);
      if (left === 0 || reservedBits(unit, entry, level)) continue;
      const at = first + index * span;
      const target = field(entry, 51, 12);
      if (level > 1 && !bit(entry, 7)) visit(target * 4096n, level - 1, at, left);
      else found.push(...aroundWindows(at, span, target, left));
    }
  };
  visit(context.rootGpa, context.levels, 0n, 3);
  return found;
}

/** Cuts what reaches into the interrupt window, at either side. */
function aroundWindows(iovaPfn: bigint, pageCount: bigint, gpaPfn: bigint, access: number): SlowLeaf[] {
  const leaves: SlowLeaf[] = [];
  const cuts = new Set([0n, pageCount]);
  for (const edge of [0xfee00n, 0xfef00n]) {
    for (const offset of [edge - iovaPfn, edge - gpaPfn]) if (offset > 0n && offset < pageCount) cuts.add(offset);
  }
  const sorted = [...cuts].sort((a, b) => (a < b ? -1 : 1));
  for (const [i, from] of sorted.entries()) {
    const to = sorted[i + 1];
    if (to === undefined || inWindow(iovaPfn + from) || inWindow(gpaPfn + from)) continue;
    leaves.push({
      iovaPfn: Number(iovaPfn + from),
      pageCount: Number(to - from),
      gpaPfn: Number(gpaPfn + from),
      access,
    });
  }
  return leaves;
}

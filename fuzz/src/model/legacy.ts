/**
 * Legacy mode, slow and obvious: root-entry, context-entry, second-stage walk of one page.
 */

import {
  bits,
  inWindow,
  type ModelContext,
  type ModelRequest,
  one,
  Refused,
  secondStageReserved,
  tooWide,
} from "./facts.js";

/** What a context-entry says. */
export interface LegacyContext {
  readonly passThrough: boolean;
  readonly rootGpa: bigint;
  readonly levels: number;
  /** Input frames at and above it are out of reach. */
  readonly limitPfn: bigint;
  readonly domainId: number;
  readonly faultsDisabled: boolean;
}

/** Looks a device up. `seen` hears of FPD as soon as it is known. */
export function legacyContext(
  { unit, read }: ModelContext,
  rootPfn: number,
  source: number,
  seen: (faultsDisabled: boolean) => void,
): LegacyContext {
  const rootGpa = BigInt(rootPfn) * 4096n + BigInt(source >> 8) * 16n;
  const rootLow = read(rootGpa);
  const rootHigh = read(rootGpa + 8n);
  if (rootLow === undefined || rootHigh === undefined) throw new Refused(0x08, false);
  if (!one(rootLow, 0)) throw new Refused(0x01, false);
  if (bits(rootLow, 11, 1) !== 0n || tooWide(rootLow, unit) || rootHigh !== 0n) throw new Refused(0x0a, false);
  const gpa = bits(rootLow, 63, 12) * 4096n + BigInt(source & 0xff) * 16n;
  const low = read(gpa);
  const high = read(gpa + 8n);
  if (low === undefined || high === undefined) throw new Refused(0x09, false);
  const faultsDisabled = one(low, 1);
  seen(faultsDisabled);
  if (!one(low, 0)) throw new Refused(0x02);
  if (bits(low, 11, 4) !== 0n || tooWide(low, unit)) throw new Refused(0x0b);
  if (one(high, 7) || bits(high, 63, 24) !== 0n) throw new Refused(0x0b);
  const type = bits(low, 3, 2);
  if (type === 3n || (type === 1n && !unit.deviceTlb) || (type === 2n && !unit.passThrough)) throw new Refused(0x03);
  const width = 30 + 9 * Number(bits(high, 2, 0));
  if (!unit.widths.some((offered) => offered === width)) throw new Refused(0x03);
  const passThrough = type === 2n;
  const limitBits = passThrough ? unit.hostBits : Math.min(width, unit.guestBits);
  return {
    passThrough,
    rootGpa: bits(low, 63, 12) * 4096n,
    levels: (width - 12) / 9,
    limitPfn: 1n << BigInt(limitBits - 12),
    domainId: Number(bits(high, 23, 8)),
    faultsDisabled,
  };
}

/** Where a request goes. */
export function legacyWalk(
  model: ModelContext,
  context: LegacyContext,
  request: ModelRequest,
): { readonly pfn: bigint; readonly access: number } {
  const { unit, read } = model;
  const { pfn, access } = request;
  if (pfn >= context.limitPfn) throw new Refused(0x04);
  if (context.passThrough) {
    if (inWindow(pfn)) throw new Refused(0x0e);
    return { pfn, access: 3 };
  }
  let table = context.rootGpa;
  let rights = 3n;
  for (let level = context.levels; ; level--) {
    const shift = BigInt(9 * (level - 1));
    const entry = read(table + ((pfn >> shift) & 511n) * 8n);
    if (entry === undefined) throw new Refused(level === context.levels ? 0x03 : 0x07);
    rights &= entry;
    if ((access & 2) !== 0 && !one(rights, 1)) throw new Refused(0x05);
    if ((access & 1) !== 0 && !one(rights, 0)) throw new Refused(0x06);
    if (access === 0 && !one(rights, 0) && !(unit.zeroLengthRead && one(rights, 1))) throw new Refused(0x06);
    const leaf = level === 1 || one(entry, 7);
    if (secondStageReserved(unit, entry, level, leaf)) throw new Refused(0x0c);
    const target = bits(entry, 51, 12);
    if (!leaf) {
      table = target * 4096n;
      continue;
    }
    const found = target + (pfn & ((1n << shift) - 1n));
    if (inWindow(found)) throw new Refused(0x0e);
    return { pfn: found, access: Number(rights) };
  }
}

/**
 * Scalable mode, slow and obvious: root half, context, PASID directory and entry, first-stage, second-stage and nested walks of one page.
 */

import {
  bits,
  firstStageReserved,
  inWindow,
  type ModelContext,
  type ModelRequest,
  one,
  Refused,
  secondStageReserved,
  tooWide,
} from "./facts.js";

/** What a PASID entry says. */
export interface PasidEntryFacts {
  /** 1 first-stage, 2 second-stage, 3 nested, 4 pass-through. */
  readonly type: number;
  readonly domainId: number;
  readonly pasid: number;
  /** Second-stage levels. */
  readonly levels: number;
  readonly limitBits: bigint;
  readonly flags: boolean;
  readonly second: bigint;
  readonly firstLevels: number;
  readonly writeProtect: boolean;
  readonly extended: boolean;
  readonly first: bigint;
  readonly snooped: boolean;
  readonly privileged: boolean;
}

type Found = { readonly pfn: bigint; readonly access: number };
/** Where flags are set: in entries on the way at once, in the leaf of the page that is asked for when the request succeeds. */
export interface Flags {
  readonly entry: (gpa: bigint, word: bigint) => void;
  readonly leaf: (gpa: bigint, word: bigint) => void;
}

/** Looks a requester up. `seen` hears of FPD as soon as it is known. */
export function scalableEntry(
  model: ModelContext,
  rootPfn: number,
  request: Pick<ModelRequest, "source" | "pasid" | "privileged">,
  seen: (faultsDisabled: boolean) => void,
): PasidEntryFacts {
  const { unit, read } = model;
  const [w0, w1] = contextWords(model, rootPfn, request.source, seen);
  const pasid = pasidOf(model, w0, w1, request.pasid);
  const privileged = request.pasid === undefined ? unit.requestPrivilege && one(w1, 20) : request.privileged;
  const directory = read(bits(w0, 63, 12) * 4096n + (pasid >> 6n) * 8n);
  if (directory === undefined) throw new Refused(0x50, false);
  seen(one(directory, 1));
  if (!one(directory, 0)) throw new Refused(0x51);
  if (bits(directory, 11, 2) !== 0n || tooWide(directory, unit)) throw new Refused(0x52);
  const at = bits(directory, 63, 12) * 4096n + (pasid & 63n) * 64n;
  const words = Array.from({ length: 8 }, (_, index) => read(at + BigInt(index) * 8n));
  if (words.includes(undefined)) throw new Refused(0x58, false);
  const q = words as bigint[];
  seen(one(q[0] ?? 0n, 1));
  if (!one(q[0] ?? 0n, 0)) throw new Refused(0x59);
  if (entryReserved(model, q)) throw new Refused(0x5a);
  return decode(model, q, Number(pasid), privileged);
}

/** Where a request goes. */
export function scalableWalk(model: ModelContext, entry: PasidEntryFacts, request: ModelRequest, set: Flags): Found {
  const { pfn, access } = request;
  let found: Found;
  if (entry.type === 4) {
    if (pfn >> BigInt(model.unit.hostBits - 12) !== 0n) throw new Refused(0x83);
    found = { pfn, access: 3 };
  } else if (entry.type === 2) {
    if (pfn >> (entry.limitBits - 12n) !== 0n) throw new Refused(0x84);
    found = secondStage(model, entry, pfn, access, set);
  } else {
    found = firstStage(model, entry, request, set);
  }
  if (inWindow(found.pfn)) throw new Refused(0x87);
  return found;
}

/** The second-stage walk of one frame. The rights are those of the whole path. */
export function secondStage(
  model: ModelContext,
  entry: PasidEntryFacts,
  pfn: bigint,
  wanted: number,
  set: Flags,
): Found {
  const { unit, read } = model;
  let table = entry.second;
  let rights = 3n;
  for (let level = entry.levels; ; level--) {
    const shift = BigInt(9 * (level - 1));
    const at = table + ((pfn >> shift) & 511n) * 8n;
    const value = read(at);
    if (value === undefined) throw new Refused(level === entry.levels ? 0x7b : 0x78);
    if ((value & 3n) === 0n) throw new Refused(0x79);
    const leaf = level === 1 || one(value, 7);
    if (secondStageReserved(unit, value, level, leaf)) throw new Refused(0x7a);
    rights &= value;
    if (rights === 0n) throw new Refused(0x79);
    if ((wanted & 2) !== 0 && !one(rights, 1)) throw new Refused(0x85);
    if ((wanted & 1) !== 0 && !one(rights, 0)) throw new Refused(0x86);
    if (wanted === 0 && !one(rights, 0) && !unit.zeroLengthRead) throw new Refused(0x86);
    if (entry.flags)
      setFlags(model, entry, { at, value, flags: leaf && (wanted & 2) !== 0 ? 0x300n : 0x100n, leaf }, 0x7c, set);
    const frame = bits(value, 51, 12);
    if (leaf) return { pfn: frame + (pfn & ((1n << shift) - 1n)), access: Number(rights) };
    table = frame * 4096n;
  }
}

/** Sets flags that are not set; where table accesses are not snooped that is refused. */
function setFlags(
  model: ModelContext,
  entry: PasidEntryFacts,
  word: { readonly at: bigint; readonly value: bigint; readonly flags: bigint; readonly leaf: boolean },
  refusal: number,
  set: Flags,
): void {
  const { at, value, flags, leaf } = word;
  if (!model.flags || (value & flags) === flags) return;
  if (!entry.snooped) throw new Refused(refusal);
  (leaf ? set.leaf : set.entry)(at, value | flags);
}

function contextWords(
  { unit, read }: ModelContext,
  rootPfn: number,
  source: number,
  seen: (faultsDisabled: boolean) => void,
): readonly [bigint, bigint] {
  const half = read(BigInt(rootPfn) * 4096n + BigInt(source >> 8) * 16n + ((source & 0x80) === 0 ? 0n : 8n));
  if (half === undefined) throw new Refused(0x38, false);
  if (!one(half, 0)) throw new Refused(0x39, false);
  if (bits(half, 11, 1) !== 0n || tooWide(half, unit)) throw new Refused(0x3a, false);
  const at = bits(half, 63, 12) * 4096n + BigInt(source & 0x7f) * 32n;
  const words = [0n, 8n, 16n, 24n].map((offset) => read(at + offset));
  if (words.includes(undefined)) throw new Refused(0x40, false);
  const [w0 = 0n, w1 = 0n, w2 = 0n, w3 = 0n] = words as bigint[];
  seen(one(w0, 1));
  if (!one(w0, 0)) throw new Refused(0x41);
  let reserved = bits(w0, 8, 7) !== 0n || tooWide(w0, unit) || w2 !== 0n || w3 !== 0n || w1 >> 21n !== 0n;
  reserved ||= one(w0, 5) || one(w0, 6);
  reserved ||= one(w0, 2) && !unit.deviceTlb;
  reserved ||= one(w0, 4) && !unit.pageRequests;
  reserved ||= bits(w1, 19, 0) !== 0n && !unit.requestPasid;
  reserved ||= one(w1, 20) && !unit.requestPrivilege;
  if (reserved) throw new Refused(0x42);
  if (one(w0, 4) && !one(w0, 2)) throw new Refused(0x43);
  if (bits(w1, 19, 0) >= pasidCount(w0)) throw new Refused(0x43);
  return [w0, w1];
}

function pasidCount(w0: bigint): bigint {
  return 1n << (bits(w0, 11, 9) + 13n);
}

function pasidOf({ unit }: ModelContext, w0: bigint, w1: bigint, asked: number | undefined): bigint {
  const own = bits(w1, 19, 0);
  if (asked === undefined) return own;
  const pasid = BigInt(asked);
  if (!one(w0, 3)) throw new Refused(0x45);
  if (pasid >> BigInt(unit.pasidBits) !== 0n) throw new Refused(0x89);
  if (pasid >= pasidCount(w0)) throw new Refused(0x46);
  if (pasid === own) throw new Refused(0x48);
  return pasid;
}

function entryReserved({ unit }: ModelContext, q: readonly bigint[]): boolean {
  const [q0 = 0n, q1 = 0n, q2 = 0n] = q;
  let reserved = one(q0, 5) || bits(q0, 11, 10) !== 0n || tooWide(q0, unit);
  reserved ||= bits(q1, 22, 16) !== 0n || bits(q1, 63, 25) !== 0n;
  reserved ||= one(q1, 24) && !unit.snoopControl;
  reserved ||= one(q0, 9) && !unit.secondStageFlags;
  reserved ||= one(q2, 0) && !unit.supervisor;
  reserved ||= one(q2, 1) || bits(q2, 11, 8) !== 0n || tooWide(q2, unit);
  reserved ||= one(q2, 7) && !unit.extendedAccessed;
  return reserved || q.slice(3).some((word) => word !== 0n);
}

function decode({ unit }: ModelContext, q: readonly bigint[], pasid: number, privileged: boolean): PasidEntryFacts {
  const [q0 = 0n, q1 = 0n, q2 = 0n] = q;
  const type = Number(bits(q0, 8, 6));
  const width = 30 + 9 * Number(bits(q0, 4, 2));
  const mode = bits(q2, 3, 2);
  const withSecond = type === 2 || type === 3;
  if (type === 0 || type > 4 || (type === 3 && !unit.nested) || (type === 4 && !unit.passThrough))
    throw new Refused(0x5b);
  if (withSecond && !unit.widths.some((offered) => offered === width)) throw new Refused(0x5b);
  if ((type === 1 || type === 3) && (mode > 1n || (mode === 1n && !unit.fiveLevels))) throw new Refused(0x5b);
  const limitBits = BigInt(Math.min(width, unit.guestBits));
  const first = bits(q2, 63, 12) * 4096n;
  if (type === 3 && first >> limitBits !== 0n) throw new Refused(0x5b);
  if (privileged && !one(q2, 0)) throw new Refused(0x5d);
  return {
    type,
    domainId: Number(bits(q1, 15, 0)),
    pasid,
    levels: (width - 12) / 9,
    limitBits,
    flags: one(q0, 9) && withSecond,
    second: bits(q0, 63, 12) * 4096n,
    firstLevels: mode === 1n ? 5 : 4,
    writeProtect: one(q2, 4),
    extended: one(q2, 7),
    first,
    snooped: one(q1, 23),
    privileged,
  };
}

function firstStage(model: ModelContext, entry: PasidEntryFacts, request: ModelRequest, set: Flags): Found {
  const { unit, read } = model;
  const { pfn, access } = request;
  const sign = BigInt(9 * entry.firstLevels - 1);
  const top = pfn >> sign;
  if (top !== 0n && top !== (1n << (52n - sign)) - 1n) throw new Refused(0x80);
  const nested = entry.type === 3;
  let table = entry.first;
  let writable = true;
  for (let level = entry.firstLevels; ; level--) {
    const isTop = level === entry.firstLevels;
    const host = nested ? tableThrough(model, entry, table, isTop, set) : { gpa: table, access: 3 };
    const shift = BigInt(9 * (level - 1));
    const at = host.gpa + ((pfn >> shift) & 511n) * 8n;
    const value = read(at);
    if (value === undefined) throw new Refused(isTop ? 0x73 : 0x70);
    if (!one(value, 0)) throw new Refused(0x71);
    const leaf = level === 1 || one(value, 7);
    if (firstStageReserved(unit, value, level)) throw new Refused(0x72);
    const frame = bits(value, 51, 12) & ~(leaf ? (1n << shift) - 1n : 0n);
    if (nested && frame >> (entry.limitBits - 12n) !== 0n) throw new Refused(0x74);
    if (!entry.privileged && !one(value, 2)) throw new Refused(0x81);
    if (!one(value, 1) && (!entry.privileged || entry.writeProtect)) writable = false;
    if ((access & 2) !== 0 && !writable) throw new Refused(0x85);
    const flags = 0x20n | (entry.extended ? 0x400n : 0n) | (leaf && (access & 2) !== 0 ? 0x40n : 0n);
    if (model.flags && (value & flags) !== flags && nested && (host.access & 2) === 0) throw new Refused(0x77);
    setFlags(model, entry, { at, value, flags, leaf }, 0x90, set);
    if (!leaf) {
      table = frame * 4096n;
      continue;
    }
    const guest = frame + (pfn & ((1n << shift) - 1n));
    const rights = writable ? 3 : 1;
    if (!nested) return { pfn: guest, access: rights };
    const through = secondStage(model, entry, guest, access, set);
    return { pfn: through.pfn, access: rights & through.access };
  }
}

function tableThrough(
  model: ModelContext,
  entry: PasidEntryFacts,
  table: bigint,
  isTop: boolean,
  set: Flags,
): { readonly gpa: bigint; readonly access: number } {
  try {
    // The page of a table is accessed whatever becomes of the request.
    const found = secondStage(model, entry, table >> 12n, entry.flags ? 3 : 1, { entry: set.entry, leaf: set.entry });
    return { gpa: found.pfn * 4096n, access: found.access };
  } catch (error) {
    if (error instanceof Refused && (error.code === 0x85 || error.code === 0x86))
      throw new Refused(isTop ? 0x75 : 0x76);
    throw error;
  }
}

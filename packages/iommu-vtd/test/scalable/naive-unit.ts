/**
 * A slow and obvious model of scalable-mode translation, written from the architecture's tables with bigints and sharing nothing with the unit.
 * It reads and writes a copy of guest memory, so accessed and dirty flags can be compared as well.
 */

export interface ModelConfig {
  readonly majorVersion: number;
  readonly hostBits: bigint;
  readonly guestBits: bigint;
  /** Second-stage widths offered. */
  readonly widths: readonly number[];
  readonly fiveLevels: boolean;
  readonly firstStage1G: boolean;
  readonly secondStage2M: boolean;
  readonly secondStage1G: boolean;
  readonly snoopControl: boolean;
  readonly nested: boolean;
  readonly pasidBits: bigint;
  readonly requestPasid: boolean;
  readonly requestPrivilege: boolean;
  readonly supervisor: boolean;
  readonly secondStageFlags: boolean;
  readonly extendedAccessed: boolean;
  readonly coherency: boolean;
  readonly deviceTlb: boolean;
  readonly pageRequests: boolean;
  readonly zeroLengthRead: boolean;
}

export interface ModelRequest {
  readonly sourceId: number;
  readonly pasid: number | undefined;
  readonly privileged: boolean;
  readonly execute: boolean;
  readonly address: bigint;
  /** 0: zero-length read. */
  readonly access: number;
}

export interface ModelAnswer {
  /** Architected code, 0: translated. */
  readonly code: number;
  readonly recorded: boolean;
  readonly gpa: bigint;
  readonly access: number;
  /** Pages of the block around the request for which the answer holds: the smaller leaf, cut down where not all of it is memory. */
  readonly pages: number;
}

/** Where a request goes, before the last checks. */
interface Found {
  readonly gpa: bigint;
  readonly access: number;
  readonly pages: number;
}

const bits = (value: bigint, hi: number, lo: number): bigint =>
  (value >> BigInt(lo)) & ((1n << BigInt(hi - lo + 1)) - 1n);
const one = (value: bigint, at: number): boolean => bits(value, at, at) === 1n;

class Refused extends Error {
  readonly code: number;
  readonly qualified: boolean;

  constructor(code: number, qualified = true) {
    super();
    this.code = code;
    this.qualified = qualified;
  }
}

/** What the model remembers of a PASID entry. */
interface Entry {
  readonly type: bigint;
  readonly aw: bigint;
  readonly flags: boolean;
  readonly second: bigint;
  readonly supervisorOk: boolean;
  readonly mode: bigint;
  readonly writeProtect: boolean;
  readonly extended: boolean;
  readonly first: bigint;
  readonly snooped: boolean;
}

export class NaiveUnit {
  readonly #config: ModelConfig;
  readonly #memory: DataView;
  #disabled = false;
  /** Flags of leaves that a request sets when it succeeds: where, and which. */
  #leafFlags: (readonly [bigint, bigint])[] = [];
  /** How the last request was to be translated, for statistics: type, levels of both stages, privilege. */
  kind = "none";

  constructor(config: ModelConfig, memory: ArrayBuffer) {
    this.#config = config;
    this.#memory = new DataView(memory);
  }

  translate(rootAddress: bigint, request: ModelRequest): ModelAnswer {
    this.#disabled = false;
    this.#leafFlags = [];
    this.kind = "none";
    try {
      const { gpa, access, pages } = this.#translate(rootAddress, request);
      for (const [at, flags] of this.#leafFlags) this.#write(at, (this.#read(at) ?? 0n) | flags);
      return { code: 0, recorded: false, gpa, access, pages: wholeBlock(request, gpa, pages) };
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      return { code: error.code, recorded: !(error.qualified && this.#disabled), gpa: 0n, access: 0, pages: 0 };
    }
  }

  #translate(rootAddress: bigint, request: ModelRequest): Found {
    if (request.execute && this.#config.majorVersion >= 8) throw new Refused(0x34, false);
    const context = this.#context(rootAddress, request.sourceId);
    const pasid = this.#pasid(context, request);
    const privileged =
      request.pasid === undefined ? this.#config.requestPrivilege && one(context[1], 84 - 64) : request.privileged;
    const entry = this.#entry(context, pasid);
    this.kind = kindOf(entry, privileged);
    if (request.execute) throw new Refused(0x5c);
    if (privileged && !entry.supervisorOk) throw new Refused(0x5d);
    const page = request.address >> 12n;
    let found: Found;
    if (entry.type === 4n) {
      if (request.address >> this.#config.hostBits !== 0n) throw new Refused(0x83);
      // What passes through is answered in the largest block of a page size that does not hold the window.
      const pages = [2 ** 18, 512].find((count) => !holdsWindow(request.address, count)) ?? 1;
      found = { gpa: page << 12n, access: 3, pages };
    } else if (entry.type === 2n) {
      const limit = this.#limitBits(entry);
      if (request.address >> limit !== 0n) throw new Refused(0x84);
      found = this.#secondStage(entry, page << 12n, request.access, true);
    } else {
      found = this.#firstStage(entry, request, privileged);
    }
    if (found.gpa >= 0xfee00000n && found.gpa < 0xfef00000n) throw new Refused(0x87);
    return found;
  }

  #context(rootAddress: bigint, sourceId: number): [bigint, bigint] {
    const bus = BigInt(sourceId >> 8);
    const upper = (sourceId & 0x80) !== 0;
    const half = this.#read(rootAddress + bus * 16n + (upper ? 8n : 0n));
    // The whole 16-byte entry is fetched at once.
    if (half === undefined) throw new Refused(0x38, false);
    if (!one(half, 0)) throw new Refused(0x39, false);
    if (bits(half, 11, 1) !== 0n || this.#tooWide(half)) throw new Refused(0x3a, false);
    const at = (bits(half, 63, 12) << 12n) + BigInt(sourceId & 0x7f) * 32n;
    const words = [0n, 8n, 16n, 24n].map((offset) => this.#read(at + offset));
    if (words.includes(undefined)) throw new Refused(0x40, false);
    const [w0 = 0n, w1 = 0n, w2 = 0n, w3 = 0n] = words as bigint[];
    this.#disabled ||= one(w0, 1);
    if (!one(w0, 0)) throw new Refused(0x41);
    const { deviceTlb, pageRequests, requestPasid, requestPrivilege } = this.#config;
    let reserved = bits(w0, 8, 7) !== 0n || this.#tooWide(w0) || w2 !== 0n || w3 !== 0n || w1 >> 21n !== 0n;
    reserved ||= one(w0, 5) || one(w0, 6);
    reserved ||= one(w0, 2) && !deviceTlb;
    reserved ||= one(w0, 4) && !pageRequests;
    reserved ||= bits(w1, 19, 0) !== 0n && !requestPasid;
    reserved ||= one(w1, 20) && !requestPrivilege;
    if (reserved) throw new Refused(0x42);
    if (one(w0, 4) && !one(w0, 2)) throw new Refused(0x43);
    if (bits(w1, 19, 0) >= this.#pasidsOf(w0)) throw new Refused(0x43);
    return [w0, w1];
  }

  #pasidsOf(w0: bigint): bigint {
    return 1n << (bits(w0, 11, 9) + 13n);
  }

  #pasid([w0, w1]: [bigint, bigint], request: ModelRequest): bigint {
    const own = bits(w1, 19, 0);
    if (request.pasid === undefined) return own;
    const pasid = BigInt(request.pasid);
    if (!one(w0, 3)) throw new Refused(0x45);
    if (pasid >> this.#config.pasidBits !== 0n) throw new Refused(0x89);
    if (pasid >= this.#pasidsOf(w0)) throw new Refused(0x46);
    if (pasid === own) throw new Refused(0x48);
    return pasid;
  }

  #entry([w0]: [bigint, bigint], pasid: bigint): Entry {
    const directory = this.#read((bits(w0, 63, 12) << 12n) + (pasid >> 6n) * 8n);
    if (directory === undefined) throw new Refused(0x50, false);
    this.#disabled ||= one(directory, 1);
    if (!one(directory, 0)) throw new Refused(0x51);
    if (bits(directory, 11, 2) !== 0n || this.#tooWide(directory)) throw new Refused(0x52);
    const at = (bits(directory, 63, 12) << 12n) + (pasid & 63n) * 64n;
    const words = Array.from({ length: 8 }, (_, index) => this.#read(at + BigInt(index) * 8n));
    if (words.includes(undefined)) throw new Refused(0x58, false);
    const q = words as bigint[];
    this.#disabled ||= one(q[0] ?? 0n, 1);
    if (!one(q[0] ?? 0n, 0)) throw new Refused(0x59);
    this.#checkEntry(q);
    return this.#decode(q);
  }

  #checkEntry(q: readonly bigint[]): void {
    const [q0 = 0n, q1 = 0n, q2 = 0n] = q;
    const { snoopControl, supervisor, extendedAccessed, secondStageFlags, coherency } = this.#config;
    let reserved = one(q0, 5) || bits(q0, 11, 10) !== 0n || this.#tooWide(q0);
    reserved ||= bits(q1, 22, 16) !== 0n || bits(q1, 63, 25) !== 0n;
    reserved ||= one(q1, 23) && !coherency;
    reserved ||= one(q1, 24) && !snoopControl;
    reserved ||= one(q0, 9) && !secondStageFlags;
    reserved ||= one(q2, 0) && !supervisor;
    reserved ||= one(q2, 1) || bits(q2, 11, 8) !== 0n || this.#tooWide(q2);
    reserved ||= one(q2, 7) && !extendedAccessed;
    reserved ||= q.slice(3).some((word) => word !== 0n);
    if (reserved) throw new Refused(0x5a);
  }

  #decode(q: readonly bigint[]): Entry {
    const [q0 = 0n, q1 = 0n, q2 = 0n] = q;
    const type = bits(q0, 8, 6);
    const aw = bits(q0, 4, 2);
    const mode = bits(q2, 3, 2);
    if (type === 0n || type > 4n || (type === 3n && !this.#config.nested)) throw new Refused(0x5b);
    if ((type === 2n || type === 3n) && !this.#config.widths.includes(Number(30n + 9n * aw))) throw new Refused(0x5b);
    if ((type === 1n || type === 3n) && (mode > 1n || (mode === 1n && !this.#config.fiveLevels)))
      throw new Refused(0x5b);
    const entry: Entry = {
      type,
      aw,
      flags: one(q0, 9) && (type === 2n || type === 3n),
      second: bits(q0, 63, 12) << 12n,
      supervisorOk: one(q2, 0),
      mode,
      writeProtect: one(q2, 4),
      extended: one(q2, 7),
      first: bits(q2, 63, 12) << 12n,
      snooped: this.#config.coherency && one(q1, 23),
    };
    if (type === 3n && entry.first >> this.#limitBits(entry) !== 0n) throw new Refused(0x5b);
    return entry;
  }

  #limitBits(entry: Entry): bigint {
    const width = 30n + 9n * entry.aw;
    return width < this.#config.guestBits ? width : this.#config.guestBits;
  }

  /** `wanted` 0 is a zero-length read. The rights are those of the whole path. `last`: the page that the request is for, not a table. */
  #secondStage(entry: Entry, address: bigint, wanted: number, last: boolean): Found {
    const levels = Number(entry.aw) + 2;
    let table = entry.second;
    let rights = 3n;
    for (let level = levels; ; level--) {
      const shift = BigInt(12 + 9 * (level - 1));
      const at = table + ((address >> shift) & 511n) * 8n;
      const value = this.#read(at);
      if (value === undefined) throw new Refused(level === levels ? 0x7b : 0x78);
      if ((value & 3n) === 0n) throw new Refused(0x79);
      const leaf = level === 1 || ((level === 2 || level === 3) && one(value, 7));
      if (this.#secondStageReserved(value, level, leaf)) throw new Refused(0x7a);
      rights &= value;
      if (rights === 0n) throw new Refused(0x79);
      if ((wanted & 2) !== 0 && (rights & 2n) === 0n) throw new Refused(0x85);
      if ((wanted & 1) !== 0 && (rights & 1n) === 0n) throw new Refused(0x86);
      if (wanted === 0 && (rights & 1n) === 0n && !this.#config.zeroLengthRead) throw new Refused(0x86);
      if (entry.flags) {
        const flags = leaf && (wanted & 2) !== 0 ? 0x300n : 0x100n;
        if ((value & flags) !== flags) {
          if (!entry.snooped) throw new Refused(0x7c);
          if (leaf && last) this.#leafFlags.push([at, flags]);
          else this.#write(at, value | flags);
        }
      }
      const frame = bits(value, 51, 12) << 12n;
      if (leaf)
        return {
          gpa: (frame | (address & ((1n << shift) - 1n))) & ~0xfffn,
          access: Number(rights & 3n),
          pages: Number(1n << (shift - 12n)),
        };
      table = frame;
    }
  }

  #secondStageReserved(value: bigint, level: number, leaf: boolean): boolean {
    const { hostBits, secondStage2M, secondStage1G, snoopControl } = this.#config;
    if (bits(value, 51, 12) >> (hostBits - 12n) !== 0n || one(value, 62)) return true;
    if (level > 3 && one(value, 7)) return true;
    if (level === 2 && leaf && !secondStage2M) return true;
    if (level === 3 && leaf && !secondStage1G) return true;
    if (one(value, 11) && !(leaf && snoopControl)) return true;
    if (level === 2 && leaf && bits(value, 20, 12) !== 0n) return true;
    return level === 3 && leaf && bits(value, 29, 12) !== 0n;
  }

  #firstStage(entry: Entry, request: ModelRequest, privileged: boolean): Found {
    const levels = entry.mode === 1n ? 5 : 4;
    const sign = BigInt(levels === 5 ? 56 : 47);
    const top = request.address >> sign;
    if (top !== 0n && top !== (1n << (64n - sign)) - 1n) throw new Refused(0x80);
    const nested = entry.type === 3n;
    let table = entry.first;
    let writable = true;
    for (let level = levels; ; level--) {
      const isTop = level === levels;
      let host = table;
      let tableRights = 3;
      if (nested) {
        try {
          const through = this.#secondStage(entry, table, entry.flags ? 3 : 1, false);
          host = through.gpa;
          tableRights = through.access;
        } catch (error) {
          if (error instanceof Refused && (error.code === 0x85 || error.code === 0x86))
            throw new Refused(isTop ? 0x75 : 0x76);
          throw error;
        }
      }
      const shift = BigInt(12 + 9 * (level - 1));
      const at = host + ((request.address >> shift) & 511n) * 8n;
      const value = this.#read(at);
      if (value === undefined) throw new Refused(isTop ? 0x73 : 0x70);
      if (!one(value, 0)) throw new Refused(0x71);
      const leaf = level === 1 || one(value, 7);
      if (this.#firstStageReserved(value, level)) throw new Refused(0x72);
      const frame = (bits(value, 51, 12) << 12n) & ~(leaf ? (1n << shift) - 1n : 0n);
      if (nested && frame >> this.#limitBits(entry) !== 0n) throw new Refused(0x74);
      if (!privileged && !one(value, 2)) throw new Refused(0x81);
      if (!one(value, 1) && (!privileged || entry.writeProtect)) writable = false;
      if ((request.access & 2) !== 0 && !writable) throw new Refused(0x85);
      const flags = 0x20n | (entry.extended ? 0x400n : 0n) | (leaf && (request.access & 2) !== 0 ? 0x40n : 0n);
      if ((value & flags) !== flags) {
        if (nested && (tableRights & 2) === 0) throw new Refused(0x77);
        if (!entry.snooped) throw new Refused(0x90);
        if (leaf) this.#leafFlags.push([at, flags]);
        else this.#write(at, value | flags);
      }
      if (!leaf) {
        table = frame;
        continue;
      }
      const guest = (frame | (request.address & ((1n << shift) - 1n))) & ~0xfffn;
      const access = writable ? 3 : 1;
      const pages = Number(1n << (shift - 12n));
      if (!nested) return { gpa: guest, access, pages };
      const through = this.#secondStage(entry, guest, request.access, true);
      return { gpa: through.gpa, access: access & through.access, pages: Math.min(pages, through.pages) };
    }
  }

  #firstStageReserved(value: bigint, level: number): boolean {
    if (bits(value, 51, 12) >> (this.#config.hostBits - 12n) !== 0n) return true;
    if (!one(value, 7) || level === 1) return false;
    if (level > 3 || (level === 3 && !this.#config.firstStage1G)) return true;
    return level === 3 ? bits(value, 29, 13) !== 0n : bits(value, 20, 13) !== 0n;
  }

  #tooWide(word: bigint): boolean {
    return word >> this.#config.hostBits !== 0n;
  }

  #read(address: bigint): bigint | undefined {
    return address + 8n <= BigInt(this.#memory.byteLength)
      ? this.#memory.getBigUint64(Number(address), true)
      : undefined;
  }

  #write(address: bigint, value: bigint): void {
    this.#memory.setBigUint64(Number(address), value, true);
  }
}

/** The type, levels of second and first stage, and privilege. */
function kindOf({ type, aw, mode }: Entry, privileged: boolean): string {
  const second = `${Number(aw) + 2}`;
  const first = mode === 1n ? "5" : "4";
  const who = privileged ? "supervisor" : "user";
  if (type === 1n) return `first-stage ${first}, ${who}`;
  if (type === 2n) return `second-stage ${second}, ${who}`;
  return type === 3n ? `nested ${first} in ${second}, ${who}` : `pass-through, ${who}`;
}

/** A block that holds the interrupt window, as a target or as an input of requests without PASID, is answered page by page. */
function wholeBlock({ pasid, address }: ModelRequest, gpa: bigint, pages: number): number {
  return holdsWindow(gpa, pages) || (pasid === undefined && holdsWindow(address, pages)) ? 1 : pages;
}

/** Whether the block of `count` pages around an address holds a part of FEE0_0000h to FEEF_FFFFh. */
function holdsWindow(address: bigint, count: number): boolean {
  const bytes = BigInt(count) * 4096n;
  const first = (address / bytes) * bytes;
  return first < 0xfef00000n && first + bytes > 0xfee00000n;
}

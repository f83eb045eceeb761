import { describe, expect, it } from "vitest";
import { type Access, BufferMemory, type Scheduler, Translation } from "@iommu-kit/iommu-core";
import { VtdIommu } from "../../src/index.js";
import { type ModelConfig, type ModelRequest, NaiveUnit } from "./naive-unit.js";
import { Random } from "../support/random.js";
import { FRAMES, INDEXES, PASIDS, randomConfig, randomTables, ROOT, SOURCES } from "./random-guest.js";
import { NO_MEMORY, soundConfig, soundTables } from "./sound-guest.js";

/** Set where tests run once for each mutant: too few guests for every rare fault. */
const FEW = process.env["IOMMU_KIT_FEW_RUNS"] !== undefined;
const GUESTS = FEW ? 24 : 1050;
const REQUESTS = 200;
/** Root, context and PASID structures lie below. */
const STRUCTURE_BYTES = 16 * 4096;
const later: Scheduler = { defer: () => undefined, after: () => () => undefined };

/** What fills a guest. */
interface Mix {
  readonly config: (random: Random) => ModelConfig;
  readonly tables: (random: Random, config: ModelConfig, memory: ArrayBuffer) => void;
  /** Frame of the root table. */
  readonly root: (random: Random) => bigint;
  /** One request with PASID in so many is privileged. */
  readonly privileged: number;
}

/** Every kind of defect; few requests get to nested tables. */
const BROKEN: Mix = { config: randomConfig, tables: randomTables, root: () => ROOT, privileged: 3 };
/** Few defects; one root table in twenty is no memory. */
const SOUND: Mix = {
  config: soundConfig,
  tables: soundTables,
  root: (random) => (random.chance(20) ? BigInt(NO_MEMORY) : ROOT),
  privileged: 2,
};

/** What was compared: fault codes, and successes by type, levels and privilege. */
interface Seen {
  readonly codes: Map<number, number>;
  readonly successes: Map<string, number>;
  readonly pages: Map<number, number>;
}

function count<Key>(counts: Map<Key, number>, key: Key): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function unitFor(config: ModelConfig, memory: ArrayBuffer, root: bigint, caches: number): VtdIommu {
  const unit = new VtdIommu({
    memory: new BufferMemory([{ firstPfn: 0, bytes: new Uint8Array(memory) }]),
    msi: () => undefined,
    scheduler: later,
    version: { major: config.majorVersion, minor: 0 },
    hostAddressWidth: Number(config.hostBits),
    maximumGuestAddressWidth: Number(config.guestBits),
    addressWidths: config.widths as (39 | 48 | 57)[],
    superpages: config.secondStage1G ? ["2M", "1G"] : config.secondStage2M ? ["2M"] : [],
    scalableMode: true,
    firstStage: config.fiveLevels ? "5-level" : "4-level",
    firstStage1G: config.firstStage1G,
    nested: config.nested,
    secondStageFlags: config.secondStageFlags,
    extendedAccessed: config.extendedAccessed,
    pageWalkCoherency: config.coherency,
    pasidWidth: Number(config.pasidBits),
    requestPasid: config.requestPasid,
    requestPrivilege: config.requestPrivilege,
    supervisorRequests: config.supervisor,
    deviceTlb: config.deviceTlb,
    pageRequests: config.pageRequests,
    snoopControl: config.snoopControl,
    zeroLengthRead: config.zeroLengthRead,
    iotlbEntries: caches,
    contextEntries: caches,
  });
  unit.mmio.write64(0x20, (root << 12n) | 0x400n);
  unit.mmio.write32(0x18, 0x4000_0000);
  unit.mmio.write32(0x18, 0x8000_0000);
  return unit;
}

function randomRequest(random: Random, privileged: number): ModelRequest {
  let page = 0n;
  for (let level = 0; level < 5; level++) page = page * 512n + BigInt(random.pick(INDEXES));
  // Keep most inputs canonical for four levels, and inside narrow tables.
  if (!random.chance(10)) page &= random.pick([(1n << 27n) - 1n, (1n << 35n) - 1n, (1n << 44n) - 1n]);
  if (random.chance(8)) page |= ((1n << 52n) - 1n) ^ ((1n << random.pick([35n, 44n])) - 1n);
  const pasid = random.chance(3) ? undefined : random.chance(8) ? random.pick(PASIDS) : random.pick([0, 1, 5, 64]);
  return {
    sourceId: random.pick(SOURCES),
    pasid,
    privileged: pasid !== undefined && random.chance(privileged),
    execute: pasid !== undefined && random.chance(40),
    address: page << 12n,
    access: random.pick([0, 1, 1, 2, 2, 3]),
  };
}

function describeRequest(seed: number, request: ModelRequest): string {
  return `seed ${seed}, source ${request.sourceId.toString(16)}, pasid ${request.pasid}, privileged ${request.privileged}, execute ${request.execute}, address ${request.address.toString(16)}, access ${request.access}`;
}

/** Reads and clears fault record 0. */
function takeRecord(unit: VtdIommu): { low: bigint; high: bigint } | undefined {
  const high = unit.mmio.read64(0x228);
  if (high >> 63n === 0n) return undefined;
  const low = unit.mmio.read64(0x220);
  unit.mmio.write64(0x228, 1n << 63n);
  return { low, high };
}

function expectRecord(unit: VtdIommu, request: ModelRequest, code: number, where: () => string): void {
  const { low, high } = takeRecord(unit) ?? { low: 0n, high: 0n };
  const withPasid = request.pasid !== undefined;
  const type = request.access === 3 ? 3n : request.access === 2 ? 0n : 2n;
  const wanted =
    (1n << 63n) |
    ((type >> 1n) << 62n) |
    ((type & 1n) << 28n) |
    (withPasid ? (BigInt(request.pasid) << 40n) | (1n << 31n) : 0n) |
    (request.privileged ? 1n << 29n : 0n) |
    (request.execute ? 1n << 30n : 0n) |
    (BigInt(code) << 32n) |
    BigInt(request.sourceId);
  if (high === wanted && low === request.address) return;
  expect({ high: high.toString(16), low: low.toString(16) }, where()).toEqual({
    high: wanted.toString(16),
    low: request.address.toString(16),
  });
}

function run(mix: Mix, caches: number, guests: number, firstSeed: number): Seen {
  const seen: Seen = { codes: new Map(), successes: new Map(), pages: new Map() };
  const out = new Translation();
  for (let seed = firstSeed; seed < firstSeed + guests; seed++) {
    const random = new Random(seed);
    const config = mix.config(random);
    const memory = new ArrayBuffer(FRAMES * 4096);
    mix.tables(random, config, memory);
    const root = mix.root(random);
    const copy = memory.slice(0);
    const unit = unitFor(config, memory, root, caches);
    const model = new NaiveUnit(config, copy);
    const structures = Buffer.from(memory.slice(0, STRUCTURE_BYTES));
    for (let i = 0; i < REQUESTS; i++) {
      // A guest whose tables map its own root and context entries has flags written into them: from there on, caches may be stale.
      if (caches > 0 && Buffer.compare(structures, Buffer.from(copy, 0, STRUCTURE_BYTES)) !== 0) break;
      const request = randomRequest(random, mix.privileged);
      const where = (): string => describeRequest(seed, request);
      const expected = model.translate(root << 12n, request);
      const { pasid } = request;
      // A request without PASID to the interrupt window is a message: never sent to the tables.
      const space = unit.addressSpace(
        request.sourceId,
        pasid === undefined ? {} : { pasid, privileged: request.privileged, execute: request.execute },
      );
      space.translate(Number(request.address >> 12n), request.access as Access, out);
      count(seen.codes, expected.code);
      if (out.reason !== expected.code)
        expect.fail(
          `${where()}: expected 0x${expected.code.toString(16)}, got 0x${out.reason.toString(16)} ${out.cause}`,
        );
      if (expected.code === 0) {
        count(seen.successes, model.kind);
        count(seen.pages, expected.pages);
        const { gpa, access, pages } = expected;
        const got = { gpa: BigInt(out.gpaPfn) << 12n, access: out.access, pages: out.pageCount };
        if (got.gpa !== gpa || got.access !== access || got.pages !== pages)
          expect(got, where()).toEqual({ gpa, access, pages });
      } else if (expected.recorded) {
        expectRecord(unit, request, expected.code, where);
      } else if (takeRecord(unit) !== undefined) {
        expect.fail(`${where()}: recorded in spite of FPD`);
      }
    }
    // Accessed and dirty flags, and nothing else, have been written.
    if (Buffer.compare(Buffer.from(memory), Buffer.from(copy)) !== 0) expect.fail(`seed ${seed}: guest memory differs`);
  }
  return seen;
}

describe("scalable-mode translation", () => {
  it(
    `agrees with a naive model of both stages on ${GUESTS * REQUESTS} random requests, to the last flag and fault record`,
    { timeout: 180_000 },
    () => {
      const { codes } = run(BROKEN, 0, GUESTS, 1);
      // The model is no judge of what it never reaches.
      const expected = [
        0, 0x34, 0x39, 0x3a, 0x41, 0x42, 0x43, 0x45, 0x46, 0x48, 0x51, 0x52, 0x59, 0x5a, 0x5b, 0x5c, 0x5d, 0x70, 0x71,
        0x72, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x7c, 0x80, 0x81, 0x83, 0x84, 0x85, 0x86, 0x87, 0x89, 0x90,
      ];
      const missing = expected.filter((code) => !codes.has(code)).map((code) => code.toString(16));
      if (!FEW) expect(missing).toEqual([]);
      expect(codes.get(0) ?? 0).toBeGreaterThan((GUESTS * REQUESTS) / 20);
    },
  );

  it("agrees with the model with every cache on: tables do not change, so no answer may", { timeout: 60_000 }, () => {
    run(BROKEN, 256, FEW ? 10 : 150, 1_000_000);
    run(SOUND, 256, FEW ? 10 : 30, 3_000_000);
  });

  it(
    "agrees with the model where tables are sound: often for every type, number of levels and privilege",
    { timeout: 60_000 },
    () => {
      const { codes, successes, pages } = run(SOUND, 0, FEW ? 20 : 260, 7_000_000);
      const kinds = [
        ...["4", "5"].map((first) => `first-stage ${first}`),
        ...["3", "4", "5"].map((second) => `second-stage ${second}`),
        ...["4 in 3", "4 in 4", "4 in 5", "5 in 3", "5 in 4", "5 in 5"].map((both) => `nested ${both}`),
        "pass-through",
      ].flatMap((kind) => [`${kind}, user`, `${kind}, supervisor`]);
      const least = (counts: ReadonlyMap<unknown, number>, keys: readonly unknown[], most: number): unknown[] =>
        FEW ? [] : keys.map((key) => [key, counts.get(key) ?? 0] as const).filter(([, times]) => times < most);
      expect(least(successes, kinds, 200)).toEqual([]);
      expect(least(pages, [1, 512, 2 ** 18], 200)).toEqual([]);
      // Rare among broken tables.
      expect(least(codes, [0x38, 0x70, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x7b, 0x87, 0x90], 20)).toEqual([]);
    },
  );
});

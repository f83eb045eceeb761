/**
 * Random legacy tables, random requests: the unit and the slow model give the same answers, with and without caches, with and without direct views of memory.
 */

import { parseSourceId, Translation } from "@iommu-kit/iommu-core";
import { type GuestOptions, GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { slowTranslate, type SlowUnit } from "./support/slow-model.js";

const DEVICE = "00:03.0";
const SID = parseSourceId(DEVICE);
/** Frames of the few tables; every entry that points to a table points to one of them. */
const TABLES = [0x100, 0x101, 0x102, 0x103, 0x104, 0x105];

/** Entries are dense where requests go: a handful of indexes at every level. */
const INDEXES = [0, 1, 2, 511];

const rarely = <T>(usual: T, ...others: T[]): fc.Arbitrary<T> =>
  fc.oneof({ weight: 12, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: fc.constantFrom(...others) });

/** A bit that is reserved somewhere, or ignored everywhere. */
const extraBit = rarely(-1, 2, 8, 9, 11, 46, 47, 51, 52, 61, 62, 63);
const someRights = fc.constantFrom(3, 3, 3, 3, 3, 3, 3, 3, 3, 1, 2, 0);
const entry = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      rights: someRights,
      large: rarely(false, true),
      target: fc.oneof(
        { weight: 12, arbitrary: fc.constantFrom(...TABLES) },
        { weight: 1, arbitrary: fc.constantFrom(0xfee00, 2 ** 34, 2 ** 35, 0x3ffff, 0x40001, 0xfedff) },
      ),
      extra: extraBit,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      rights: someRights,
      large: rarely(true, false),
      target: fc.constantFrom(0, 0x80000, 0xc0000, 0xc0000, 0x40000, 0x200, 0xfee00),
      extra: extraBit,
    }),
  },
);

const machine = fc.record({
  levels: fc.constantFrom(3, 4, 5),
  tables: fc.tuple(
    ...TABLES.flatMap((table) => INDEXES.map((index) => fc.tuple(fc.constant(table), fc.constant(index), entry))),
  ),
  context: fc.record({
    present: rarely(1, 0),
    type: rarely(0, 1, 2, 2, 3),
    width: rarely(-1, 0, 4, 7),
    extra: rarely(-1, 1, 1, 1, 4, 11, 46, 63, 67, 70, 71, 88, 127),
  }),
  /** A bit to set in the root-entry; -2 clears the entry. */
  root: rarely(-1, -2, 1, 46, 63, 64, 127),
  /** A frame that cannot be read; -2 is the root table. */
  poison: rarely(-1, -2, ...TABLES),
  config: fc.record({
    superpages: rarely<("2M" | "1G")[]>(["2M", "1G"], ["2M"], []),
    snoopControl: fc.boolean(),
    passThrough: fc.boolean(),
    hostAddressWidth: fc.constantFrom(46, 47, 48, 52),
    maximumGuestAddressWidth: rarely(57, 48, 39, 46),
    windows: fc.boolean(),
    iotlbEntries: fc.constantFrom(0, 16),
    contextEntries: fc.constantFrom(0, 16),
  }),
  requests: fc.array(
    fc.record({
      indexes: fc.tuple(...[0, 1, 2, 3, 4].map(() => fc.constantFrom(...INDEXES))),
      access: fc.constantFrom<1 | 2 | 3>(1, 2, 3),
      high: rarely(0, 2 ** 27, 2 ** 36, 2 ** 45, 2 ** 51),
      window: rarely(false, true),
    }),
    { minLength: 12, maxLength: 25 },
  ),
});

function setBit(guest: GuestDriver, gpa: number, at: number): void {
  if (at < 0) return;
  const word = gpa + Math.floor(at / 32) * 4;
  guest.memory.poke(word, guest.memory.peek(word) | (1 << (at % 32)));
}

type Plan = typeof machine extends fc.Arbitrary<infer T> ? T : never;

function build(plan: Plan): { guest: GuestDriver; slow: SlowUnit } {
  const options: GuestOptions = { addressWidths: [39, 48, 57], ...plan.config };
  const guest = new GuestDriver(options);
  for (const [table, index, { rights, large, target, extra }] of plan.tables) {
    const gpa = table * 4096 + index * 8;
    const low = ((target % 0x100000) << 12) | rights | (large ? 0x80 : 0);
    guest.memory.pokeEntry(gpa, low, Math.floor(target / 0x100000));
    setBit(guest, gpa, extra);
  }
  const { context } = plan;
  guest.contexts.write(DEVICE, {
    did: 5,
    rootPfn: TABLES[0] ?? 0,
    fields: { P: context.present, TT: context.type, AW: context.width < 0 ? plan.levels - 2 : context.width },
  });
  setBit(guest, guest.contexts.contextEntryGpa(DEVICE), context.extra);
  setBit(guest, guest.contexts.rootEntryGpa(DEVICE), plan.root);
  if (plan.root === -2) guest.memory.clear(guest.contexts.rootPfn);
  if (plan.poison !== -1) guest.memory.poison(plan.poison === -2 ? guest.contexts.rootPfn : plan.poison);
  guest.start();
  const { hostAddressWidth, maximumGuestAddressWidth, superpages, snoopControl, passThrough } = guest.unit.config;
  const slow: SlowUnit = {
    hostBits: hostAddressWidth,
    guestBits: maximumGuestAddressWidth,
    widths: [39, 48, 57],
    superpages,
    snoop: snoopControl,
    passThrough,
  };
  return { guest, slow };
}

describe("legacy translation against the slow model", () => {
  it("gives the same target, rights or fault code for every request, and records it unless FPD says not to", () => {
    const outcomes = new Map<number, number>();
    fc.assert(
      fc.property(machine, (plan) => {
        const { guest, slow } = build(plan);
        const space = guest.device(DEVICE);
        const out = new Translation();
        for (const request of plan.requests) {
          const spelled = request.indexes.reduce((pfn, index) => pfn * 512 + index, 0);
          const iovaPfn = (request.window ? 0xfee00 : spelled % 512 ** plan.levels) + request.high;
          const expected = slowTranslate(guest.memory, slow, guest.contexts.rootPfn, {
            sid: SID,
            iovaPfn,
            access: request.access,
          });
          const allowed = space.translate(iovaPfn, request.access, out);
          const faults = guest.takeFaults();
          if (iovaPfn >= 0xfee00 && iovaPfn < 0xfef00) {
            // Never memory for a request without PASID, whatever the tables say.
            expect({ allowed, reason: out.reason, faults }).toEqual({ allowed: false, reason: 0x29, faults: [] });
            continue;
          }
          if (expected.fault === undefined) {
            expect({ allowed, gpaPfn: out.gpaPfn, access: out.access, faults }).toEqual({
              allowed: true,
              gpaPfn: expected.gpaPfn,
              access: expected.access,
              faults: [],
            });
            const last = iovaPfn - (iovaPfn % out.pageCount) + out.pageCount - 1;
            const ofLast = slowTranslate(guest.memory, slow, guest.contexts.rootPfn, {
              sid: SID,
              iovaPfn: last,
              access: 1,
            });
            if (out.access !== 2) expect(ofLast).toMatchObject({ gpaPfn: expected.gpaPfn + (last - iovaPfn) });
            outcomes.set(0, (outcomes.get(0) ?? 0) + 1);
          } else {
            outcomes.set(expected.fault, (outcomes.get(expected.fault) ?? 0) + 1);
            expect({ allowed, reason: out.reason }).toEqual({ allowed: false, reason: expected.fault });
            const unqualified = [0x01, 0x08, 0x09, 0x0a].includes(expected.fault);
            const recorded = unqualified || !expected.faultsDisabled;
            expect(faults.map((fault) => [fault.reason, fault.sourceId, fault.page])).toEqual(
              recorded ? [[expected.fault, SID, iovaPfn % 2 ** 45]] : [],
            );
          }
        }
      }),
      { numRuns: 600 },
    );
    if (process.env["IOMMU_KIT_FEW_RUNS"] !== undefined) return;
    // The property says something only where the cases are varied.
    for (const reason of [0, 1, 2, 3, 4, 5, 6, 7, 0x0a, 0x08, 0x09, 0x0b, 0x0c, 0x0e]) {
      expect(outcomes.get(reason) ?? 0, `cases with reason ${reason}`).toBeGreaterThan(reason === 0 ? 1000 : 0);
    }
  });

  it("gives the same answers again from its caches, and after every cache has been dropped", () => {
    fc.assert(
      fc.property(machine, (plan) => {
        const { guest } = build({ ...plan, config: { ...plan.config, iotlbEntries: 16, contextEntries: 16 } });
        const space = guest.device(DEVICE);
        const out = new Translation();
        const answers = (): string[] =>
          plan.requests.map((request) => {
            const iovaPfn = request.indexes.reduce((pfn, index) => pfn * 512 + index, 0) % 512 ** plan.levels;
            space.translate(iovaPfn, request.access, out);
            return `${out.reason} ${out.gpaPfn} ${out.access}`;
          });
        const first = answers();
        expect(answers()).toEqual(first);
        guest.invalidate.contexts();
        guest.invalidate.all();
        expect(answers()).toEqual(first);
      }),
      { numRuns: 200 },
    );
  });
});

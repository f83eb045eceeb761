/**
 * What a MAP notifier holds of random nested and first-stage tables is what the walk answers page by page, in any slices: 4 and 5 levels of the first stage, 3 to 5 of the second,
 * user and supervisor requests with and without write protection, and protected memory over targets or tables.
 */

import { type Access, Translation } from "@iommu-kit/iommu-core";
import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";

const NIC = "00:03.0";
/** Guest-physical frames that first-stage leaves name. */
const GUEST_FRAMES = [0x100, 0x101, 0x102, 0x200, 0x201, 0x3ff, 0xfee00];
/** Addresses that may be protected: no memory, some targets, all of them, the frames where tables lie. */
const PROTECTED = [
  [0x7fff_0000, 0],
  [0x0090_0000, 0x00af_ffff],
  [0x0000_0000, 0x1fff_ffff],
  [0x2000_0000, 0x203f_ffff],
] as const;
const PMEN = 0x64;
const PLMBASE = 0x68;
const PLMLIMIT = 0x6c;

const plan = fc.record({
  nested: fc.boolean(),
  fiveLevels: fc.boolean(),
  secondLevels: fc.constantFrom(3, 4, 5),
  privileged: fc.boolean(),
  writeProtect: fc.boolean(),
  protect: fc.constantFrom(undefined, undefined, ...PROTECTED),
  flags: fc.boolean(),
  small: fc.array(
    fc.record({
      iovaPfn: fc.oneof(
        fc.integer({ min: 0, max: 20 }),
        fc.integer({ min: 508, max: 516 }),
        fc.constantFrom(2 ** 35 - 1, 2 ** 35, 2 ** 44 - 1, 2 ** 52 - 1, 2 ** 52 - 2 ** 35, 2 ** 52 - 2 ** 44),
      ),
      gpaPfn: fc.constantFrom(...GUEST_FRAMES),
      writable: fc.boolean(),
      user: fc.constantFrom(true, true, true, false),
    }),
    { maxLength: 15 },
  ),
  large: fc.array(
    fc.record({
      iovaPfn: fc.constantFrom(1024, 1536, 2 ** 52 - 1024),
      gpaPfn: fc.constantFrom(0, 0x200),
      writable: fc.boolean(),
    }),
    { maxLength: 3 },
  ),
  second: fc.array(
    fc.record({
      pfn: fc.constantFrom(...GUEST_FRAMES, 0x20000, 0x20010),
      target: fc.constantFrom(0x900, 0x901, 0xfee10),
      access: fc.constantFrom<Access>(0, 1, 2, 3),
    }),
    { maxLength: 8 },
  ),
  secondLarge: fc.boolean(),
  entriesPerSlice: fc.constantFrom(1, 600, 65536),
});

describe("the scan of first-stage and nested tables", () => {
  it("tells exactly what the walk would answer", async () => {
    let mapped = 0;
    const reached = new Map<string, number>();
    await fc.assert(
      fc.asyncProperty(plan, async (tables) => {
        const guest = new GuestDriver({
          cachingMode: true,
          scalableMode: true,
          firstStage: "5-level",
          addressWidths: [39, 48, 57],
          nested: true,
          secondStageFlags: true,
          supervisorRequests: true,
          pasidWidth: 20,
          protectedRegions: ["low"],
          iotlbEntries: 0,
          limits: { entriesPerSlice: tables.entriesPerSlice, mappingsPerSlice: tables.entriesPerSlice },
        });
        const { fiveLevels, secondLevels, privileged } = tables;
        const first = guest.newFirstStageTables(fiveLevels ? 5 : 4);
        const second = guest.tables(6, secondLevels);
        // Tables lie from 0x20000 on: the second stage maps them onto themselves, unless the plan says otherwise.
        second.map(0x20000, 512, 0x20000);
        if (tables.secondLarge) second.map(0x200, 512, 0x4000, 3, 512);
        else second.map(0x100, 0x40, 0x5000);
        for (const { pfn, target, access } of tables.second) {
          second.map(
            pfn,
            1,
            pfn >= 0x20000 ? pfn : target,
            access === 0 && pfn < 0x20000 ? 3 : access === 0 ? 1 : access,
          );
        }
        for (const leaf of tables.large)
          first.map(leaf.iovaPfn, 512, leaf.gpaPfn, { writable: leaf.writable, leafPages: 512 });
        const half = fiveLevels ? 2 ** 44 : 2 ** 35;
        const small = tables.small.filter(({ iovaPfn }) => iovaPfn < half || iovaPfn >= 2 ** 52 - half);
        for (const leaf of small) first.map(leaf.iovaPfn, 1, leaf.gpaPfn, { writable: leaf.writable, user: leaf.user });
        guest.scalableContext(NIC, { pasids: true });
        guest.pasid(NIC, 5, {
          did: 6,
          type: tables.nested ? "nested" : "first-stage",
          firstRootPfn: first.rootPfn,
          fields: {
            PWSNP: 1,
            SRE: 1,
            WPE: tables.writeProtect ? 1 : 0,
            FSPM: fiveLevels ? 1 : 0,
            ...(tables.nested && { AW: secondLevels - 2, SSADE: tables.flags ? 1 : 0 }),
          },
        });
        guest.start("scalable");
        const notifier = new RecordingNotifier();
        const space = guest.device(NIC, { pasid: 5, privileged });
        space.attach(notifier);
        await guest.scheduler.idle();
        if (tables.protect !== undefined) {
          guest.unit.mmio.write32(PLMBASE, tables.protect[0]);
          guest.unit.mmio.write32(PLMLIMIT, tables.protect[1]);
          guest.unit.mmio.write32(PMEN, 0x8000_0000);
          await guest.scheduler.idle();
        }
        const out = new Translation();
        const candidates = [
          ...small.map((leaf) => leaf.iovaPfn),
          ...tables.large.flatMap((leaf) =>
            [0, 1, 0xff, 0x100, 0x101, 0x102, 0x1ff].map((offset) => leaf.iovaPfn + offset),
          ),
          5,
          513,
          2 ** 35,
          2 ** 44,
        ];
        for (const iovaPfn of candidates) {
          let access = 0;
          let gpaPfn = -1;
          for (const wanted of [1, 2] as const) {
            if (!space.translate(iovaPfn, wanted, out)) continue;
            access |= wanted;
            gpaPfn = out.gpaPfn;
          }
          expect(notifier.lookup(iovaPfn), `page ${iovaPfn.toString(16)}`).toEqual(
            gpaPfn < 0 ? undefined : { gpaPfn, access },
          );
          if (gpaPfn < 0) continue;
          mapped += 1;
          for (const kind of [
            tables.nested ? `nested in ${secondLevels} levels` : "alone",
            `${fiveLevels ? 5 : 4} levels`,
            privileged ? "supervisor" : "user",
            `protected ${tables.protect?.[0].toString(16) ?? "nothing"}`,
          ])
            reached.set(kind, (reached.get(kind) ?? 0) + 1);
        }
        notifier.check();
      }),
      { numRuns: 120 },
    );
    expect(mapped).toBeGreaterThan(200);
    // Every dimension of the plan has been reached, but for targets of which all are protected.
    expect([...reached.keys()].toSorted()).toEqual([
      "4 levels",
      "5 levels",
      "alone",
      "nested in 3 levels",
      "nested in 4 levels",
      "nested in 5 levels",
      "protected 20000000",
      "protected 7fff0000",
      "protected 900000",
      "protected nothing",
      "supervisor",
      "user",
    ]);
  }, 60_000);
});

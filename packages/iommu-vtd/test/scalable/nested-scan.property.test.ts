/**
 * What a MAP notifier holds of random nested and first-stage tables is what the walk answers page by page, in any slices.
 */

import { type Access, Translation } from "@iommu-kit/iommu-core";
import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";

const NIC = "00:03.0";
/** Guest-physical frames that first-stage leaves name. */
const GUEST_FRAMES = [0x100, 0x101, 0x102, 0x200, 0x201, 0x3ff, 0xfee00];

const plan = fc.record({
  nested: fc.boolean(),
  flags: fc.boolean(),
  small: fc.array(
    fc.record({
      iovaPfn: fc.oneof(
        fc.integer({ min: 0, max: 20 }),
        fc.integer({ min: 508, max: 516 }),
        fc.constantFrom(2 ** 35 - 1, 2 ** 52 - 1, 2 ** 52 - 2 ** 35),
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
    await fc.assert(
      fc.asyncProperty(plan, async (tables) => {
        const guest = new GuestDriver({
          cachingMode: true,
          scalableMode: true,
          firstStage: "4-level",
          nested: true,
          secondStageFlags: true,
          iotlbEntries: 0,
          limits: { entriesPerSlice: tables.entriesPerSlice, mappingsPerSlice: tables.entriesPerSlice },
        });
        const first = guest.newFirstStageTables();
        const second = guest.tables(6);
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
        for (const leaf of tables.small)
          first.map(leaf.iovaPfn, 1, leaf.gpaPfn, { writable: leaf.writable, user: leaf.user });
        guest.scalableContext(NIC);
        guest.pasid(NIC, 0, {
          did: 6,
          type: tables.nested ? "nested" : "first-stage",
          firstRootPfn: first.rootPfn,
          fields: { PWSNP: 1, SSADE: tables.nested && tables.flags ? 1 : 0 },
        });
        guest.start("scalable");
        const notifier = new RecordingNotifier();
        const space = guest.device(NIC);
        space.attach(notifier);
        await guest.scheduler.idle();
        const out = new Translation();
        const candidates = [
          ...tables.small.map((leaf) => leaf.iovaPfn),
          ...tables.large.flatMap((leaf) =>
            [0, 1, 0xff, 0x100, 0x101, 0x102, 0x1ff].map((offset) => leaf.iovaPfn + offset),
          ),
          5,
          513,
          2 ** 35,
        ];
        for (const iovaPfn of candidates.filter((pfn) => pfn < 0xfee00 || pfn >= 0xfef00)) {
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
          if (gpaPfn >= 0) mapped += 1;
        }
        notifier.check();
      }),
      { numRuns: 80 },
    );
    expect(mapped).toBeGreaterThan(100);
  }, 60_000);
});

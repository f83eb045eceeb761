/** What a view may read of the guest's tables does not depend on the slices it is read in (design D9): second stage, first stage and nested. */

import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import fc from "fast-check";
import { describe, expect, it } from "vitest";

const NIC = "00:03.0";
const DID = 5;
/** Larger than what any guest here has: everything is read in one slice. */
const ONE_SLICE = 2 ** 20;
/** More tables than any guest here has. */
const MOST_TABLES = 2 ** 9;

const guests = fc.record({
  type: fc.constantFrom("second-stage", "first-stage", "nested"),
  pages: fc.uniqueArray(
    fc.oneof(
      fc.integer({ min: 0, max: 3 }).map((directory) => directory * 512),
      fc.integer({ min: 0, max: 40 }).map((table) => table * 512 + (table % 3)),
      fc.integer({ min: 0, max: 40 }).map((directory) => directory * 2 ** 18 + 511),
    ),
    { minLength: 1, maxLength: 12 },
  ),
  superpages: fc.uniqueArray(fc.integer({ min: 100, max: 110 }), { maxLength: 3 }),
  /** A first-stage leaf of 1 GiB: nested, slices end in the middle of it. */
  giant: fc.boolean(),
});

type Guest = typeof guests extends fc.Arbitrary<infer T> ? T : never;

/** How often the view of a mirror fails closed, at its attachment and at three invalidations of everything that change nothing. */
async function failures(plan: Guest, tablesPerView: number, entriesPerSlice: number): Promise<number> {
  const guest = new GuestDriver({
    cachingMode: true,
    scalableMode: true,
    firstStage: "4-level",
    firstStage1G: true,
    nested: true,
    pasidWidth: 20,
    limits: { entriesPerSlice, tablesPerView },
  });
  guest.scalableContext(NIC);
  if (plan.type === "second-stage") {
    for (const iovaPfn of plan.pages) guest.map(DID, { iovaPfn, gpaPfn: 0x900 });
    for (const at of plan.superpages)
      guest.map(DID, { iovaPfn: at * 512, gpaPfn: 0x200, pageCount: 512, leafPages: 512 });
    guest.pasid(NIC, 0, { type: plan.type, did: DID });
  } else {
    const first = guest.newFirstStageTables();
    // Tables lie from 512 MiB on: the second stage maps them, and the targets, onto themselves, page by page.
    guest.map(DID, { iovaPfn: 0x20000, gpaPfn: 0x20000, pageCount: 512 });
    guest.map(DID, { iovaPfn: 0x200, gpaPfn: 0x200, pageCount: 1024 });
    for (const iovaPfn of plan.pages) first.map(iovaPfn, 1, 0x300);
    for (const at of plan.superpages) first.map(at * 512, 512, 0x200, { leafPages: 512 });
    if (plan.giant) first.map(50 * 2 ** 18, 2 ** 18, 0, { leafPages: 2 ** 18 });
    guest.pasid(NIC, 0, { type: plan.type, did: DID, firstRootPfn: first.rootPfn });
  }
  guest.start("scalable");
  let spent = 0;
  guest.unit.events.on("budget", () => (spent += 1));
  guest.device(NIC).attach(new RecordingNotifier());
  await guest.scheduler.idle();
  for (let i = 0; i < 3; i++) {
    guest.invalidate.all();
    await guest.scheduler.idle();
  }
  return spent;
}

describe("the budget of tables", () => {
  it("is enough for a view in small slices if it is enough in one, however often nothing has changed", async () => {
    await fc.assert(
      fc.asyncProperty(guests, fc.constantFrom(1, 512, 600, 1500, 4096), async (plan, entriesPerSlice) => {
        let [few, enough] = [0, MOST_TABLES];
        while (enough - few > 1) {
          const middle = Math.floor((few + enough) / 2);
          if ((await failures(plan, middle, ONE_SLICE)) === 0) enough = middle;
          else few = middle;
        }
        expect(await failures(plan, enough, entriesPerSlice)).toBe(0);
      }),
      { numRuns: 25 },
    );
  });
});

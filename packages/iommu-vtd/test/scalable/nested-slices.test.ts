import { describe, expect, it } from "vitest";
import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";

const DEVICE = "00:03.0";
const SLICE = 4096;

/** Every first-stage table is all of its own entries, found through a second stage of single pages. */
function guestWithNestedCycle(): GuestDriver {
  const guest = new GuestDriver({
    cachingMode: true,
    scalableMode: true,
    firstStage: "4-level",
    nested: true,
    pasidWidth: 20,
    limits: { entriesPerSlice: SLICE, tablesPerView: 200, mappingsPerView: 5000 },
  });
  const first = guest.newFrame();
  guest.map(5, { iovaPfn: 0x10, gpaPfn: first });
  // Each entry points to the same table; on the last level to the table as a page.
  for (let index = 0; index < 512; index++) guest.memory.pokeEntry(first * 4096 + index * 8, 0x10_000 | 0x27, 0);
  guest.scalableContext(DEVICE);
  guest.pasid(DEVICE, 0, { type: "nested", did: 5, firstRootPfn: 0x10 });
  return guest;
}

describe("nested tables without end", () => {
  it("cost no more than a slice of table entries at once, those read to find tables included", () => {
    const guest = guestWithNestedCycle();
    const notifier = new RecordingNotifier();
    guest.start("scalable");
    guest.memory.resetCounters();
    guest.device(DEVICE).attach(notifier);
    const perTurn: number[] = [];
    const note = (): void => {
      perTurn.push(guest.memory.counters.fetchedWords / 2);
      guest.memory.resetCounters();
    };
    note();
    for (; guest.scheduler.turn() > 0; note());
    expect(perTurn.length).toBeGreaterThan(3);
    // Beyond a slice: the tables on the way to where it goes on, and the one in hand.
    expect(Math.max(...perTurn)).toBeLessThanOrEqual(SLICE + 8 * 512);
    notifier.check();
  });
});

/**
 * A consumer's callback or a listener may look at the tables while the hub is in the middle of scanning them: neither scan disturbs the other.
 */

import type { AddressSpace, MappingSink } from "@iommu-kit/iommu-core";
import { RecordingNotifier, type Run, RunList } from "@iommu-kit/iommu-core/testing";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";

const NIC = "00:03.0";
const RANGE = { firstPfn: 0, pageCount: 2 ** 30 };
const TABLES = 8;

type Kind = "second-stage" | "first-stage" | "nested";

/** A running guest with four pages in each of eight leaf tables below four tables of the next level, and how it maps one more. */
function guestOf(kind: Kind, windows: boolean): { readonly guest: GuestDriver; readonly map: (pfn: number) => void } {
  const guest = new GuestDriver({
    cachingMode: true,
    scalableMode: true,
    firstStage: "4-level",
    nested: true,
    pasidWidth: 20,
    windows,
  });
  const first = guest.newFirstStageTables();
  const second = guest.tables(5);
  if (kind === "nested") {
    second.map(0x20000, 512, 0x20000);
    second.map(0x1000, 512, 0x1000);
  }
  const map = (pfn: number): void => {
    if (kind === "second-stage") second.map(pfn, 1, 0x1000 + (pfn % 400));
    else first.map(pfn, 1, 0x1000 + (pfn % 400));
  };
  for (let table = 0; table < TABLES; table++)
    for (let page = 0; page < 4; page++) map((table >> 1) * 2 ** 18 + (table & 1) * 512 + page);
  guest.scalableContext(NIC);
  guest.pasid(NIC, 0, {
    did: 5,
    type: kind,
    ...(kind !== "second-stage" && { firstRootPfn: first.rootPfn }),
  });
  guest.start("scalable");
  return { guest, map };
}

/** What the tables say, by a scan of one's own. */
function mappings(space: AddressSpace): Run[] {
  const seen = new RunList();
  const sink: MappingSink = {
    run: (iovaPfn, pageCount, gpaPfn, access) => {
      seen.set({ iovaPfn, pageCount, gpaPfn, access });
      return true;
    },
    reach: () => true,
    table: (iovaPfn, table) =>
      table.visit(iovaPfn, RANGE, (pfn, pageCount, gpaPfn, access) => sink.run(pfn, pageCount, gpaPfn, access)),
  };
  space.domain.scan(RANGE, sink);
  return seen.joined();
}

describe.each([
  ["second-stage", false],
  ["second-stage", true],
  ["first-stage", false],
  ["first-stage", true],
  ["nested", false],
  ["nested", true],
] as const)("%s tables, host memory in sight: %s", (kind, windows) => {
  it("scanned in a map callback: nothing that stays mapped is unmapped, and both see everything", async () => {
    const { guest, map } = guestOf(kind, windows);
    const space = guest.device(NIC);
    const inner: Run[][] = [];
    const notifier = new RecordingNotifier({
      onCall: ({ type }) => {
        if (type === "map" || type === "unmap") inner.push(mappings(space));
      },
    });
    space.attach(notifier);
    await guest.scheduler.idle();
    expect(notifier.held()).toEqual(mappings(space));
    expect(notifier.pageCount).toBe(4 * TABLES);
    notifier.take();
    map(10);
    guest.invalidate.domain(5);
    await guest.scheduler.idle();
    expect(notifier.take()).toHaveLength(1);
    expect(notifier.held()).toEqual(mappings(space));
    expect(notifier.pageCount).toBe(4 * TABLES + 1);
    expect(inner.at(-1)).toEqual(mappings(space));
    notifier.check();
  });

  it("scanned by a listener during the replay", async () => {
    const { guest } = guestOf(kind, windows);
    const space = guest.device(NIC);
    const inner: Run[][] = [];
    space.events.on("map", () => inner.push(mappings(space)));
    const notifier = new RecordingNotifier();
    space.attach(notifier);
    await guest.scheduler.idle();
    expect(inner.length).toBeGreaterThan(0);
    for (const seen of inner) expect(seen).toEqual(mappings(space));
    expect(notifier.held()).toEqual(mappings(space));
    notifier.check();
  });

  it("scanned by a sink of a scan that throws: the next scan is whole", () => {
    const { guest } = guestOf(kind, windows);
    const space = guest.device(NIC);
    const whole = mappings(space);
    const thrower: MappingSink = {
      run: () => true,
      reach: () => true,
      table: () => {
        throw new Error("enough");
      },
    };
    if (kind === "nested") thrower.run = thrower.table as () => boolean;
    expect(() => space.domain.scan(RANGE, thrower)).toThrow("enough");
    expect(mappings(space)).toEqual(whole);
  });
});

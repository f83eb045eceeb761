/** A snapshot is restored under a container that is too small: its account is right before, after, and when there is room. */
import { restore, save } from "@iommu-kit/iommu-vtd/snapshot";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { type Coalescing, MemoryContainer, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";
import { expect, it } from "vitest";
import { pagesOf, PlainContainer } from "./containers.js";

const NIC = "00:03.0";
const RUN = { firstPfn: 0x10, pageCount: 16 };

it.each<Coalescing>(["leaf", "aligned", "free"])("with the %s policy", async (coalescing) => {
  const guest = new GuestDriver({ cachingMode: true });
  guest.context(NIC, { did: 1 });
  for (let i = 0; i < RUN.pageCount; i++) guest.map(1, { iovaPfn: RUN.firstPfn + i, gpaPfn: 0x100 + i });
  guest.start();
  const profile = { ...type1v2, entryLimit: 2 };
  const container = new MemoryContainer(profile);
  const attachment = new VfioNotifier(new PlainContainer(container), { coalescing }).attachTo(guest.device(NIC));
  const check = (mapped: number): void => {
    const missing = attachment.refusedRanges.reduce((pages, { pageCount }) => pages + pageCount, 0);
    expect([attachment.heldPages, missing]).toEqual([container.pagesHeld, attachment.refusedPages]);
    expect(container.pagesHeld + missing).toBe(mapped);
  };
  check(16);
  const whole: unknown = JSON.parse(JSON.stringify(save(guest.unit)));

  guest.unmap(1, 0x15);
  guest.unmap(1, 0x19);
  guest.invalidate.domain(1);
  check(14);
  const before = attachment.refusedPages;
  expect(before).toBeGreaterThan(0);

  // What the tables say now is what the restored unit finds.
  guest.map(1, { iovaPfn: 0x15, gpaPfn: 0x400 });
  await restore(guest.unit, whole);
  check(15);
  expect(attachment.refusedPages).toBeGreaterThan(0);

  profile.entryLimit = 100;
  attachment.retry();
  check(15);
  expect([attachment.refusedPages, pagesOf(container).length]).toEqual([0, 15]);
  await attachment.detach();
  expect([attachment.heldPages, attachment.refusedPages, container.pagesHeld]).toEqual([0, 0, 0]);
});

import { type Access, sourceId } from "@iommu-kit/iommu-core";
import { type BackendFixture, describeBackendContract } from "@iommu-kit/iommu-core/testing";
import { GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, it } from "vitest";

const DEVICE = "00:03.0";
const DID = 5;

/** The largest aligned invalidations that together cover a range, as a driver that is stingy with descriptors makes them. */
function aligned(first: number, pageCount: number): [number, number][] {
  const parts: [number, number][] = [];
  for (let at = first; at < first + pageCount;) {
    let order = 0;
    while (order < 9 && at % 2 ** (order + 1) === 0 && at + 2 ** (order + 1) <= first + pageCount) order += 1;
    parts.push([at, order]);
    at += 2 ** order;
  }
  return parts;
}

/** A guest in legacy mode with two devices, each with a domain of its own. */
function fixture(
  options: GuestOptions,
  how: "page" | "domain" | "register",
  leaves: "small" | "large",
): BackendFixture {
  const guest = new GuestDriver({ cachingMode: true, ...options });
  guest.context(DEVICE, { did: DID });
  guest.context("00:04.0", { did: 6 });
  if (how === "register") {
    guest.setRoot();
    guest.enable();
  } else {
    guest.start();
  }

  const invalidate = async (iovaPfn: number, pageCount: number): Promise<void> => {
    const isDone = (): boolean =>
      how === "register" ? guest.registers.iotlbOutcome() !== "pending" : guest.queue.completed;
    if (how === "register") guest.registers.domain(DID);
    if (how === "domain") guest.invalidate.domain(DID);
    for (const [at, order] of how === "page" ? aligned(iovaPfn, pageCount) : []) guest.invalidate.page(DID, at, order);
    while (!isDone()) {
      guest.scheduler.turn();
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  };

  return {
    iommu: guest.unit,
    sourceId: sourceId(0, 3, 0),
    otherSourceId: sourceId(0, 4, 0),
    range: { firstPfn: 0, pageCount: 0x80000 },
    targetLimit: 2 ** 26,
    map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access) {
      const end = iovaPfn + pageCount;
      for (let at = iovaPfn; at < end;) {
        const large = leaves === "large" && at % 512 === 0 && end - at >= 512 && (gpaPfn + at - iovaPfn) % 512 === 0;
        const leafPages = large ? 512 : 1;
        guest.map(DID, { iovaPfn: at, pageCount: leafPages, gpaPfn: gpaPfn + at - iovaPfn, access, leafPages });
        at += leafPages;
      }
      return invalidate(iovaPfn, pageCount);
    },
    unmap(iovaPfn: number, pageCount: number) {
      guest.unmap(DID, iovaPfn, pageCount);
      return invalidate(iovaPfn, pageCount);
    },
  };
}

for (const [how, leaves] of [
  ["page", "small"],
  ["page", "large"],
  ["domain", "large"],
  ["register", "small"],
] as const) {
  describeBackendContract(
    { describe, it },
    () => fixture({}, how, leaves),
    `contract of a backend: VT-d, ${how} invalidations, ${leaves} leaves`,
  );
}
describeBackendContract(
  { describe, it },
  () => fixture({ iotlbEntries: 0, contextEntries: 0 }, "page", "large"),
  "contract of a backend: VT-d without caches",
);

import { DirtyTracker } from "@iommu-kit/iommu-core";
import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";

const NIC = "00:03.0";

function guestWithPages(): GuestDriver {
  const guest = new GuestDriver({ cachingMode: true });
  guest.map(1, { iovaPfn: 0x10, pageCount: 4, gpaPfn: 0x1000 });
  guest.map(1, { iovaPfn: 0x200, gpaPfn: 0x4000, leafPages: 512 });
  guest.context(NIC, { did: 1 });
  guest.start();
  return guest;
}

function collected(tracker: DirtyTracker): string[] {
  const seen: string[] = [];
  tracker.collect({
    iova: (first, count) => seen.push(`iova ${first.toString(16)}+${count}`),
    gpa: (first, count) => seen.push(`gpa ${first.toString(16)}+${count}`),
  });
  return seen;
}

describe("dirty pages behind a unit", () => {
  it("are reported by IOVA and by frame, inside of superpages too, and after the guest has unmapped them", () => {
    const guest = guestWithPages();
    const { dma } = guest.device(NIC);
    const tracker = new DirtyTracker(guest.device(NIC));
    tracker.start();
    dma.write(0x11 * 4096 + 4000, new Uint8Array(200));
    dma.write(0x3ff * 4096, new Uint8Array(1));
    guest.unmap(1, 0x11, 2);
    guest.invalidate.all();
    expect(dma.write(0x11 * 4096, new Uint8Array(1))).toBe(false);
    expect(collected(tracker)).toEqual(["iova 11+2", "iova 3ff+1", "gpa 1001+2", "gpa 41ff+1"]);
  });

  it("are those of the frames at the time of the write when the guest moves a device to another domain", () => {
    const guest = guestWithPages();
    guest.map(2, { iovaPfn: 0x10, gpaPfn: 0x7000 });
    const { dma } = guest.device(NIC);
    const tracker = new DirtyTracker(guest.device(NIC));
    tracker.start();
    dma.write(0x10 * 4096, new Uint8Array(1));
    guest.context(NIC, { did: 2 });
    guest.invalidate.contexts();
    guest.invalidate.all();
    dma.write(0x10 * 4096, new Uint8Array(1));
    guest.disable();
    dma.write(0x10 * 4096, new Uint8Array(1));
    expect(collected(tracker)).toEqual(["iova 10+1", "gpa 10+1", "gpa 1000+1", "gpa 7000+1"]);
  });

  it("make unmap events say where the pages went, also when the context goes", () => {
    const guest = guestWithPages();
    guest.device(NIC).attach(new RecordingNotifier());
    const seen: string[] = [];
    guest.device(NIC).events.on("unmap", ({ iovaPfn, pageCount, gpaPfn, access }) => {
      seen.push(`${iovaPfn.toString(16)}+${pageCount} ${gpaPfn.toString(16)} ${access}`);
    });
    const tracker = new DirtyTracker(guest.device(NIC));
    tracker.start();
    guest.unmap(1, 0x11);
    guest.invalidate.page(1, 0x11);
    expect(seen.splice(0)).toEqual(["11+1 1001 3"]);
    guest.contexts.clear(NIC);
    guest.invalidate.contexts();
    expect(seen).toEqual(["10+1 1000 3", "12+2 1002 3", "200+512 4000 3"]);
  });
});

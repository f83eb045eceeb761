/**
 * Hosts that let their guest run at once: from the sink of messages, or when a lease is recalled. The unit is then in the middle of something.
 */

import { Access } from "@iommu-kit/iommu-core";
import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { descriptor, GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { PageGroupResponse } from "../../src/spec/page-request.js";
import { DescriptorType } from "../../src/spec/invalidation.js";
import { scalableGuest } from "../ats/ats-guest.js";

const NIC = "00:03.0";
const GCMD = 0x18;
const IQH = 0x80;
const IQT = 0x88;
const ICS = 0x9c;
const PRS = 0xdc;

/** A guest with the completion event unmasked, whose device is in domain 1; `handler` runs inside each message. */
function interruptedGuest(
  handler: (guest: GuestDriver, count: number) => void,
  options: GuestOptions = {},
): { readonly guest: GuestDriver; readonly invalidated: string[] } {
  const guest = new GuestDriver(options);
  guest.map(1, { iovaPfn: 0x10, pageCount: 4, gpaPfn: 0x1000 });
  guest.context(NIC, { did: 1 });
  guest.start();
  const invalidated: string[] = [];
  guest.device(NIC).events.on("invalidate", ({ iovaPfn, pageCount }) => invalidated.push(`${iovaPfn}+${pageCount}`));
  guest.device(NIC).attach({ kind: "unmap", unmap: () => undefined });
  guest.unit.mmio.write32(0xa8, 0xfee0_0000);
  guest.unit.mmio.write32(0xa0, 0);
  let count = 0;
  onMessage(guest, () => handler(guest, (count += 1)));
  return { guest, invalidated };
}

function onMessage(guest: GuestDriver, handler: () => void): void {
  guest.messages.push = () => {
    handler();
    return 0;
  };
}

const interrupting = descriptor.wait({ interrupt: true });

describe("a guest that runs inside a message of its unit", () => {
  it("may submit descriptors: each is carried out once, behind the wait that sent the message", () => {
    const { guest, invalidated } = interruptedGuest(({ queue, unit }, count) => {
      unit.mmio.write32(ICS, 1);
      if (count === 1) queue.submit(descriptor.page(1, 0x77), queue.waitFor(5));
    });
    guest.queue.submit(interrupting, descriptor.page(1, 0x66));
    expect(invalidated).toEqual(["102+1", "119+1"]);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(5);
    expect(guest.unit.mmio.read32(IQH)).toBe(guest.unit.mmio.read32(IQT));
  });

  it("may switch the queue off, and on again: it begins at its start", () => {
    const { guest, invalidated } = interruptedGuest(({ unit }, count) => {
      if (count === 1) unit.mmio.write32(GCMD, 0x8000_0000);
    });
    guest.queue.submit(interrupting, descriptor.page(1, 0x66));
    expect(guest.unit.mmio.read32(IQH)).toBe(0);
    expect(invalidated).toEqual([]);
    guest.unit.mmio.write32(ICS, 1);
    guest.unit.mmio.write32(GCMD, 0x8400_0000);
    expect(invalidated).toEqual(["102+1"]);
    expect(guest.unit.mmio.read32(IQH)).toBe(guest.unit.mmio.read32(IQT));
  });

  it("gets no more than a slice in one access, however often it submits; the rest follows from the event loop", async () => {
    let messages = 0;
    const { guest } = interruptedGuest(
      ({ queue, unit }, count) => {
        messages = count;
        unit.mmio.write32(ICS, 1);
        if (count < 100) queue.submit(interrupting);
      },
      { limits: { entriesPerSlice: 16 } },
    );
    guest.queue.submit(interrupting);
    expect(messages).toBeLessThanOrEqual(16);
    await guest.scheduler.idle();
    expect(messages).toBe(100);
  });

  it("may answer a page request that the message is about", async () => {
    const guest = scalableGuest();
    const { mmio } = guest.unit;
    guest.pasid(NIC, 5, { did: 2, type: "first-stage" });
    mmio.write64(0xd0, BigInt(guest.newFrame()) * 4096n);
    mmio.write32(0xe8, 0xfee0_0000);
    mmio.write32(0xe0, 0);
    onMessage(guest, () => {
      mmio.write32(PRS, 3);
      guest.queue.run(PageGroupResponse.pack({ TYPE: DescriptorType.PAGE_GROUP_RESPONSE, PP: 1, RID: 0x18, PASID: 5 }));
    });
    await expect(guest.unit.ats(guest.device(NIC, { pasid: 5 })).requestPage({ iovaPfn: 9 })).resolves.toBe("success");
  });
});

describe("a guest that runs while a lease is recalled", () => {
  it("is told that the invalidation is done when the lease has been given back, not before", async () => {
    const { guest, invalidated } = interruptedGuest(() => undefined);
    const { queue } = guest;
    const lease = guest.device(NIC).dma.segments(0x10_000, 4096, Access.write);
    if (lease === undefined) throw new Error("expected a lease");
    lease.onRecall = () => queue.submit(queue.waitFor(7));
    queue.submit(descriptor.page(1, 0x10));
    await guest.scheduler.idle();
    expect([...invalidated, guest.memory.peek(queue.statusGpa)]).toEqual(["16+1", 0]);
    lease.release();
    await guest.scheduler.idle();
    expect(guest.memory.peek(queue.statusGpa)).toBe(7);
    expect(guest.unit.mmio.read32(IQH)).toBe(guest.unit.mmio.read32(IQT));
  });
});

describe("a guest that runs in a listener of invalidations", () => {
  it("may submit descriptors: each is carried out once, in order, and its wait comes last", () => {
    const { guest, invalidated } = interruptedGuest(() => undefined);
    const { queue, unit } = guest;
    let ran = false;
    guest.device(NIC).events.on("invalidate", () => {
      if (ran) return;
      ran = true;
      queue.submit(descriptor.page(1, 0x77), queue.waitFor(9));
      expect(guest.memory.peek(queue.statusGpa)).toBe(0);
    });
    queue.submit(descriptor.page(1, 0x66), descriptor.page(1, 0x67));
    expect([...invalidated, guest.memory.peek(queue.statusGpa)]).toEqual(["102+1", "103+1", "119+1", 9]);
    expect(unit.mmio.read32(IQH)).toBe(unit.mmio.read32(IQT));
  });

  it("may turn translation off: mirrors end with the identity mapping, and the status bit follows", () => {
    const { guest } = interruptedGuest(() => undefined, { cachingMode: true });
    const mirror = new RecordingNotifier();
    const space = guest.device(NIC);
    space.attach(mirror);
    let ran = false;
    space.events.on("invalidate", () => {
      if (ran) return;
      ran = true;
      guest.disable();
    });
    guest.unmap(1, 0x11);
    guest.queue.submit(descriptor.page(1, 0x11));
    expect([0x10, 0x11, 0x5000].map((pfn) => mirror.lookup(pfn)?.gpaPfn)).toEqual([0x10, 0x11, 0x5000]);
    expect(guest.unit.mmio.read32(0x1c) >>> 31).toBe(0);
    guest.enable();
    expect([0x10, 0x11, 0x5000].map((pfn) => mirror.lookup(pfn)?.gpaPfn)).toEqual([0x1000, undefined, undefined]);
    expect(mirror.breaches).toEqual([]);
  });
});

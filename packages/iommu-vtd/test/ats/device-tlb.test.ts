import fc from "fast-check";
import { ALL_FRAMES, parseSourceId } from "@iommu-kit/iommu-core";
import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { describe, expect, it } from "vitest";
import { descriptor, GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { DescriptorType } from "../../src/spec/invalidation.js";
import { DeviceTlbDescriptor } from "../../src/spec/descriptors.js";
import { deviceTlb, legacyGuest, NIC, pasidDeviceTlb, RecordingTlb, scalableGuest } from "./ats-guest.js";

const SID = parseSourceId(NIC);
const IQERCD = 0xb0;
const ITE = 0x40;
const ICE = 0x20;
const IQE = 0x10;
const IQH = 0x80;

function itesid(guest: GuestDriver): number {
  return Number((guest.unit.mmio.read64(IQERCD) >> 32n) & 0xffffn);
}

describe("a device-TLB notifier", () => {
  it("hears device-TLB invalidations and no others", () => {
    const { guest } = legacyGuest();
    const tlb = new RecordingTlb();
    guest.device(NIC).attach(tlb);
    guest.invalidate.all();
    guest.invalidate.domain(1);
    guest.invalidate.page(1, 0x10);
    guest.invalidate.contexts();
    expect(tlb.take()).toEqual([]);
    guest.queue.run(deviceTlb(SID, 0x10));
    expect(tlb.take()).toEqual([{ firstPfn: 0x10, pageCount: 1 }]);
  });

  it("hears every change while the guest has not enabled ATS for the device, and when that begins or ends", () => {
    const { guest } = legacyGuest();
    const tlb = new RecordingTlb();
    guest.device(NIC).attach(tlb);
    guest.context(NIC, { did: 1 });
    guest.invalidate.contexts();
    expect(tlb.take()).toEqual([ALL_FRAMES]);
    guest.invalidate.page(1, 0x10);
    expect(tlb.take()).toEqual([{ firstPfn: 0x10, pageCount: 1 }]);
    guest.context(NIC, { did: 1, fields: { TT: 1 } });
    guest.invalidate.contexts();
    expect(tlb.take()).toEqual([ALL_FRAMES]);
    guest.invalidate.page(1, 0x10);
    expect(tlb.take()).toEqual([]);
    // Requests pass now, and nobody may ask for translations.
    guest.disable();
    expect(tlb.take()).toEqual([ALL_FRAMES]);
    guest.enable();
    expect(tlb.take()).toEqual([ALL_FRAMES]);
  });

  it("hears only those of its own requester", () => {
    const { guest } = legacyGuest();
    const [mine, other] = [new RecordingTlb(), new RecordingTlb()];
    guest.device(NIC).attach(mine);
    guest.device("00:04.0").attach(other);
    expect(guest.queue.run(deviceTlb(parseSourceId("00:04.0"), 0x10))).toBe(true);
    expect(guest.queue.run(deviceTlb(parseSourceId("07:00.0"), 0x10))).toBe(true);
    expect([mine.take(), other.take()]).toEqual([[], [{ firstPfn: 0x10, pageCount: 1 }]]);
  });

  it("is told the range that trailing ones and S name, clipped to what it was attached for", () => {
    const { guest } = legacyGuest();
    const tlb = new RecordingTlb();
    guest.device(NIC).attach(tlb, { range: { firstPfn: 0x100, pageCount: 0x100 } });
    for (const addr of [0x100, 0x101, 0x103, 0x1ff, 2 ** 51 - 1]) guest.queue.run(deviceTlb(SID, addr, 1));
    guest.queue.run(deviceTlb(SID, 0x300));
    expect(tlb.take()).toEqual([
      { firstPfn: 0x100, pageCount: 2 },
      { firstPfn: 0x100, pageCount: 4 },
      { firstPfn: 0x100, pageCount: 8 },
      { firstPfn: 0x100, pageCount: 0x100 },
      { firstPfn: 0x100, pageCount: 0x100 },
    ]);
  });

  it("covers every page that a descriptor's size encoding names", () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 30 }), fc.nat(2 ** 20), (order, place) => {
        const { guest } = legacyGuest();
        const tlb = new RecordingTlb();
        guest.device(NIC).attach(tlb);
        const size = 2 ** order;
        const first = place * size;
        guest.queue.run(deviceTlb(SID, first + size / 2 - 1, 1));
        expect(tlb.take()).toEqual([{ firstPfn: first, pageCount: size }]);
      }),
      { numRuns: 40 },
    );
  });

  it("is refused by a unit without device TLBs, where the descriptor is invalid as well", () => {
    const guest = new GuestDriver();
    guest.context(NIC, { did: 1 });
    guest.start();
    expect(() => guest.device(NIC).attach(new RecordingTlb())).toThrow("deviceTlb");
    guest.queue.submit(deviceTlb(SID, 0x10));
    expect(guest.faultStatus & IQE).toBe(IQE);
    expect(Number(guest.unit.mmio.read64(IQERCD) & 0xfn)).toBe(3);
  });

  it("of a PASID hears descriptors for that PASID, and those for every PASID", () => {
    const guest = scalableGuest();
    const [five, six, none] = [new RecordingTlb(), new RecordingTlb(), new RecordingTlb()];
    guest.device(NIC, { pasid: 5 }).attach(five);
    guest.device(NIC, { pasid: 6 }).attach(six);
    guest.device(NIC).attach(none);
    guest.queue.run(pasidDeviceTlb(SID, 5, 0x10));
    guest.queue.run(pasidDeviceTlb(SID, "every", 0x20));
    guest.queue.run(deviceTlb(SID, 0x30));
    const page = (firstPfn: number): object => ({ firstPfn, pageCount: 1 });
    expect(five.take()).toEqual([page(0x10), page(0x20)]);
    expect(six.take()).toEqual([page(0x20)]);
    expect(none.take()).toEqual([page(0x30)]);
  });

  it("finds a reserved bit of its descriptor reported: PFSID without DIT", () => {
    const { guest } = legacyGuest();
    guest.queue.submit(DeviceTlbDescriptor.pack({ TYPE: DescriptorType.DEVICE_TLB, SID, PFSID_LO: 1 }));
    expect(guest.faultStatus & IQE).toBe(IQE);
    expect(Number(guest.unit.mmio.read64(IQERCD) & 0xfn)).toBe(4);
  });
});

describe("a wait behind a device-TLB invalidation", () => {
  it("completes when the device has answered", async () => {
    const { guest } = legacyGuest();
    const tlb = new RecordingTlb("manual");
    guest.device(NIC).attach(tlb);
    expect(guest.queue.run(deviceTlb(SID, 0x10))).toBe(false);
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(false);
    tlb.answers.settle();
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    expect(guest.scheduler.timerCount).toBe(0);
    expect(guest.faultStatus).toBe(0);
  });

  it("is aborted when the device does not answer in time: ITE, its source-id, one fault event; the queue stops", async () => {
    const { guest } = legacyGuest({ deviceTlbDeadlineMilliseconds: 500 });
    guest.unit.mmio.write32(0x38, 0);
    const tlb = new RecordingTlb("manual");
    guest.device(NIC).attach(tlb);
    guest.queue.run(deviceTlb(SID, 0x10));
    guest.scheduler.advance(499);
    expect(guest.faultStatus).toBe(0);
    guest.scheduler.advance(1);
    expect(guest.faultStatus).toBe(ITE);
    expect(itesid(guest)).toBe(SID);
    expect(guest.messages).toHaveLength(1);
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(false);
    const head = guest.unit.mmio.read64(IQH);
    expect(guest.queue.run(descriptor.all())).toBe(false);
    expect(guest.unit.mmio.read64(IQH)).toBe(head);
  });

  it("goes on without a tail write once software has cleared ITE", async () => {
    const { guest } = legacyGuest();
    const tlb = new RecordingTlb("manual");
    guest.device(NIC).attach(tlb);
    guest.queue.run(deviceTlb(SID, 0x10));
    guest.scheduler.advance(2000);
    await guest.scheduler.idle();
    expect(guest.queue.run(descriptor.all())).toBe(false);
    guest.unit.mmio.write32(0x34, ITE);
    await guest.scheduler.idle();
    expect(guest.faultStatus).toBe(0);
    expect(guest.queue.completed).toBe(true);
    expect(guest.unit.mmio.read64(IQH)).toBe(guest.unit.mmio.read64(0x88));
  });

  it("never stores the aborted status, however late the device answers", async () => {
    const { guest } = legacyGuest();
    const tlb = new RecordingTlb("manual");
    guest.device(NIC).attach(tlb);
    guest.queue.run(deviceTlb(SID, 0x10));
    guest.scheduler.advance(2000);
    guest.unit.mmio.write32(0x34, ITE);
    tlb.answers.settle();
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(false);
    expect(guest.faultStatus).toBe(0);
  });

  it("after a time-out still waits for another notifier that was busy before it", async () => {
    const { guest } = legacyGuest({ cachingMode: true, limits: { consumerDeadlineMilliseconds: 100_000 } });
    const tlb = new RecordingTlb("manual");
    const mirror = new RecordingNotifier();
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    guest.invalidate.all();
    guest.device(NIC).attach(tlb);
    guest.device(NIC).attach(mirror);
    mirror.answers.mode = "manual";
    guest.unmap(1, 0x10);
    expect(guest.queue.run(descriptor.all(), deviceTlb(SID, 0x10))).toBe(false);
    guest.scheduler.advance(2000);
    expect(guest.faultStatus).toBe(ITE);
    guest.unit.mmio.write32(0x34, ITE);
    guest.queue.run(descriptor.all());
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(false);
    mirror.answers.settle();
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
  });

  it("is aborted once: a device that fails after its deadline is not reported again", async () => {
    const { guest } = legacyGuest();
    const tlb = new RecordingTlb("manual");
    guest.device(NIC).attach(tlb);
    guest.queue.run(deviceTlb(SID, 0x10));
    guest.scheduler.advance(2000);
    guest.unit.mmio.write32(0x34, ITE);
    tlb.answers.fail(new Error("gone"));
    await guest.scheduler.idle();
    expect(guest.faultStatus).toBe(0);
  });

  it("has one deadline, from when they are sent, with all the others that wait until the device has a tag for them", async () => {
    const { guest } = legacyGuest();
    const tlb = new RecordingTlb("manual");
    guest.device(NIC).attach(tlb);
    guest.queue.run(...Array.from({ length: 40 }, (_, page) => deviceTlb(SID, page)));
    expect(tlb.take()).toHaveLength(32);
    expect(guest.scheduler.timerCount).toBe(32);
    tlb.answers.settle();
    await guest.scheduler.idle();
    expect(guest.scheduler.timerCount).toBe(1);
    tlb.answers.settle();
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    expect(guest.scheduler.timerCount).toBe(0);
  });

  it("of a device that rejects or throws is aborted, and the failure is an event", async () => {
    for (const way of ["reject", "throw"] as const) {
      const { guest } = legacyGuest();
      const failed: string[] = [];
      guest.unit.events.on("failed", ({ error }) => failed.push(error.code));
      const tlb = new RecordingTlb();
      const invalidate = (): Promise<void> => {
        if (way === "throw") throw new Error("broken");
        return Promise.reject(new Error("broken"));
      };
      guest.device(NIC).attach(Object.assign(tlb, { invalidate }));
      guest.queue.run(deviceTlb(SID, 0x10));
      await guest.scheduler.idle();
      expect(guest.faultStatus).toBe(ITE);
      expect(failed).toEqual(["notifier-failed"]);
      expect(tlb.revoked).toBe(true);
      expect(guest.queue.completed).toBe(false);
    }
  });

  it("reports the first device that timed out, until software clears ITE", () => {
    const { guest } = legacyGuest();
    guest.device(NIC).attach(new RecordingTlb("manual"));
    guest.device("00:04.0").attach(new RecordingTlb("manual"));
    guest.queue.run(deviceTlb(SID, 0x10), deviceTlb(parseSourceId("00:04.0"), 0x10));
    guest.scheduler.advance(2000);
    expect(itesid(guest)).toBe(SID);
  });

  it("raises no time-out on a unit that has been reset meanwhile", () => {
    const { guest } = legacyGuest();
    guest.device(NIC).attach(new RecordingTlb("manual"));
    guest.queue.run(deviceTlb(SID, 0x10));
    void guest.unit.reset();
    guest.scheduler.advance(10_000);
    expect(guest.faultStatus).toBe(0);
  });

  describe("beyond the 32 that a device may leave unanswered", () => {
    /** A device that never answers, and 40 invalidations of it. */
    async function silentGuest(): Promise<{ readonly guest: GuestDriver; readonly tlb: RecordingTlb }> {
      const { guest } = legacyGuest({ deviceTlbDeadlineMilliseconds: 500 });
      const tlb = new RecordingTlb("manual");
      guest.device(NIC).attach(tlb);
      for (let pfn = 0; pfn < 40; pfn++) guest.queue.submit(deviceTlb(SID, 0x1000 + pfn));
      await guest.scheduler.idle();
      expect(tlb.take()).toHaveLength(32);
      return { guest, tlb };
    }

    /** One more, with a wait: the device is told, and the wait ends with ITE, not with its status. */
    async function expectSentAndTimedOut(guest: GuestDriver, tlb: RecordingTlb): Promise<void> {
      expect(guest.queue.run(deviceTlb(SID, 0x9999))).toBe(false);
      await guest.scheduler.idle();
      expect(tlb.take()).toEqual([{ firstPfn: 0x9999, pageCount: 1 }]);
      guest.scheduler.advance(500);
      await guest.scheduler.idle();
      expect(guest.queue.completed).toBe(false);
      expect(guest.faultStatus).toBe(ITE);
    }

    it("sends those that waited, as one, when the first have timed out", async () => {
      const { guest, tlb } = await silentGuest();
      guest.scheduler.advance(500);
      await guest.scheduler.idle();
      expect(guest.faultStatus).toBe(ITE);
      expect(tlb.take()).toEqual([{ firstPfn: 0x1020, pageCount: 8 }]);
      guest.unit.mmio.write32(0x34, ITE);
      guest.scheduler.advance(500);
      expect(guest.faultStatus).toBe(ITE);
      expect(guest.scheduler.timerCount).toBe(0);
    });

    it("sends the next one after a time-out: its wait does not complete by what was given up", async () => {
      const { guest, tlb } = await silentGuest();
      guest.scheduler.advance(500);
      await guest.scheduler.idle();
      tlb.take();
      guest.unit.mmio.write32(0x34, ITE);
      await expectSentAndTimedOut(guest, tlb);
    });

    it("sends the next one after a reset, and nothing that waited before it", async () => {
      const { guest, tlb } = await silentGuest();
      void guest.unit.reset();
      guest.start();
      await guest.scheduler.idle();
      // Off and on again: meanwhile the guest could not have named it.
      expect(tlb.take()).toContainEqual(ALL_FRAMES);
      await expectSentAndTimedOut(guest, tlb);
      tlb.answers.settle();
      await guest.scheduler.idle();
      expect(tlb.take()).toEqual([]);
    });

    it("gives one that waited its whole deadline from when it is sent", async () => {
      const { guest, tlb } = await silentGuest();
      guest.scheduler.advance(400);
      tlb.answers.settle();
      await guest.scheduler.idle();
      expect(tlb.take()).toEqual([{ firstPfn: 0x1020, pageCount: 8 }]);
      guest.scheduler.advance(499);
      expect(guest.faultStatus).toBe(0);
      guest.scheduler.advance(1);
      expect(guest.faultStatus).toBe(ITE);
    });
  });

  it("is not held up by a slow consumer of another kind for longer than that one's deadline; no ITE", async () => {
    const { guest } = legacyGuest({ limits: { consumerDeadlineMilliseconds: 300 } });
    const slow = new RecordingFlushNotifier({ answers: "manual" });
    slow.answers.mode = "sync";
    guest.device(NIC).attach(slow);
    slow.answers.mode = "manual";
    guest.queue.run(descriptor.all());
    guest.scheduler.advance(300);
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    expect(guest.faultStatus).toBe(0);
    expect(slow.revoked?.code).toBe("notifier-timeout");
  });
});

describe("a completion that nobody asked for", () => {
  it("sets ICE and its source-id, raises the event once, and lets the queue go on", () => {
    const { guest, ats } = legacyGuest();
    guest.unit.mmio.write32(0x38, 0);
    ats.strayCompletion();
    expect(guest.faultStatus).toBe(ICE);
    expect(Number(guest.unit.mmio.read64(IQERCD) >> 48n)).toBe(SID);
    guest.unit.ats(guest.device("00:04.0")).strayCompletion();
    expect(Number(guest.unit.mmio.read64(IQERCD) >> 48n)).toBe(SID);
    expect(guest.messages).toHaveLength(1);
    expect(guest.queue.run(descriptor.all())).toBe(true);
    guest.unit.mmio.write32(0x34, ICE);
    expect(guest.faultStatus).toBe(0);
  });
});

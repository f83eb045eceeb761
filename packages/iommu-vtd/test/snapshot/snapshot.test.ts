import fc from "fast-check";
import { ALL_FRAMES, IommuError } from "@iommu-kit/iommu-core";
import { FakeMemory, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { restore, restoreAll, save, saveAll } from "@iommu-kit/iommu-vtd/snapshot";
import {
  Command,
  descriptor,
  type GuestDriver,
  type GuestOptions,
  remappableMessage,
} from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { deviceTlb, legacyGuest, RecordingTlb } from "../ats/ats-guest.js";
import { ask, WatchedGuest } from "../support/watched-guest.js";

const NIC = "00:03.0";
const CCMD = 0x28;
const FSTS = 0x34;
const IQH = 0x80;

/** Through JSON, as to a file and back. */
function overTheWire(unit: VtdIommu): unknown {
  return JSON.parse(JSON.stringify(save(unit))) as unknown;
}

/** A unit like the guest's on the same memory, with a MAP notifier on the device. */
function twin(
  guest: GuestDriver,
  options: GuestOptions = {},
): { readonly unit: VtdIommu; readonly notifier: RecordingNotifier } {
  const { memory, scheduler } = guest;
  const config = { cachingMode: true, ...options };
  const unit = new VtdIommu({ ...config, memory, scheduler, msi: (message) => guest.messages.push(message) });
  const notifier = new RecordingNotifier({ name: "twin" });
  unit.addressSpace(0x18).attach(notifier);
  return { unit, notifier };
}

function busyGuest(options: GuestOptions = {}): WatchedGuest {
  const guest = new WatchedGuest(options);
  guest.map(1, { iovaPfn: 0x10, pageCount: 4, gpaPfn: 0x1000 });
  guest.map(1, { iovaPfn: 0x200, gpaPfn: 0x4000, leafPages: 512 });
  guest.context(NIC, { did: 1 });
  return guest;
}

/** All registers. */
function registers(unit: VtdIommu): number[] {
  return Array.from({ length: unit.mmio.byteLength / 4 }, (_, word) => unit.mmio.read32(word * 4));
}

describe("a snapshot", () => {
  it("restores registers, translation, queue position and views in a fresh unit", () => {
    const guest = busyGuest({ faultRecords: 4 });
    guest.start();
    const notifier = guest.watch(NIC);
    guest.enableInterruptRemapping();
    guest.interrupts.remapped(3, { V: 0x41, DST: 0x200 });
    ask(guest.device(NIC), 0x999);
    const { unit, notifier: twinNotifier } = twin(guest, { faultRecords: 4 });
    expect(restore(unit, overTheWire(guest.unit))).toBeUndefined();
    expect(registers(unit)).toEqual(registers(guest.unit));
    expect(twinNotifier.held()).toEqual(notifier.held());
    expect(ask(unit.addressSpace(0x18), 0x11)).toBe(0x1001);
    guest.messages.length = 0;
    expect(unit.interrupt(0x18, remappableMessage(3))).toBe(true);
    expect(guest.messages).toHaveLength(1);
    // The queue goes on where it was, and the next fault takes the next record.
    guest.queue.write(descriptor.all(), guest.queue.waitFor(77));
    unit.mmio.write32(0x88, guest.queue.tailBytes);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(77);
    unit.mmio.write32(0x22c, 0x8000_0000);
    ask(unit.addressSpace(0x18), 0x998);
    expect(unit.mmio.read32(0x23c) >>> 31).toBe(1);
    twinNotifier.check();
  });

  it("restored where everything stands tells notifiers nothing", () => {
    const guest = busyGuest();
    guest.start();
    const notifier = guest.watch(NIC);
    notifier.take();
    void restore(guest.unit, overTheWire(guest.unit));
    expect(notifier.take()).toEqual([]);
    guest.assertInStep(NIC, notifier);
  });

  it("is restored by differences: what both states map stays mapped", () => {
    const guest = busyGuest();
    guest.start();
    const notifier = guest.watch(NIC);
    const before = overTheWire(guest.unit);
    guest.unmap(1, 0x10);
    guest.map(1, { iovaPfn: 0x20, gpaPfn: 0x2000 });
    guest.invalidate.all();
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    guest.unmap(1, 0x20);
    notifier.take();
    // Memory of that time is back; the unit follows.
    void restore(guest.unit, before);
    expect(notifier.take().toSorted()).toEqual(["map 0x10+1 -> 0x1000 rw", "unmap 0x20+1"]);
    notifier.check();
  });

  it("never unmaps a page on the way to the state in which it is mapped the same", () => {
    const page = fc.record({ iova: fc.integer({ min: 0, max: 40 }), gpa: fc.integer({ min: 0, max: 60 }) });
    fc.assert(
      fc.property(
        fc.array(page, { maxLength: 20 }),
        fc.array(page, { maxLength: 20 }),
        fc.boolean(),
        (first, second, off) => {
          const guest = new WatchedGuest();
          guest.context(NIC, { did: 1 });
          guest.start();
          const memory: { iova: number; gpa: number }[][] = [first, second];
          const snapshots = memory.map((pages) => {
            for (let pfn = 0; pfn <= 40; pfn++) guest.unmap(1, pfn);
            for (const { iova, gpa } of pages) guest.map(1, { iovaPfn: iova, gpaPfn: gpa });
            guest.invalidate.all();
            if (off) guest.disable();
            const snapshot = overTheWire(guest.unit);
            if (off) guest.enable();
            return snapshot;
          });
          const notifier = new RecordingNotifier();
          guest.device(NIC).attach(notifier);
          const held = [new Map<number, number>(), new Map<number, number>()];
          for (const run of notifier.held())
            for (let i = 0; i < Math.min(run.pageCount, 64); i++) held[0]?.set(run.iovaPfn + i, run.gpaPfn + i);
          // The second state's tables are in memory; going to the first snapshot with the first state's tables.
          for (let pfn = 0; pfn <= 40; pfn++) guest.unmap(1, pfn);
          for (const { iova, gpa } of first) guest.map(1, { iovaPfn: iova, gpaPfn: gpa });
          notifier.calls.length = 0;
          void restore(guest.unit, snapshots[0]);
          for (const run of notifier.held())
            for (let i = 0; i < Math.min(run.pageCount, 64); i++) held[1]?.set(run.iovaPfn + i, run.gpaPfn + i);
          for (const call of notifier.calls.filter(({ type }) => type === "unmap")) {
            for (let pfn = call.iovaPfn; pfn < call.iovaPfn + Math.min(call.pageCount, 64); pfn++) {
              const was = held[0]?.get(pfn);
              if (was !== undefined) expect(held[1]?.get(pfn)).not.toBe(was);
            }
          }
          notifier.check();
        },
      ),
      { numRuns: 60 },
    );
  });

  it("keeps a message that waits for its mask", () => {
    const guest = busyGuest();
    guest.start();
    ask(guest.device(NIC), 0x999);
    const { unit } = twin(guest);
    void restore(unit, overTheWire(guest.unit));
    expect(unit.mmio.read32(0x38)).toBe(0xc000_0000);
    guest.messages.length = 0;
    unit.mmio.write32(0x38, 0);
    expect(guest.messages).toHaveLength(1);
  });

  it("keeps a message that waits for its distance from the last one", () => {
    const options = { eventIntervalMilliseconds: 100, faultRecords: 4 };
    const guest = busyGuest(options);
    guest.start();
    guest.unit.mmio.write32(0x38, 0);
    for (let fault = 0; fault < 2; fault++) {
      ask(guest.device(NIC), 0x999);
      guest.takeFaults();
    }
    ask(guest.device(NIC), 0x999);
    expect(guest.messages).toHaveLength(1);
    const { unit } = twin(guest, options);
    const state = overTheWire(guest.unit);
    void guest.unit.destroy();
    void restore(unit, state);
    guest.scheduler.advance(99);
    expect(guest.messages).toHaveLength(1);
    guest.scheduler.advance(1);
    expect(guest.messages).toHaveLength(2);
    expect(unit.mmio.read32(0x38)).toBe(0);
  });

  it("in which no message waits lets the first one go at once", () => {
    const options = { eventIntervalMilliseconds: 100, faultRecords: 4 };
    const guest = busyGuest(options);
    guest.start();
    guest.unit.mmio.write32(0x38, 0);
    const { unit } = twin(guest, options);
    void restore(unit, overTheWire(guest.unit));
    ask(unit.addressSpace(0x18), 0x999);
    expect(guest.messages).toHaveLength(1);
  });

  it("keeps an error of the queue, and goes on when software clears it", () => {
    const guest = busyGuest();
    guest.start();
    guest.queue.submit(Int32Array.of(0x0f), guest.queue.waitFor(5));
    const { unit } = twin(guest);
    void restore(unit, overTheWire(guest.unit));
    expect(unit.mmio.read32(FSTS) & 0x10).toBe(0x10);
    const at = guest.queue.basePfn * 4096 + unit.mmio.read32(IQH);
    guest.memory.poke(at, descriptor.all()[0] ?? 0);
    unit.mmio.write32(FSTS, 0x10);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(5);
  });

  it("keeps protected memory", () => {
    const guest = busyGuest({ protectedRegions: ["low"] });
    guest.unit.mmio.write32(0x68, 0x40_0000);
    guest.unit.mmio.write32(0x6c, 0x40_0000);
    guest.unit.mmio.write32(0x64, 0x8000_0000);
    const { unit, notifier } = twin(guest, { protectedRegions: ["low"] });
    void restore(unit, overTheWire(guest.unit));
    expect(unit.addressSpace(0x18).dma.read(0x400 * 4096, new Uint8Array(1))).toBe(false);
    expect(notifier.lookup(0x400)).toBeUndefined();
  });
});

describe("a snapshot taken while something is pending", () => {
  /** A guest whose notifier answers when told to. */
  async function waiting(options: GuestOptions = {}): Promise<{ guest: WatchedGuest; slow: RecordingNotifier }> {
    const guest = busyGuest({ limits: { consumerDeadlineMilliseconds: 1e9 }, ...options });
    guest.start();
    const slow = new RecordingNotifier({ answers: "sync" });
    guest.device(NIC).attach(slow);
    slow.answers.mode = "manual";
    await guest.scheduler.idle();
    return { guest, slow };
  }

  it("of a wait descriptor: the status is written after the restore, once", async () => {
    const { guest, slow } = await waiting();
    guest.unmap(1, 0x10);
    expect(guest.queue.run(descriptor.page(1, 0x10))).toBe(false);
    const snapshot = overTheWire(guest.unit);
    const head = guest.unit.mmio.read32(IQH);
    const { unit } = twin(guest);
    void restore(unit, snapshot);
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    expect(unit.mmio.read32(IQH)).toBe(head);
    guest.memory.poke(guest.queue.statusGpa, 0);
    unit.mmio.write32(0x88, guest.queue.tailBytes);
    expect(guest.memory.peek(guest.queue.statusGpa)).toBe(0);
    slow.answers.settle();
  });

  it("of a wait whose status cannot be stored: the error points at that descriptor", async () => {
    const { guest } = await waiting();
    guest.unmap(1, 0x10);
    const at = guest.queue.tailBytes + 16;
    guest.queue.submit(descriptor.page(1, 0x10), descriptor.wait({ status: { gpa: 2 ** 40, value: 1 } }));
    const { unit } = twin(guest);
    void restore(unit, overTheWire(guest.unit));
    await guest.scheduler.idle();
    expect(unit.mmio.read32(FSTS) & 0x10).toBe(0x10);
    expect(unit.mmio.read32(IQH)).toBe(at);
  });

  it("of a device-TLB invalidation: the device has dropped everything when the wait behind it completes", async () => {
    const { guest } = legacyGuest();
    const tlb = new RecordingTlb();
    guest.device(NIC).attach(tlb);
    tlb.answers.mode = "manual";
    expect(guest.queue.run(deviceTlb(0x18, 0x10))).toBe(false);
    const snapshot = overTheWire(guest.unit);
    tlb.take();
    void restore(guest.unit, snapshot);
    expect(tlb.take()).toEqual([ALL_FRAMES]);
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(false);
    tlb.answers.settle();
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    // From here on the guest names what is to be dropped, as before.
    tlb.answers.mode = "sync";
    guest.invalidate.all();
    expect(tlb.take()).toEqual([]);
  });

  it("of a restore itself: saved again, nothing is lost", async () => {
    const { guest } = await waiting();
    guest.unmap(1, 0x10);
    guest.queue.run(descriptor.page(1, 0x10));
    guest.unmap(1, 0x11);
    expect(guest.command(Command.SRTP)).toBe(false);
    const first = overTheWire(guest.unit);
    const second = twin(guest);
    const slowTwin = new RecordingNotifier({ answers: "manual" });
    second.unit.addressSpace(0x18).attach(slowTwin);
    void restore(second.unit, first);
    expect(second.unit.mmio.read32(0x1c) & 0x4000_0000).toBe(0);
    const third = twin(guest);
    void restore(third.unit, overTheWire(second.unit));
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    expect(third.unit.mmio.read32(0x1c) & 0x4000_0000).toBe(0x4000_0000);
  });

  it("of enabling translation: the unit translates, TES follows when the new notifiers are there", async () => {
    const guest = busyGuest({ limits: { consumerDeadlineMilliseconds: 1e9 } });
    const slow = new RecordingNotifier({ answers: "manual" });
    guest.device(NIC).attach(slow);
    slow.answers.settle();
    await guest.scheduler.idle();
    guest.setRoot();
    expect(guest.enable()).toBe(false);
    const snapshot = overTheWire(guest.unit);
    const { unit, notifier } = twin(guest);
    notifier.answers.mode = "manual";
    const done = restore(unit, snapshot);
    expect(done).toBeInstanceOf(Promise);
    expect(ask(unit.addressSpace(0x18), 0x11)).toBe(0x1001);
    expect(unit.mmio.read32(0x1c) >>> 31).toBe(0);
    notifier.answers.settle();
    await done;
    await guest.scheduler.idle();
    expect(unit.mmio.read32(0x1c) >>> 31).toBe(1);
  });

  it("of CCMD and IOTLB: they clear with the granularity that the first unit would have reported", async () => {
    const guest = busyGuest({ limits: { consumerDeadlineMilliseconds: 1e9 } });
    const slow = new RecordingNotifier();
    guest.device(NIC).attach(slow);
    guest.setRoot();
    guest.enable();
    slow.answers.mode = "manual";
    guest.unmap(1, 0x10);
    expect(guest.registers.contextsOfDomain(1)).toBe("pending");
    guest.unmap(1, 0x11);
    expect(guest.registers.page(1, 0x11)).toBe("pending");
    const { unit } = twin(guest);
    void restore(unit, overTheWire(guest.unit));
    slow.answers.settle();
    await guest.scheduler.idle();
    slow.answers.settle();
    await guest.scheduler.idle();
    expect(unit.mmio.read64(CCMD)).toBe(guest.unit.mmio.read64(CCMD));
    expect(unit.mmio.read64(0xf8)).toBe(guest.unit.mmio.read64(0xf8));
    expect(unit.mmio.read64(CCMD) >> 59n).toBe(0b0_10_01n);
  });

  it("behind register commands keeps what they reported, although they would be refused now", () => {
    const guest = busyGuest();
    guest.setRoot();
    expect([guest.registers.context(NIC, 1), guest.registers.domain(1)]).toEqual([3, 2]);
    guest.enableQueue();
    const { unit } = twin(guest);
    void restore(unit, overTheWire(guest.unit));
    expect(unit.mmio.read64(CCMD)).toBe(guest.unit.mmio.read64(CCMD));
    expect(unit.mmio.read64(0xf8)).toBe(guest.unit.mmio.read64(0xf8));
    expect(unit.mmio.read64(CCMD) >> 59n).toBe(0b0_11_11n);
  });

  it("in the middle of a slice: the queue and the views are finished after the restore", async () => {
    const guest = busyGuest({ limits: { entriesPerSlice: 600 } });
    guest.start();
    const notifier = guest.watch(NIC);
    await guest.scheduler.idle();
    for (let i = 0; i < 40; i++) guest.map(1, { iovaPfn: 0x10000 + i * 512, gpaPfn: i });
    expect(guest.queue.run(descriptor.all(), descriptor.all(), descriptor.all())).toBe(false);
    expect(guest.scheduler.deferredCount).toBeGreaterThan(0);
    const { unit, notifier: twinNotifier } = twin(guest);
    await restore(unit, overTheWire(guest.unit));
    await guest.scheduler.idle();
    expect(guest.queue.completed).toBe(true);
    expect(twinNotifier.held()).toEqual(guest.reachable(NIC));
    expect(notifier.held()).toEqual(guest.reachable(NIC));
    expect(registers(unit)).toEqual(registers(guest.unit));
  });
});

describe("a snapshot that does not fit", () => {
  /** A running unit to which a snapshot is offered; it must stay as it is. */
  function offer(options: GuestOptions = {}): (data: unknown) => string {
    const guest = busyGuest(options);
    guest.start();
    const notifier = new RecordingNotifier();
    guest.device(NIC).attach(notifier);
    notifier.take();
    const before = registers(guest.unit);
    return (data) => {
      let message = "";
      try {
        void restore(guest.unit, data);
      } catch (error) {
        expect(error).toBeInstanceOf(IommuError);
        expect((error as IommuError).code).toBe("bad-snapshot");
        ({ message } = error as IommuError);
      }
      expect(message).not.toBe("");
      expect(registers(guest.unit)).toEqual(before);
      expect(notifier.take()).toEqual([]);
      expect(ask(guest.device(NIC), 0x11)).toBe(0x1001);
      return message;
    };
  }

  function good(): Record<string, unknown> {
    const guest = busyGuest();
    guest.start();
    return overTheWire(guest.unit) as Record<string, unknown>;
  }

  it("is refused with what would fit, and changes nothing: another version, format, unit", () => {
    const refused = offer();
    expect(refused({ ...good(), version: 2 })).toMatch(/expected version 1, got 2/);
    expect(refused({ ...good(), format: "other" })).toMatch(/format/);
    expect(offer({ faultRecords: 2 })(good())).toMatch(/VER, CAP, ECAP/);
    expect(offer({ hostAddressWidth: 39 })(good())).toMatch(/VER, CAP, ECAP/);
    for (const data of [null, undefined, 5, "snapshot", [], {}]) refused(data);
  });

  it("is refused when any number or flag in it has changed", () => {
    const refused = offer();
    const paths: (readonly (string | number)[])[] = [];
    const collect = (value: unknown, path: readonly (string | number)[]): void => {
      if (typeof value !== "object" || value === null) paths.push(path);
      else for (const [key, inner] of Object.entries(value)) collect(inner, [...path, key]);
    };
    const snapshot = good();
    collect(snapshot, []);
    expect(paths.length).toBeGreaterThan(40);
    for (const path of paths) {
      const damaged = structuredClone(snapshot);
      let owner = damaged as Record<string | number, unknown>;
      for (const key of path.slice(0, -1)) owner = owner[key] as Record<string | number, unknown>;
      const last = path.at(-1) ?? "";
      const value = owner[last];
      owner[last] = typeof value === "number" ? value ^ 4 : typeof value === "boolean" ? !value : "damaged";
      refused(damaged);
    }
  });

  it("is refused when a part is missing, doubled or of another type", () => {
    const refused = offer();
    const snapshot = good();
    for (const key of Object.keys(snapshot)) {
      refused({ ...snapshot, [key]: undefined });
      refused({ ...snapshot, [key]: "text" });
      refused({ ...snapshot, [key]: { deeper: [] } });
    }
    const words = snapshot["registers"] as [number, number][];
    refused({ ...snapshot, registers: [...words, [0x7fff_ffff, 1]] });
    refused({ ...snapshot, registers: [...words, ...words] });
    refused({ ...snapshot, waiting: [5, 0, 0, 0] });
    expect(refused({ ...snapshot, nextFault: Number.NaN })).toMatch(/nextFault/);
  });

  it("is refused for any data at all without throwing anything else", () => {
    fc.assert(
      fc.property(fc.anything(), (data) => {
        const unit = new VtdIommu({ memory: new FakeMemory(), msi: () => undefined });
        expect(() => restore(unit, data)).toThrow(IommuError);
      }),
      { numRuns: 300 },
    );
  });

  it("among several restores none of them", () => {
    const [one, other] = [busyGuest(), busyGuest()];
    one.start();
    other.start();
    const snapshots = JSON.parse(JSON.stringify(saveAll([one.unit, other.unit]))) as Record<string, unknown>[];
    one.disable();
    other.disable();
    const before = [registers(one.unit), registers(other.unit)];
    const units = [one.unit, other.unit];
    expect(() => restoreAll(units, [snapshots[0], { ...snapshots[1], version: 9 }])).toThrow(IommuError);
    expect(() => restoreAll(units, [snapshots[0]])).toThrow(IommuError);
    expect(() => restoreAll([one.unit, one.unit], snapshots)).toThrow(IommuError);
    expect([registers(one.unit), registers(other.unit)]).toEqual(before);
    void restoreAll(units, snapshots);
    expect(one.status).toBe(other.status);
    expect(one.status >>> 31).toBe(1);
  });

  it("is refused from inside a notifier's callback", () => {
    const guest = busyGuest();
    const snapshot = overTheWire(guest.unit);
    const caught: string[] = [];
    const notifier = new RecordingNotifier({
      onCall: () => {
        try {
          void restore(guest.unit, snapshot);
        } catch (error) {
          caught.push((error as IommuError).code);
        }
      },
    });
    guest.device(NIC).attach(notifier);
    expect(new Set(caught)).toEqual(new Set(["reentrant-call"]));
  });
});

import fc from "fast-check";
import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { formatInspection, inspect } from "@iommu-kit/iommu-vtd/inspect";
import { descriptor, GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { ask } from "../support/watched-guest.js";

const NIC = "00:03.0";

function busyGuest(options: GuestOptions = {}): GuestDriver {
  const guest = new GuestDriver({ cachingMode: true, faultRecords: 4, ...options });
  guest.map(1, { iovaPfn: 0x10, pageCount: 3, gpaPfn: 0x1000 });
  guest.map(1, { iovaPfn: 0x13, gpaPfn: 0x2000, access: 1 });
  guest.map(1, { iovaPfn: 0x200, gpaPfn: 0x4000, leafPages: 512 });
  guest.context(NIC, { did: 7, rootPfn: guest.tables(1).rootPfn });
  guest.start();
  return guest;
}

describe("inspect", () => {
  it("shows registers field by field with their meaning", () => {
    const guest = busyGuest();
    const { registers } = inspect(guest.unit);
    const gsts = registers.find(({ name }) => name === "GSTS");
    expect(gsts).toMatchObject({ offsetBytes: 0x1c, section: "§11.4.4.2" });
    expect(gsts?.fields.find(({ name }) => name === "TES")).toMatchObject({ bits: "31", value: 1 });
    expect(gsts?.fields.every(({ meaning }) => meaning !== "")).toBe(true);
    expect(registers.find(({ name }) => name === "CAP")?.value).toBe(`0x${guest.unit.mmio.read64(8).toString(16)}`);
    expect(registers.some(({ name }) => name === "PQA")).toBe(false);
  });

  it("shows what a device sees: its structures, its tables as ranges, its notifiers and what they hold", () => {
    const guest = busyGuest();
    const notifier = new RecordingNotifier({ name: "container" });
    guest.device(NIC).attach(notifier);
    guest.device(NIC).attach(new RecordingFlushNotifier({ name: "cache" }));
    const { devices, views, summary } = inspect(guest.unit);
    expect(summary).toBe("translating, legacy mode; interrupt remapping off");
    expect(devices).toHaveLength(1);
    expect(devices[0]).toMatchObject({
      device: NIC,
      kind: "table",
      domain: "domain 7, second-stage",
      refusal: null,
      mappings: {
        truncated: false,
        ranges: [
          { iovaPfn: 0x10, pageCount: 3, gpaPfn: 0x1000, access: "rw" },
          { iovaPfn: 0x13, pageCount: 1, gpaPfn: 0x2000, access: "r-" },
          { iovaPfn: 0x200, pageCount: 512, gpaPfn: 0x4000, access: "rw" },
        ],
      },
      notifiers: [
        { name: "container", kind: "map", state: "active", heldPages: 516 },
        { name: "cache", kind: "unmap", state: "active", heldPages: 0 },
      ],
    });
    expect(devices[0]?.structures.map(({ title }) => title)).toEqual(["Root entry", "Context entry"]);
    expect(devices[0]?.structures[1]?.fields.find(({ name }) => name === "DID")).toMatchObject({ value: 7 });
    expect(views).toMatchObject([{ members: ["container"], pageCount: 516, overBudget: false }]);
    expect(views[0]?.mappings).toEqual(devices[0]?.mappings);
  });

  it("shows the difference between the tables and what has been announced", () => {
    const guest = busyGuest();
    guest.device(NIC).attach(new RecordingNotifier());
    guest.unmap(1, 0x10, 3);
    const { devices, views } = inspect(guest.unit);
    expect(devices[0]?.mappings.ranges).toHaveLength(2);
    expect(views[0]?.mappings.ranges).toHaveLength(3);
  });

  it("says why a device is refused, and follows structures as far as they lead", () => {
    const guest = busyGuest();
    guest.device("00:09.0");
    guest.device("05:00.0");
    const [one, other] = inspect(guest.unit).devices;
    expect(one).toMatchObject({ kind: "blocked", refusal: "LCT.2: The context-entry is not present" });
    expect(other).toMatchObject({ kind: "blocked", refusal: "LRT.2: The root-entry is not present" });
    expect(other?.structures).toHaveLength(1);
  });

  it("shows faults by name, pending and cleared", () => {
    const guest = busyGuest();
    ask(guest.device(NIC), 0x999);
    ask(guest.device("00:09.0"), 0x55, 2);
    guest.unit.mmio.write32(0x22c, 0x8000_0000);
    expect(inspect(guest.unit).faults).toMatchObject([
      { index: 0, pending: false, sourceId: NIC, names: "LGN.3", request: "read", where: "0x999000" },
      { index: 1, pending: true, sourceId: "00:09.0", names: "LCT.2", request: "write", where: "0x55000" },
    ]);
    guest.enableInterruptRemapping();
    guest.unit.interrupt(0x123, { address: 0xfee00010 + 5 * 32, addressHigh: 0, data: 0 });
    expect(inspect(guest.unit).faults[2]).toMatchObject({ names: "22h", request: "interrupt", where: "index 5" });
  });

  it("shows the queue: what is in flight, what is to come, and errors by name", () => {
    const guest = busyGuest({ limits: { consumerDeadline: 1e9 } });
    const slow = new RecordingNotifier();
    guest.device(NIC).attach(slow);
    slow.answers.mode = "manual";
    guest.unmap(1, 0x10);
    guest.queue.run(descriptor.page(7, 0x10));
    guest.queue.submit(descriptor.all(), Int32Array.of(0xf));
    const waiting = inspect(guest.unit).queue;
    expect(waiting).toMatchObject({ state: "waiting", descriptorBytes: 16, wait: { title: "Invalidation wait" } });
    expect(waiting.pending.map(({ title }) => title)).toEqual(["IOTLB invalidate", "unknown type 15"]);
    const bad = busyGuest();
    bad.queue.submit(Int32Array.of(0xf));
    expect(inspect(bad.unit).queue).toMatchObject({
      state: "stopped",
      errors: ["IQE: the descriptor's type is invalid"],
    });
  });

  it("shows scalable mode: PASID structures and first-stage mappings", () => {
    const guest = new GuestDriver({ scalableMode: true, firstStage: "4-level", pasidWidth: 20 });
    const tables = guest.newFirstStageTables();
    tables.map(0x10, 2, 0x1000);
    guest.scalableContext(NIC, { pasids: true });
    guest.pasid(NIC, 5, { did: 2, type: "first-stage", firstRootPfn: tables.rootPfn });
    guest.start("scalable");
    guest.device(NIC, { pasid: 5 });
    const [device] = inspect(guest.unit).devices;
    expect(device).toMatchObject({ device: "00:03.0 pasid 5", pasid: 5, kind: "table" });
    expect(device?.structures.map(({ section }) => section)).toEqual(["§9.2", "§9.4", "§9.5", "§9.6"]);
    expect(device?.mappings.ranges).toEqual([{ iovaPfn: 0x10, pageCount: 2, gpaPfn: 0x1000, access: "rw" }]);
  });

  it("changes nothing: no counter, no flag, no cache, no record", () => {
    const guest = busyGuest();
    guest.device(NIC).attach(new RecordingNotifier());
    ask(guest.device(NIC), 0x10);
    const first = inspect(guest.unit);
    expect(inspect(guest.unit)).toEqual(first);
    guest.device("00:09.0");
    inspect(guest.unit);
    expect(guest.faults()).toEqual([]);
    expect(inspect(guest.unit).caches).toEqual(first.caches);
  });

  it("is bounded: ranges, entries, devices", () => {
    const guest = busyGuest();
    for (let i = 0; i < 200; i++) guest.map(1, { iovaPfn: 0x1000 + i * 2, gpaPfn: 0x3000 });
    for (let i = 0; i < 20; i++) guest.device(`01:${i.toString(16)}.0`);
    guest.device(NIC);
    const { devices } = inspect(guest.unit, { ranges: 10, items: 5 });
    expect(devices).toHaveLength(5);
    const nic = inspect(guest.unit, { ranges: 10 }).devices.find(({ device }) => device === NIC);
    expect(nic?.mappings).toMatchObject({ truncated: true });
    expect(nic?.mappings.ranges).toHaveLength(10);
    // A root table whose entries all point to itself describes 2^36 pages.
    const root = guest.tables(2).rootPfn;
    for (let i = 0; i < 512; i++) guest.memory.pokeEntry(root * 4096 + i * 8, root * 4096 + 1, 0);
    guest.context(NIC, { did: 2 });
    const loop = inspect(guest.unit, { ranges: 1000, entries: 10_000 }).devices.find(({ device }) => device === NIC);
    expect(loop?.mappings.truncated).toBe(true);
  });

  it("survives JSON unchanged", () => {
    const guest = busyGuest({ protectedRegions: ["low"] });
    guest.device(NIC).attach(new RecordingNotifier());
    ask(guest.device(NIC), 0x999);
    const inspection = inspect(guest.unit);
    expect(JSON.parse(JSON.stringify(inspection))).toEqual(inspection);
  });

  it("never throws, whatever registers and structures hold", () => {
    const writes = fc.array(fc.tuple(fc.nat(0x3ff), fc.integer()), { maxLength: 20 });
    const pokes = fc.array(fc.tuple(fc.nat(0x1fff), fc.integer()), { maxLength: 40 });
    fc.assert(
      fc.property(writes, pokes, fc.boolean(), (registerWrites, memoryWrites, scalable) => {
        const options: GuestOptions = scalable
          ? {
              scalableMode: true,
              firstStage: "5-level",
              nested: true,
              pasidWidth: 20,
              deviceTlb: true,
              pageRequests: true,
            }
          : { cachingMode: true };
        const guest = new GuestDriver(options);
        guest.context(NIC, { did: 1 });
        guest.scalableContext(NIC, {});
        guest.start(scalable ? "scalable" : "legacy");
        guest.device(NIC);
        if (scalable) guest.device(NIC, { pasid: 5 });
        for (const [word, value] of memoryWrites) guest.memory.poke(0x20000 * 4096 + word * 4, value);
        for (const [word, value] of registerWrites) guest.unit.mmio.write32(word * 4, value);
        const text = formatInspection(inspect(guest.unit, { entries: 4096 }));
        expect(text.length).toBeGreaterThan(100);
      }),
      { numRuns: 150 },
    );
  });
});

describe("formatInspection", () => {
  it("is text that names what matters", () => {
    const guest = busyGuest();
    guest.device(NIC).attach(new RecordingNotifier({ name: "container" }));
    ask(guest.device(NIC), 0x999);
    const text = formatInspection(inspect(guest.unit));
    for (const line of [
      "translating, legacy mode; interrupt remapping off",
      "  00:03.0  table, domain 7, second-stage",
      "    0x10000-0x12fff -> 0x1000000 rw",
      "    0x13000-0x13fff -> 0x2000000 r-",
      "    notifier container (map): active, holds 516 pages",
      "  0: 00:03.0, read at 0x999000: LGN.3: No read permission",
      "      TES [31] = 1  DMA translation enabled",
    ])
      expect(text.split("\n")).toContain(line);
    expect(text).toContain("Invalidation queue: running, 128 bits wide");
  });
});

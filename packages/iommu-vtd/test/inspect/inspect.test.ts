import fc from "fast-check";
import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { formatInspection, inspect } from "@iommu-kit/iommu-vtd/inspect";
import { descriptor, GuestDriver, type GuestOptions } from "@iommu-kit/iommu-vtd/testing";
import { describe, expect, it } from "vitest";
import { deviceTlb, legacyGuest, RecordingTlb, scalableGuest } from "../ats/ats-guest.js";
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
    const guest = busyGuest({ limits: { consumerDeadlineMilliseconds: 1e9 } });
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

  it("is short where there is nothing to say", () => {
    const text = formatInspection(
      inspect(new GuestDriver({ interruptRemapping: false, queuedInvalidation: false }).unit),
    );
    expect(text.split("\n").slice(0, 8)).toEqual([
      "translation off; interrupt remapping off",
      "",
      "Devices",
      "  none",
      "",
      "Faults",
      "  none",
      "",
    ]);
    expect(text).toContain("\nInvalidation queue: off\n");
    expect(text).not.toContain("Announced");
  });

  it("names what is out of the ordinary: refusals, failures, leases, protected memory, an unreadable structure", async () => {
    const guest = busyGuest({ protectedRegions: ["low"] });
    const device = guest.device(NIC);
    device.attach(new RecordingNotifier({ name: "small", capacity: 1, granularity: "page" }));
    device.attach(new RecordingFlushNotifier({ name: "cache" }));
    device.attach({ kind: "unmap", name: "broken", unmap: () => Promise.reject(new Error("gone")) });
    guest.invalidate.all();
    await guest.scheduler.idle();
    device.dma.segments(0x10000, 1, 1);
    guest.unit.mmio.write32(0x68, 0x0020_0000);
    guest.unit.mmio.write32(0x6c, 0x003f_ffff);
    guest.unit.mmio.write32(0x64, 0x8000_0000);
    const dark = guest.device("00:09.0");
    guest.contexts.write("00:09.0", { did: 9, rootPfn: 0x20_0000 });
    ask(dark, 0x10);
    guest.memory.poison(guest.contexts.rootPfn);
    const lines = formatInspection(inspect(guest.unit)).split("\n");
    expect(lines).toContain("    notifier cache (unmap): active");
    expect(lines.some((line) => /^    notifier broken \(unmap\): failed: ./.test(line))).toBe(true);
    expect(lines).toContain("    1 leases");
    expect(lines.some((line) => /notifier small \(map\): active, holds \d+ pages, refused \d+$/.test(line))).toBe(true);
    expect(lines.some((line) => line.startsWith("Protected: 0x200000-0x"))).toBe(true);
    expect(lines.some((line) => /^    Root entry at 0x[0-9a-f]+: unreadable$/.test(line))).toBe(true);
  });

  it("says who made a request with PASID, what is cut short, and which fault has been cleared", () => {
    const guest = new GuestDriver({ scalableMode: true, firstStage: "4-level", pasidWidth: 20 });
    const tables = guest.newFirstStageTables();
    for (let i = 0; i < 3; i++) tables.map(0x10 + 2 * i, 1, 0x1000);
    guest.scalableContext(NIC, { pasids: true });
    guest.pasid(NIC, 5, { did: 2, type: "first-stage", firstRootPfn: tables.rootPfn });
    guest.start("scalable");
    ask(guest.device(NIC, { pasid: 5 }), 0x999);
    guest.takeFaults();
    const lines = formatInspection(inspect(guest.unit, { ranges: 2 })).split("\n");
    expect(lines).toContain("    ...");
    expect(lines.some((line) => line.startsWith("  0 (cleared): 00:03.0 pasid 5, read at 0x999000: "))).toBe(true);
  });

  it("lists the descriptors in flight and to come", () => {
    const guest = busyGuest({ limits: { consumerDeadlineMilliseconds: 1e9 } });
    const slow = new RecordingNotifier();
    guest.device(NIC).attach(slow);
    slow.answers.mode = "manual";
    guest.unmap(1, 0x10);
    guest.queue.run(descriptor.page(7, 0x10));
    guest.queue.submit(descriptor.all());
    const text = formatInspection(inspect(guest.unit));
    expect(text).toMatch(/\n  in flight: Invalidation wait \S/);
    expect(text).toMatch(/\n  \d+: IOTLB invalidate \S/);
  });
});

describe("an inspection of scalable mode", () => {
  function scalable(device: string): { readonly guest: GuestDriver; readonly titles: () => string[] } {
    const guest = new GuestDriver({ scalableMode: true, firstStage: "4-level", pasidWidth: 20 });
    guest.start("scalable");
    guest.device(device);
    const titles = (): string[] => inspect(guest.unit).devices[0]?.structures.map(({ title }) => title) ?? [];
    return { guest, titles };
  }

  it.each(["00:03.0", "00:13.0"])(
    "follows %s through its half of the root-entry as far as structures lead",
    (device) => {
      const { guest, titles } = scalable(device);
      const root = guest.contexts.scalableRootPfn * 4096 + (device === "00:03.0" ? 0 : 8);
      const tablePfn = guest.newFrame();
      const contextGpa = tablePfn * 4096 + 0x18 * 32;
      expect(titles()).toHaveLength(1);
      guest.memory.pokeEntry(root, tablePfn * 4096 + 1, 0);
      expect(titles()).toHaveLength(2);
      guest.memory.pokeEntry(contextGpa, guest.newFrame() * 4096 + 1, 0);
      expect(titles()).toHaveLength(3);
      guest.memory.poison(tablePfn);
      expect(inspect(guest.unit).devices[0]?.structures[1]).toMatchObject({ readable: false, fields: [] });
    },
  );

  it("has no structures in abort mode", () => {
    const { guest, titles } = scalable(NIC);
    guest.setRoot("abort");
    expect(titles()).toEqual([]);
    expect(inspect(guest.unit).summary).toContain("abort mode");
  });
});

describe("an inspection in trouble", () => {
  it("names a view over its budget, errors of the queue, and how many page requests wait", () => {
    const guest = scalableGuest({ cachingMode: true, limits: { mappingsPerView: 1 } });
    guest.map(1, { iovaPfn: 0x10, gpaPfn: 0x1000 });
    guest.map(1, { iovaPfn: 0x20, gpaPfn: 0x3000 });
    guest.device(NIC).attach(new RecordingNotifier());
    guest.unit.mmio.write64(0xd0, BigInt(guest.newFrame()) * 4096n);
    void guest.unit.ats(guest.device(NIC)).requestPage({ iovaPfn: 0x10 });
    guest.queue.submit(new Int32Array(8).fill(0xf));
    const lines = formatInspection(inspect(guest.unit)).split("\n");
    expect(lines.some((line) => line.includes(", over budget; "))).toBe(true);
    expect(lines).toContain("  IQE: the descriptor's type is invalid");
    expect(lines).toContain("Page requests without response: 1");
  });

  it("has nothing to come where the tail is nowhere", () => {
    const guest = busyGuest();
    guest.unit.mmio.write64(0x88, 0xf_fff0n);
    expect(inspect(guest.unit).queue.pending).toEqual([]);
  });

  it("stops looking after so many entries", () => {
    const guest = busyGuest();
    guest.device(NIC);
    expect(inspect(guest.unit, { entries: 1 }).devices[0]?.mappings).toEqual({ ranges: [], truncated: true });
  });
});

describe("an inspected queue", () => {
  it("shows a descriptor that cannot be read", () => {
    const guest = busyGuest({ limits: { consumerDeadlineMilliseconds: 1e9 } });
    const slow = new RecordingNotifier();
    guest.device(NIC).attach(slow);
    slow.answers.mode = "manual";
    guest.unmap(1, 0x10);
    guest.queue.run(descriptor.page(7, 0x10));
    guest.queue.submit(descriptor.all());
    guest.memory.poison(Number(inspect(guest.unit).queue.baseGpa) / 4096);
    expect(inspect(guest.unit).queue.pending).toMatchObject([{ title: "unreadable", fields: [] }]);
  });

  it("names the device that did not answer, and the one that answered unasked", () => {
    const { guest, ats } = legacyGuest();
    guest.device(NIC).attach(new RecordingTlb("manual"));
    ats.strayCompletion();
    guest.queue.submit(deviceTlb(0x18, 0x5000));
    guest.scheduler.advance(2000);
    expect(inspect(guest.unit).queue).toMatchObject({
      state: "stopped",
      errors: ["ITE: source-id 0018 did not answer in time", "ICE: source-id 0018 answered unasked"],
    });
  });
});

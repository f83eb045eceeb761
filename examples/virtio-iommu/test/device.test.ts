import { Access } from "@iommu-kit/iommu-core";
import { RecordingFlushNotifier, RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { DeviceTlb } from "@iommu-kit/notifier-cache";
import { describe, expect, it } from "vitest";
import { encode } from "../src/guest/requests.js";
import { IommuFeature, RequestStatus } from "../src/spec/iommu.js";
import { Descriptor, Feature, Register, Status } from "../src/spec/virtio.js";
import { DISK, DOORBELL, GPU, Machine, NIC, RESERVED } from "./machine.js";

const { OK } = RequestStatus;
const RAM_END = 0x1000_0000;

describe("the device", () => {
  it("offers what it has: no legacy interface, no BYPASS, and VERSION_1 is a must", () => {
    const { device } = new Machine();
    const offered = (word: number): number => {
      device.mmio.write(Register.DEVICE_FEATURES_SEL, 4, word);
      return device.mmio.read(Register.DEVICE_FEATURES, 4);
    };
    expect([offered(0), offered(1), offered(2)]).toEqual([0x1000_0077, 1, 0]);
    const accept = (low: number, high: number): number => {
      device.mmio.write(Register.STATUS, 4, 0);
      for (const [word, bits] of [low, high].entries()) {
        device.mmio.write(Register.DRIVER_FEATURES_SEL, 4, word);
        device.mmio.write(Register.DRIVER_FEATURES, 4, bits);
      }
      device.mmio.write(Register.STATUS, 4, Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK);
      return device.mmio.read(Register.STATUS, 4) & Status.FEATURES_OK;
    };
    expect(accept(0x77, 1)).toBe(Status.FEATURES_OK);
    expect(accept(0x77, 0)).toBe(0);
    expect(accept(0x7f, 1)).toBe(0);
  });

  it("shows its limits in the configuration", () => {
    const { driver } = Machine.booted({
      inputRange: { firstPfn: 1, pageCount: 15 },
      domainRange: { first: 2, last: 9 },
    });
    const view = new DataView(driver.config().buffer);
    expect(view.getBigUint64(0, true)).toBe(0x4020_1000n);
    expect([view.getBigUint64(8, true), view.getBigUint64(16, true)]).toEqual([0x1000n, 0xffffn]);
    expect([view.getUint32(24, true), view.getUint32(28, true)]).toEqual([2, 9]);
    expect([view.getUint32(32, true), view.getUint8(36)]).toEqual([72, 0]);
  });

  it.each([
    [{ pageSizes: [1024] }, /page size/],
    [{ pageSizes: [] }, /at least one page size/],
    [{ targetBits: 53 }, /targetBits of 32 to 52, got 53/],
    [{ domainRange: { first: 2, last: 1 } }, /domainRange/],
    [{ endpoints: [{ sourceId: 1, reserved: [DOORBELL, DOORBELL] }] }, /disjoint reserved ranges of endpoint 1/],
    [{ endpoints: [{ sourceId: 1, reserved: [DOORBELL, { ...DOORBELL, firstPfn: 0 }] }] }, /at most one/],
  ])("refuses %j", (options, message) => {
    expect(() => new Machine(options)).toThrow(message);
  });
});

describe("bypass", () => {
  it("is what the host says at first, and then the driver, if it has accepted that", () => {
    for (const bypass of [true, false]) {
      const { device, driver } = Machine.booted({ bypass });
      const { dma } = device.addressSpace(NIC);
      expect(dma.read(0x1000, new Uint8Array(1))).toBe(bypass);
      driver.setBypass(!bypass);
      expect(driver.config()[36]).toBe(bypass ? 0 : 1);
      expect(dma.read(0x1000, new Uint8Array(1))).toBe(!bypass);
      device.mmio.write(Register.CONFIG + 36, 1, 2);
      expect(driver.config()[36]).toBe(bypass ? 0 : 1);
    }
    const { device, driver } = Machine.booted({ bypass: true }, IommuFeature.MAP_UNMAP);
    driver.setBypass(false);
    expect(device.addressSpace(NIC).dma.read(0x1000, new Uint8Array(1))).toBe(true);
  });

  it("survives the driver's reset, not the system's", () => {
    const { device, driver } = Machine.booted({ bypass: true });
    driver.setBypass(false);
    device.mmio.write(Register.STATUS, 4, 0);
    expect(device.mmio.read(Register.CONFIG + 36, 1)).toBe(0);
    void device.reset();
    expect(device.mmio.read(Register.CONFIG + 36, 1)).toBe(1);
  });

  it("spares what an endpoint reserves, for requests and for notifiers", () => {
    const { device } = Machine.booted({ bypass: true });
    const notifier = new RecordingNotifier();
    const space = device.addressSpace(GPU);
    space.attach(notifier);
    expect(space.dma.read(RESERVED.firstPfn * 4096, new Uint8Array(1))).toBe(false);
    expect(notifier.held()).toMatchObject([
      { iovaPfn: 0, pageCount: RESERVED.firstPfn },
      { iovaPfn: 0x210, pageCount: 0x10000 - 0x210 },
    ]);
  });

  it("by a domain is the same view as without one: nothing is told", async () => {
    const { device, driver } = Machine.booted({ bypass: true });
    const notifier = new RecordingNotifier();
    device.addressSpace(NIC).attach(notifier);
    notifier.calls.length = 0;
    expect(await driver.attach(1, NIC, { bypass: true })).toBe(OK);
    expect(notifier.calls).toEqual([]);
  });
});

describe("an endpoint", () => {
  it("reports each refusal with its byte, and what it is", async () => {
    const { device, driver } = Machine.booted();
    const { dma } = device.addressSpace(NIC);
    dma.write(0x1234, new Uint8Array(1));
    await driver.attach(1, NIC);
    dma.read(0x5678n, new Uint8Array(1));
    await driver.map(1, { iovaPfn: 1, pageCount: 1, gpaPfn: 1, access: Access.read });
    dma.compareExchange(0x1008, 0, 0);
    expect(driver.faults()).toEqual([
      { reason: 1, flags: 0x102, endpoint: NIC, address: 0x1234n },
      { reason: 2, flags: 0x101, endpoint: NIC, address: 0x5678n },
      { reason: 2, flags: 0x103, endpoint: NIC, address: 0x1008n },
    ]);
  });

  it("goes on without reports when the driver has no buffers for them", () => {
    const { device, driver } = Machine.booted();
    const { dma } = device.addressSpace(NIC);
    for (let i = 0; i < 70; i++) expect(dma.read(0, new Uint8Array(1))).toBe(false);
    expect(device.droppedReports).toBe(6);
    expect(driver.faults()).toHaveLength(64);
    dma.read(0, new Uint8Array(1));
    expect(driver.faults()).toHaveLength(1);
  });

  it("of another unit, or with a PASID, reaches nothing and reports nothing", () => {
    const { device, driver } = Machine.booted({ bypass: true });
    const stranger = device.iommu.addressSpace(0x7777);
    const pasid = device.iommu.addressSpace(NIC, { pasid: 1 });
    for (const space of [stranger, pasid]) expect(space.dma.read(0x1000, new Uint8Array(1))).toBe(false);
    expect(stranger.dma.failure?.cause).toBe("no endpoint of this unit");
    expect(driver.faults()).toEqual([]);
  });

  it("with a doorbell of its own sends messages past the domain; without one the driver maps it", async () => {
    const { device, driver, messages, memory } = Machine.booted();
    await driver.attach(1, GPU);
    expect(device.addressSpace(GPU).dma.write(0xfee0_0010, Uint8Array.of(0x41, 0, 0, 0))).toBe(true);
    expect(messages).toEqual([{ address: 0xfee0_0010, addressHigh: 0, data: 0x41 }]);
    await driver.attach(2, NIC);
    const { dma } = device.addressSpace(NIC);
    expect(dma.write(0xfee0_0010, Uint8Array.of(7, 0, 0, 0))).toBe(false);
    await driver.map(2, { iovaPfn: 0xfee00, pageCount: 1, gpaPfn: 9, access: Access.write, flags: 4 });
    expect(dma.write(0xfee0_0010, Uint8Array.of(7, 0, 0, 0))).toBe(true);
    expect([messages.length, memory.peek(0x9010)]).toEqual([1, 7]);
    expect(device.addressSpace(GPU).dma.write(0xfee0_0011, Uint8Array.of(1, 0, 0, 0))).toBe(false);
    expect(device.addressSpace(GPU).dma.read(0xfee0_0010, new Uint8Array(4))).toBe(false);
  });

  it("has no ATS: a device TLB is refused with a sentence", () => {
    const space = Machine.booted().device.addressSpace(NIC);
    expect(() => space.attach(new DeviceTlb(space))).toThrow(/virtio-iommu has no ATS/);
  });

  it("that moves between domains keeps the pages that both map", async () => {
    const { device, driver } = Machine.booted();
    const notifier = new RecordingNotifier();
    device.addressSpace(NIC).attach(notifier);
    await driver.attach(2, DISK);
    await driver.attach(1, NIC);
    for (const domain of [1, 2]) await driver.map(domain, { iovaPfn: 5, pageCount: 3, gpaPfn: 50, access: 3 });
    await driver.map(1, { iovaPfn: 20, pageCount: 1, gpaPfn: 60, access: 3 });
    notifier.calls.length = 0;
    expect(await driver.attach(2, NIC)).toBe(OK);
    expect(notifier.calls.filter(({ type }) => type === "unmap")).toMatchObject([{ iovaPfn: 20, pageCount: 1 }]);
    expect(notifier.held()).toEqual([{ iovaPfn: 5, pageCount: 3, gpaPfn: 50, access: 3 }]);
  });
});

describe("requests and slow notifiers", () => {
  it("are used in order, each when its notifiers have completed", async () => {
    const { device, driver } = Machine.booted();
    await driver.attach(1, NIC);
    await driver.map(1, { iovaPfn: 5, pageCount: 1, gpaPfn: 50, access: 3 });
    const flush = new RecordingFlushNotifier();
    device.addressSpace(NIC).attach(flush);
    flush.answers.mode = "manual";
    const done: string[] = [];
    const unmap = driver.place(encode.unmap(1, 0x5000n, 0x5fffn), 4).then(() => done.push("unmap"));
    const attach = driver.place(encode.attach(9, DISK), 4).then(() => done.push("attach"));
    driver.kick();
    for (let i = 0; i < 20; i++) await Promise.resolve();
    expect(done).toEqual([]);
    flush.answers.mode = "sync";
    flush.answers.settle();
    await Promise.all([unmap, attach]);
    expect(done).toEqual(["unmap", "attach"]);
  });

  it("keep a reset from completing, and are abandoned by it", async () => {
    const { device, driver } = Machine.booted();
    await driver.attach(1, NIC);
    const flush = new RecordingFlushNotifier();
    device.addressSpace(NIC).attach(flush);
    flush.answers.mode = "manual";
    let answered = false;
    void driver.map(1, { iovaPfn: 5, pageCount: 1, gpaPfn: 50, access: 3 }).then(() => (answered = true));
    device.mmio.write(Register.STATUS, 4, 0);
    expect(device.mmio.read(Register.STATUS, 4)).not.toBe(0);
    flush.answers.mode = "sync";
    flush.answers.settle();
    for (let i = 0; i < 20; i++) await Promise.resolve();
    expect([device.mmio.read(Register.STATUS, 4), answered]).toEqual([0, false]);
    driver.boot();
    expect(await driver.attach(1, NIC)).toBe(OK);
  });

  it("of a guest that sends many are carried out in slices", async () => {
    const { driver, scheduler } = Machine.booted({ limits: { entriesPerSlice: 8 } });
    const answers = [1, 2, 3, 4, 5, 6].map((domain) => driver.place(encode.attach(domain, NIC), 4, { pieces: 1 }));
    let used = 0;
    for (const answer of answers) void answer.then(() => (used += 1));
    driver.kick();
    for (let i = 0; i < 20; i++) await Promise.resolve();
    expect(used).toBeGreaterThan(0);
    expect(used).toBeLessThan(6);
    while (scheduler.turn() > 0) for (let i = 0; i < 20; i++) await Promise.resolve();
    await Promise.all(answers);
  });

  it("cannot be sent from inside a notifier", async () => {
    const { device, driver } = Machine.booted();
    await driver.attach(1, NIC);
    let error: unknown;
    const onCall = (): void => {
      try {
        device.mmio.write(Register.QUEUE_NOTIFY, 4, 0);
      } catch (thrown) {
        error = thrown;
      }
    };
    device.addressSpace(NIC).attach(new RecordingFlushNotifier({ onCall }));
    await driver.map(1, { iovaPfn: 5, pageCount: 1, gpaPfn: 50, access: 3 });
    expect(error).toMatchObject({ code: "reentrant-call" });
  });
});

describe("a broken ring", () => {
  /** Bytes by their offset in the request queue's memory: descriptors at 0, the available ring at 0x2000. */
  const oneRequest = [0x2002, 1, 0] as const;
  const breakage: readonly (readonly [string, readonly (readonly number[])[]])[] = [
    ["an index beyond the queue", [[0x2002, 0xff, 0xff]]],
    ["a head beyond the queue", [[0x2004, 0xff, 0], oneRequest]],
    ["a chain that links to itself", [[12, Descriptor.NEXT, 0, 0, 0], oneRequest]],
    ["what is written before what is read", [[12, 3, 0, 1, 0], [16 + 12, 0, 0], oneRequest]],
    ["an indirect table that is not whole descriptors", [[8, 5, 0, 0, 0, 4, 0], oneRequest]],
    ["a buffer outside of memory", [[0, 0, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0], oneRequest]],
  ];

  it.each(breakage)("with %s asks for a reset, and works after it", async (_what, damage) => {
    const { device, driver, memory } = Machine.booted();
    const ring = 0x8000 * 4096;
    for (const [at = 0, ...bytes] of damage) memory.write(ring + at, Uint8Array.from(bytes));
    device.mmio.write(Register.QUEUE_NOTIFY, 4, 0);
    expect(device.mmio.read(Register.STATUS, 4) & Status.NEEDS_RESET).toBe(Status.NEEDS_RESET);
    expect(device.mmio.read(Register.INTERRUPT_STATUS, 4) & 2).toBe(2);
    driver.boot();
    expect(await driver.attach(1, NIC)).toBe(OK);
  });

  it("in no memory at all is no host's problem", () => {
    const { device } = Machine.booted();
    const { mmio } = device;
    mmio.write(Register.STATUS, 4, 0);
    mmio.write(Register.DRIVER_FEATURES_SEL, 4, 1);
    mmio.write(Register.DRIVER_FEATURES, 4, Number(Feature.VERSION_1 >> 32n));
    mmio.write(Register.STATUS, 4, 11);
    for (const queue of [0, 1]) {
      mmio.write(Register.QUEUE_SEL, 4, queue);
      mmio.write(Register.QUEUE_SIZE, 4, 64);
      for (const at of [Register.QUEUE_DESC, Register.QUEUE_DRIVER, Register.QUEUE_DEVICE])
        mmio.write(at, 4, RAM_END + at * 0x1000);
      mmio.write(Register.QUEUE_READY, 4, 1);
    }
    mmio.write(Register.STATUS, 4, 15);
    device.addressSpace(DISK).dma.read(0, new Uint8Array(1));
    mmio.write(Register.QUEUE_NOTIFY, 4, 0);
    expect(mmio.read(Register.STATUS, 4) & Status.NEEDS_RESET).toBe(Status.NEEDS_RESET);
  });
});

/**
 * Devices in real threads.
 */
import { Worker } from "node:worker_threads";
import { Access, type Limits } from "@iommu-kit/iommu-core";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import {
  NOT_ATTACHED,
  WORKER_REVOKED,
  WorkerCacheNotifier,
  type WorkerCacheOptions,
  WorkerDeviceTlb,
  WorkerDma,
} from "../src/worker/index.js";
import { bundleDevice } from "./device-code.js";
import { FakeMachine, NOT_MAPPED, Ram } from "./fake-machine.js";
import type { DeviceData, Order, Report } from "./worker-device.js";

const RAM_PAGES = 1024;
const POISON = 0xee;
let deviceCode = "";

beforeAll(async () => {
  deviceCode = await bundleDevice();
});

const devices: Device[] = [];

afterEach(async () => {
  for (const device of devices.splice(0)) await device.end();
});

class Device {
  readonly machine: FakeMachine;
  readonly cache: WorkerCacheNotifier | WorkerDeviceTlb;
  readonly worker: Worker;
  readonly control: Int32Array;
  readonly revocations: { readonly code: string; readonly inAccess: boolean }[] = [];
  readonly hangs: number[] = [];
  readonly #reports: ((report: Report) => void)[] = [];

  constructor(
    options: Partial<WorkerCacheOptions> & {
      readonly tlb?: boolean;
      readonly attach?: boolean;
      readonly limits?: Partial<Limits>;
    } = {},
  ) {
    const ram = new SharedArrayBuffer(RAM_PAGES * 4096);
    const control = new SharedArrayBuffer(8);
    this.control = new Int32Array(control);
    this.machine = new FakeMachine({
      memory: new Ram(RAM_PAGES, new Uint8Array(ram)),
      holes: [{ firstPfn: 0x700, pageCount: 0x10 }],
      limits: options.limits ?? {},
    });
    // The worker is made after the cache, whose port it is: a stand-in until then.
    const port = {
      postMessage: (message: unknown): void => this.worker.postMessage(message),
      on: (_event: "message", listener: (message: unknown) => void): void => void (hear = listener),
    };
    let hear = (_message: unknown): void => undefined;
    const Kind = options.tlb === true ? WorkerDeviceTlb : WorkerCacheNotifier;
    this.cache = new Kind(this.machine.space, {
      port,
      scheduler: this.machine.scheduler,
      onRevoke: (error, inAccess) => this.revocations.push({ code: error.code, inAccess }),
      onHung: (pending) => this.hangs.push(pending),
      ...options,
    });
    const data: DeviceData = { setup: this.cache.setup, ram, control };
    this.worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(deviceCode)}`), { workerData: data });
    this.worker.on("message", (message: object) => {
      if ("report" in message) this.#reports.shift()?.(message.report as Report);
      else hear(message);
    });
    if (options.attach !== false) this.machine.space.attach(this.cache);
    devices.push(this);
  }

  order(order: Order): Promise<Report> {
    const report = new Promise<Report>((resolve) => this.#reports.push(resolve));
    this.worker.postMessage(order);
    return report;
  }

  read(iova: number, byteLength = 4): Promise<Report> {
    return this.order({ do: "read", iova, byteLength });
  }

  fill(gpaPfn: number, value: number): void {
    this.machine.memory.bytes.fill(value, gpaPfn * 4096, gpaPfn * 4096 + 4096);
  }

  async end(): Promise<void> {
    Atomics.store(this.control, 0, 1);
    await this.worker.terminate();
  }
}

/** Waits until the worker has made some more accesses in its loop. */
async function untilBusy(device: Device, accesses: number): Promise<void> {
  const from = Atomics.load(device.control, 1);
  while (Atomics.load(device.control, 1) - from < accesses) await new Promise((resolve) => setTimeout(resolve, 0));
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

describe("a device in a worker", () => {
  it("reads and writes guest memory through its own cache, one miss a page", async () => {
    const device = new Device();
    device.machine.map(5, 100);
    device.machine.map(6, 200);
    device.fill(100, 1);
    device.fill(200, 2);
    expect(await device.read(5 * 4096 + 4094)).toMatchObject({ done: true, bytes: [1, 1, 2, 2] });
    for (let i = 0; i < 5; i++) await device.read(5 * 4096);
    expect(await device.order({ do: "write", iova: 6 * 4096, bytes: [7, 8] })).toMatchObject({ done: true });
    expect(device.machine.memory.bytes[200 * 4096 + 1]).toBe(8);
    expect(device.machine.translations).toBe(2);
    expect(device.cache.status).toMatchObject({ state: "running", misses: 2, fills: 2, hits: 6 });
  });

  it("gets the unit's own reason for a refusal, and the mapping's real rights", async () => {
    const device = new Device();
    device.machine.map(5, 100, Access.read);
    expect(await device.read(4 * 4096)).toMatchObject({ done: false, reason: NOT_MAPPED });
    expect(await device.order({ do: "translate", iovaPfn: 5, access: Access.read })).toMatchObject({
      done: true,
      access: Access.read,
    });
    expect(await device.order({ do: "write", iova: 5 * 4096, bytes: [1] })).toMatchObject({ done: false });
  });

  it("holds a superpage as one entry, but not over frames that are not memory", async () => {
    const device = new Device();
    device.machine.map(0x200, 0x200, Access.readWrite, 512);
    device.machine.map(0x600, 0x200, Access.readWrite, 512);
    expect(await device.order({ do: "translate", iovaPfn: 0x207, access: Access.read })).toMatchObject({
      pageCount: 512,
    });
    expect(await device.order({ do: "translate", iovaPfn: 0x607, access: Access.read })).toMatchObject({
      pageCount: 1,
    });
    await device.read(0x208 * 4096);
    expect(device.machine.translations).toBe(2);
  });

  it("completes an invalidation only after the worker has acknowledged it, and reads the new page from then on", async () => {
    const device = new Device();
    device.machine.map(5, 100);
    device.fill(100, 1);
    device.fill(101, 2);
    await device.read(5 * 4096);
    device.machine.map(5, 101);
    const completion = device.machine.invalidate(5, 1);
    expect(completion).toBeInstanceOf(Promise);
    expect(device.cache.status.state).toBe("waiting");
    await completion;
    expect(device.cache.status).toMatchObject({ state: "running", pendingInvalidations: 0, flushedEntries: 1 });
    expect(await device.read(5 * 4096)).toMatchObject({ bytes: [2, 2, 2, 2] });
  });

  it("needs no running worker for what it cannot hold: attach and invalidations before the first miss are complete at once", async () => {
    const device = new Device({ attach: false });
    const attachment = device.machine.space.attach(device.cache);
    expect(attachment.ready).toBeUndefined();
    expect(device.machine.invalidate()).toBeUndefined();
    device.machine.map(5, 100);
    expect(await device.read(5 * 4096)).toMatchObject({ done: true });
  });

  it("never reads a page again that was taken away, while it reads as fast as it can", async () => {
    const device = new Device({ entries: 16 });
    const pages = [0x20, 0x21, 0x22, 0x23];
    for (const [index, page] of pages.entries()) device.machine.map(page, 100 + index);
    const report = device.order({ do: "hammer", pages, poison: POISON });
    await untilBusy(device, 100);
    let target = 110;
    for (let round = 0; round < 150; round++) {
      const page = pages[round % 4] ?? 0;
      const old = device.machine.read(page)?.gpaPfn ?? 0;
      target = target >= 900 ? 110 : target + 1;
      device.fill(target, round % 100);
      device.machine.map(page, target);
      await device.machine.invalidate(round % 3 === 0 ? 0 : page, round % 3 === 0 ? 0x1000 : 1);
      device.fill(old, POISON);
      if (round % 10 === 0) await untilBusy(device, 20);
    }
    Atomics.store(device.control, 0, 1);
    const { reads, refusals, poisoned } = await report;
    expect(poisoned).toBe(0);
    expect(refusals).toBe(0);
    expect(reads).toBeGreaterThan(100);
    expect(device.cache.status.hits).toBeGreaterThan(0);
    expect(device.cache.status.flushedEntries).toBeGreaterThan(0);
  });

  it("takes more invalidations at once than the ring holds, and completes all of them", async () => {
    // By itself a unit has fewer under way than the ring holds.
    const device = new Device({ limits: { invalidationsInFlight: 1000 } });
    device.machine.map(5, 100);
    await device.read(5 * 4096);
    const completions = Array.from({ length: 600 }, (_, page) => device.machine.invalidate(page, 1));
    expect(device.cache.status.pendingInvalidations).toBe(257);
    for (const completion of completions) await completion;
    expect(device.cache.status).toMatchObject({ state: "running", pendingInvalidations: 0, flushedEntries: 1 });
  });

  it("discards an answer that an invalidation overtook on its way", async () => {
    const device = new Device();
    device.fill(100, 1);
    device.fill(101, 2);
    device.machine.map(5, 100);
    device.machine.map(6, 100);
    await device.read(6 * 4096);
    // The answer is computed from the old table; the invalidation is posted before the worker sees it.
    device.machine.duringNextTranslation(() => {
      queueMicrotask(() => {
        device.machine.map(5, 101);
        void device.machine.invalidate(5, 1);
      });
    });
    await device.read(5 * 4096);
    expect(await device.read(5 * 4096)).toMatchObject({ bytes: [2, 2, 2, 2] });
  });

  it("is cut off when it hangs: visible, the guest goes on, and not one byte more is reached", async () => {
    const device = new Device();
    device.machine.map(5, 100);
    device.fill(100, 1);
    await device.read(5 * 4096);
    const late = device.order({ do: "hang", iova: 5 * 4096 });
    let done = false;
    void device.machine.invalidate(5, 1)?.then(() => (done = true));
    await nextTurn();
    expect(done).toBe(false);
    device.machine.scheduler.advance(1000);
    expect(device.cache.status).toMatchObject({ state: "hung", pendingInvalidations: 1 });
    expect(device.hangs).toEqual([1]);
    device.machine.scheduler.advance(4000);
    await nextTurn();
    expect(done).toBe(true);
    expect(device.machine.space.attachments[0]).toMatchObject({
      state: "failed",
      failure: { code: "notifier-timeout" },
    });
    expect(device.revocations).toEqual([{ code: "notifier-timeout", inAccess: false }]);
    expect(device.cache.status.state).toBe("revoked");
    // It wakes up again, with the translation that it held before.
    Atomics.store(device.control, 0, 1);
    expect(await late).toMatchObject({ done: false, reason: WORKER_REVOKED, bytes: [0] });
    expect(device.machine.invalidate(5, 1)).toBeUndefined();
  });

  it("comes out of waiting for an answer when it is cut off", async () => {
    const device = new Device();
    device.machine.map(5, 100);
    device.machine.duringNextTranslation(() => device.cache.revoke(new Error("cut off") as never));
    expect(await device.read(5 * 4096)).toMatchObject({ done: false, reason: WORKER_REVOKED });
  });

  it("reaches nothing while its cache is not attached, or beyond the attached range", async () => {
    const device = new Device({ attach: false });
    device.machine.map(5, 100);
    device.machine.map(6, 101);
    expect(await device.read(5 * 4096)).toMatchObject({ done: false, reason: NOT_ATTACHED });
    const attachment = device.machine.space.attach(device.cache, { range: { firstPfn: 5, pageCount: 1 } });
    expect(await device.read(5 * 4096)).toMatchObject({ done: true });
    expect(await device.read(6 * 4096)).toMatchObject({ done: false, reason: NOT_ATTACHED });
    await attachment.detach();
    expect(await device.read(5 * 4096)).toMatchObject({ done: false, reason: NOT_ATTACHED });
  });

  it("is refused by the unit after it was unplugged", async () => {
    const device = new Device();
    device.machine.map(5, 100);
    await device.read(5 * 4096);
    await device.machine.space.unplug();
    expect(await device.read(5 * 4096)).toMatchObject({ done: false });
  });

  it("as a device TLB keeps its entries until the guest invalidates them by name, and holds the guest up meanwhile", async () => {
    const device = new Device({ tlb: true });
    device.machine.map(5, 100);
    await device.read(5 * 4096);
    device.machine.unmap(5);
    expect(device.machine.invalidate()).toBeUndefined();
    expect(await device.read(5 * 4096)).toMatchObject({ done: true });
    await device.machine.invalidateDeviceTlb(5, 1);
    expect(await device.read(5 * 4096)).toMatchObject({ done: false, reason: NOT_MAPPED });
    // When it hangs the promise stays open: the unit's own deadline turns that into a time-out for the guest.
    device.machine.map(5, 100);
    await device.read(5 * 4096);
    void device.order({ do: "hang", iova: 0 });
    let done = false;
    const overdue = device.machine.invalidateDeviceTlb(5, 1)?.then(() => (done = true));
    device.machine.scheduler.advance(60_000);
    await nextTurn();
    expect(done).toBe(false);
    expect(device.cache.status.state).toBe("hung");
    expect(device.machine.space.attachments[0]?.state).toBe("active");
    Atomics.store(device.control, 0, 1);
    await overdue;
    expect(device.cache.status.state).toBe("running");
  });

  it("refuses a setup of another version", () => {
    const setup = { buffer: new SharedArrayBuffer(65_536) };
    const port = { postMessage: (): void => undefined, on: (): void => undefined };
    expect(() => new WorkerDma(setup, { port, memory: new Ram(1) })).toThrow(/same version/);
  });
});

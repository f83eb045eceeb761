import { Access, sourceId, Translation } from "@iommu-kit/iommu-core";
import { ManualScheduler } from "@iommu-kit/iommu-core/testing";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { CacheNotifier } from "@iommu-kit/notifier-cache";
import { type WorkerPort, WorkerCacheNotifier, WorkerDeviceTlb, WorkerDma } from "@iommu-kit/notifier-cache/worker";
import { describe, expect, it } from "vitest";
import { GuestDriver } from "../src/guest-driver.js";
import { SharedGuestMemory } from "../src/guest-memory.js";

const DEVICE = sourceId(0, 3, 0);
const FSTS = 0x34;
const INVALIDATION_TIME_OUT = 0x40;

function machine(options: { readonly deviceTlb?: boolean } = {}): {
  readonly unit: VtdIommu;
  readonly driver: GuestDriver;
  readonly scheduler: ManualScheduler;
  readonly memory: SharedGuestMemory;
} {
  const memory = new SharedGuestMemory(new Uint8Array(8 * 2 ** 20));
  const scheduler = new ManualScheduler();
  const unit = new VtdIommu({ memory, msi: () => undefined, scheduler, cachingMode: true, ...options });
  return { unit, driver: new GuestDriver(unit, memory, DEVICE, 16), scheduler, memory };
}

/** The two ends of a way to a worker that runs in this thread; `deaf` loses what is sent to the worker. */
function ways(deaf: { on: boolean }): { readonly host: WorkerPort; readonly worker: WorkerPort } {
  const listeners: Record<"host" | "worker", ((message: unknown) => void)[]> = { host: [], worker: [] };
  const end = (mine: "host" | "worker", other: "host" | "worker"): WorkerPort => ({
    postMessage: (message) => {
      if (other === "host" || !deaf.on) for (const listener of listeners[other]) listener(message);
    },
    on: (_event: "message", listener: (message: unknown) => void) => listeners[mine].push(listener),
  });
  return { host: end("host", "worker"), worker: end("worker", "host") };
}

describe("the guest's driver of this example", () => {
  it("reaches what it maps, through four levels of tables, and a cache follows its invalidations", async () => {
    const { unit, driver } = machine();
    const space = unit.addressSpace(DEVICE);
    await driver.start();
    const cache = new CacheNotifier(space);
    space.attach(cache);
    const out = new Translation();
    driver.map(0x100000, 0x300, 2, 1);
    expect(cache.translate(0x100001, Access.read, out)).toBe(true);
    expect(out).toMatchObject({ gpaPfn: 0x301, access: Access.read });
    driver.map(0x100001, 0x400);
    expect(cache.translate(0x100001, Access.read, out) && out.gpaPfn).toBe(0x301);
    await driver.invalidatePages(0x100001);
    expect(cache.translate(0x100001, Access.read, out) && out.gpaPfn).toBe(0x400);
    driver.unmap(0x100001);
    await driver.invalidateDomain();
    expect(cache.translate(0x100001, Access.read, out)).toBe(false);
  });
});

describe("a device in a worker that hangs, behind the unit", () => {
  it("as a device TLB gives the guest the architected invalidation time-out", async () => {
    const { unit, driver, scheduler, memory } = machine({ deviceTlb: true });
    const space = unit.addressSpace(DEVICE);
    await driver.start();
    driver.map(0x100, 0x300);
    const deaf = { on: false };
    const { host, worker } = ways(deaf);
    const tlb = new WorkerDeviceTlb(space, { port: host, scheduler });
    space.attach(tlb);
    const dma = new WorkerDma(tlb.setup, { port: worker, memory });
    expect(dma.read(0x100000, new Uint8Array(4))).toBe(true);
    await driver.invalidateDeviceTlb(0x100);
    expect(unit.mmio.read32(FSTS) & INVALIDATION_TIME_OUT).toBe(0);
    expect(dma.read(0x100000, new Uint8Array(4))).toBe(true);
    deaf.on = true;
    driver.invalidateDeviceTlb(0x100).catch(() => undefined);
    expect(tlb.status.pendingInvalidations).toBe(1);
    scheduler.advance(unit.config.deviceTlbDeadlineMilliseconds);
    expect(unit.mmio.read32(FSTS) & INVALIDATION_TIME_OUT).toBe(INVALIDATION_TIME_OUT);
  });

  it("as any other consumer is cut off, and the guest's invalidation completes", async () => {
    const { unit, driver, scheduler, memory } = machine();
    const space = unit.addressSpace(DEVICE);
    await driver.start();
    driver.map(0x100, 0x300);
    const deaf = { on: false };
    const { host, worker } = ways(deaf);
    const cache = new WorkerCacheNotifier(space, { port: host, scheduler });
    space.attach(cache);
    const dma = new WorkerDma(cache.setup, { port: worker, memory });
    expect(dma.read(0x100000, new Uint8Array(4))).toBe(true);
    deaf.on = true;
    const done = driver.invalidatePages(0x100);
    scheduler.advance(5000);
    await done;
    expect(space.attachments[0]?.state).toBe("failed");
    expect(dma.read(0x100000, new Uint8Array(4))).toBe(false);
  });
});

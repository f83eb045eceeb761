/** The device TLB of a device in a real thread, which a guest's driver invalidates by name through a VT-d unit's queue. */
import { Worker } from "node:worker_threads";
import { parseSourceId } from "@iommu-kit/iommu-core";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import { WorkerDeviceTlb } from "@iommu-kit/notifier-cache/worker";
import { afterEach, beforeAll, expect, it } from "vitest";
import { bundleDevice } from "./device-code.js";
import type { DeviceData, Order, Report } from "./worker-device.js";

const NIC = "00:03.0";
const ITE = 0x40;
const FSTS = 0x34;
const PAGE = 5;
/** A device-TLB invalidation of the page: type 3, SID in bits 47:32, ADDR in bits 127:76 (§6.5.2.5). */
const NAMES_PAGE = Int32Array.of(3, parseSourceId(NIC), PAGE << 12, 0);
let deviceCode = "";

beforeAll(async () => {
  deviceCode = await bundleDevice();
});

const ends: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

/** A guest that uses ATS for a device in a worker, whose memory says in the first byte of a page which frame it is. */
function machine() {
  const guest = new GuestDriver({ deviceTlb: true, deviceTlbDeadlineMilliseconds: 500 });
  guest.context(NIC, { did: 1, fields: { TT: 1 } });
  guest.map(1, { iovaPfn: PAGE, gpaPfn: 0x10 });
  guest.start();
  const ram = new SharedArrayBuffer(0x40 * 4096);
  for (let pfn = 0; pfn < 0x40; pfn++) new Uint8Array(ram)[pfn * 4096] = pfn;
  const control = new SharedArrayBuffer(8);
  const reports: ((report: Report) => void)[] = [];
  let hear = (_message: unknown): void => undefined;
  const space = guest.device(NIC);
  const tlb: WorkerDeviceTlb = new WorkerDeviceTlb(space, {
    port: {
      postMessage: (message: unknown): void => worker.postMessage(message),
      on: (_event: "message", listener: (message: unknown) => void): void => void (hear = listener),
    },
    scheduler: guest.scheduler,
  });
  const data: DeviceData = { setup: tlb.setup, ram, control };
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(deviceCode)}`), { workerData: data });
  worker.on("message", (message: object) => {
    if ("report" in message) reports.shift()?.(message.report as Report);
    else hear(message);
  });
  const attachment = space.attach(tlb);
  const stop = new Int32Array(control);
  ends.push(() => {
    Atomics.store(stop, 0, 1);
    return worker.terminate();
  });
  const order = (what: Order): Promise<Report> => {
    const report = new Promise<Report>((resolve) => reports.push(resolve));
    worker.postMessage(what);
    return report;
  };
  const read = async (): Promise<number | undefined> => {
    const { done, bytes } = await order({ do: "read", iova: PAGE * 4096, byteLength: 1 });
    return done ? bytes[0] : undefined;
  };
  const invalidate = (): boolean => guest.queue.run(NAMES_PAGE);
  return { guest, tlb, attachment, stop, order, read, invalidate };
}

const nextTurn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 1));

it("keeps a translation until the guest names it, and the guest's wait completes when the thread has acknowledged", async () => {
  const { guest, read, invalidate } = machine();
  expect(await read()).toBe(0x10);
  guest.map(1, { iovaPfn: PAGE, gpaPfn: 0x11 });
  guest.invalidate.page(1, PAGE);
  expect(await read()).toBe(0x10);

  expect(invalidate()).toBe(false);
  while (!guest.queue.completed) await nextTurn();

  expect(guest.faultStatus).toBe(0);
  expect(await read()).toBe(0x11);
});

it("that hangs gives the guest ITE, and never a completed wait; once it works again so does the queue", async () => {
  const { guest, tlb, attachment, stop, order, read, invalidate } = machine();
  expect(await read()).toBe(0x10);
  const late = order({ do: "hang", iova: PAGE * 4096 });
  guest.map(1, { iovaPfn: PAGE, gpaPfn: 0x11 });
  guest.invalidate.page(1, PAGE);

  expect(invalidate()).toBe(false);
  guest.scheduler.advance(499);
  await nextTurn();
  expect([guest.faultStatus, guest.queue.completed]).toEqual([0, false]);
  guest.scheduler.advance(1);
  expect(guest.faultStatus).toBe(ITE);
  await guest.scheduler.idle();
  expect([guest.queue.completed, attachment.state]).toEqual([false, "active"]);
  guest.scheduler.advance(500);
  expect(tlb.status.state).toBe("hung");

  // The thread works off the invalidation before its next access: what it held is not reached again.
  Atomics.store(stop, 0, 1);
  expect(await late).toMatchObject({ done: true, bytes: [0x11] });
  Atomics.store(stop, 0, 0);
  guest.unit.mmio.write32(FSTS, ITE);
  invalidate();
  while (!guest.queue.completed) await nextTurn();
  expect([guest.faultStatus, tlb.status.state]).toEqual([0, "running"]);
  expect(await read()).toBe(0x11);
});

/**
 * The host: shared memory, a VT-d unit, a guest, and a device in a worker whose cache the unit flushes.
 */

import { BufferMemory, sourceId } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { WorkerCacheNotifier, WorkerDeviceTlb, type WorkerPort } from "@iommu-kit/notifier-cache/worker";
import type { Order, Report, ToDevice } from "./device.js";
import { Guest } from "./guest.js";

/** A worker that was started, in Node or in the browser. */
export interface Thread {
  readonly port: WorkerPort;
  /** Hears everything that the worker sends. */
  listen(listener: (message: unknown) => void): void;
  end(): void;
}

/** How the worker's cache is attached: flushed by the unit, or by the guest as the device TLB of ATS. */
export type CacheKind = "cache" | "device-tlb";

const RAM_BYTES = 4 * 2 ** 20;
/** Much less than in earnest, so that a device which hangs does not take long. */
const DEADLINE_MILLISECONDS = 600;
const HUNG_AFTER_MILLISECONDS = 200;

/** See the file's header. */
export class Machine {
  readonly ram = new SharedArrayBuffer(RAM_BYTES);
  readonly bytes = new Uint8Array(this.ram);
  readonly control = new Int32Array(new SharedArrayBuffer(8));
  readonly guest: Guest;
  readonly cache: WorkerCacheNotifier | WorkerDeviceTlb;
  /** Whether the device was cut off. */
  revoked = false;
  /** How often it was reported to hang. */
  hangs = 0;
  readonly #thread: Thread;
  readonly #reports: ((report: Report) => void)[] = [];

  constructor(thread: Thread, kind: CacheKind) {
    this.#thread = thread;
    const memory = new BufferMemory([{ firstPfn: 0, bytes: this.bytes }]);
    const unit = new VtdIommu({
      memory,
      msi: () => undefined,
      deviceTlb: true,
      deviceTlbDeadlineMilliseconds: DEADLINE_MILLISECONDS,
      limits: { consumerDeadlineMilliseconds: DEADLINE_MILLISECONDS },
    });
    const space = unit.addressSpace(sourceId(0, 3, 0));
    this.guest = new Guest(memory, unit, space.sourceId);
    const Kind = kind === "cache" ? WorkerCacheNotifier : WorkerDeviceTlb;
    this.cache = new Kind(space, {
      port: thread.port,
      hungAfterMilliseconds: HUNG_AFTER_MILLISECONDS,
      onHung: () => (this.hangs += 1),
      onRevoke: () => (this.revoked = true),
    });
    this.guest.boot(kind === "device-tlb");
    space.attach(this.cache);
  }

  /** Resolves when the worker runs. */
  start(): Promise<void> {
    const started = new Promise<void>((resolve) =>
      this.#thread.listen((message) => {
        // The device's own messages; those of the cache on the same port have neither of the two.
        const { report, ready } = message as { readonly report?: Report; readonly ready?: true };
        if (ready === true) resolve();
        if (report !== undefined) this.#reports.shift()?.(report);
      }),
    );
    const { ram, cache, control } = this;
    this.#say({ parts: { setup: cache.setup, ram, control: control.buffer } });
    return started;
  }

  /** Tells the device to do something; one thing at a time. */
  order(order: Order): Promise<Report> {
    Atomics.store(this.control, 0, 0);
    Atomics.store(this.control, 1, 0);
    const report = new Promise<Report>((resolve) => this.#reports.push(resolve));
    this.#say({ order });
    return report;
  }

  /** Ends a loop of the device. */
  stopDevice(): void {
    Atomics.store(this.control, 0, 1);
  }

  /** Accesses that the device has made in its loop. */
  get accesses(): number {
    return Atomics.load(this.control, 1);
  }

  /** Fills a guest frame. */
  fill(gpaPfn: number, value: number): void {
    this.bytes.fill(value, gpaPfn * 4096, (gpaPfn + 1) * 4096);
  }

  /** Ends the worker. */
  end(): void {
    this.stopDevice();
    this.#thread.end();
  }

  #say(message: ToDevice): void {
    this.#thread.port.postMessage(message);
  }
}

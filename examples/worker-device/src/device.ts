/**
 * The device: a model that runs in a worker, reaches guest memory by IOVA, and does as the host's test tells it. Knows neither Node nor the browser.
 */

import { BufferMemory } from "@iommu-kit/iommu-core";
import { WorkerDma, type WorkerPort, type WorkerSetup } from "@iommu-kit/notifier-cache/worker";

/** What the host sends first. */
export interface DeviceParts {
  readonly setup: WorkerSetup;
  /** Guest memory from guest-physical address 0 on. */
  readonly ram: SharedArrayBuffer;
  /** Word 0: whether to stop. Word 1: accesses made so far in a loop. */
  readonly control: SharedArrayBuffer;
}

/** What it can be told, one thing at a time. */
export type Order =
  | { readonly do: "copy"; readonly fromIova: number; readonly toIova: number; readonly byteLength: number }
  /** Reads the first byte of every page in turn until told to stop, and counts those that are `poison`. */
  | { readonly do: "watch"; readonly iovaPfns: readonly number[]; readonly poison: number }
  /** Computes until told to stop and looks at nothing meanwhile; then reads a byte. */
  | { readonly do: "hang"; readonly iova: number };

/** What it answers. */
export interface Report {
  readonly done: boolean;
  /** Why the last refused access was refused. */
  readonly reason: number;
  readonly reads: number;
  readonly refused: number;
  readonly poisoned: number;
}

/** Messages between the two sides, beside those of the cache. */
export type ToDevice = { readonly parts: DeviceParts } | { readonly order: Order };
/** See `ToDevice`. `ready`: the parts have arrived. */
export type FromDevice = { readonly report: Report } | { readonly ready: true };

/** See the file's header. */
class Device {
  readonly #dma: WorkerDma;
  readonly #control: Int32Array;

  constructor(port: WorkerPort, { setup, ram, control }: DeviceParts) {
    const memory = new BufferMemory([{ firstPfn: 0, bytes: new Uint8Array(ram) }]);
    this.#dma = new WorkerDma(setup, { port, memory });
    this.#control = new Int32Array(control);
  }

  /** Carries an order out. */
  obey(order: Order): Report {
    if (order.do === "copy") return this.#copy(order.fromIova, order.toIova, order.byteLength);
    if (order.do === "watch") return this.#watch(order.iovaPfns, order.poison);
    while (!this.#stopped);
    return this.#report(this.#dma.read(order.iova, new Uint8Array(1)));
  }

  #copy(fromIova: number, toIova: number, byteLength: number): Report {
    const bytes = new Uint8Array(byteLength);
    return this.#report(this.#dma.read(fromIova, bytes) && this.#dma.write(toIova, bytes));
  }

  #watch(iovaPfns: readonly number[], poison: number): Report {
    const byte = new Uint8Array(1);
    let [reads, refused, poisoned] = [0, 0, 0];
    while (!this.#stopped) {
      for (const iovaPfn of iovaPfns) {
        if (!this.#dma.read(iovaPfn * 4096, byte)) refused += 1;
        else if (byte[0] === poison) poisoned += 1;
        reads += 1;
      }
      Atomics.store(this.#control, 1, reads);
    }
    return { ...this.#report(true), reads, refused, poisoned };
  }

  get #stopped(): boolean {
    return Atomics.load(this.#control, 0) !== 0;
  }

  #report(done: boolean): Report {
    return { done, reason: this.#dma.reason, reads: 0, refused: 0, poisoned: 0 };
  }
}

/** The worker's program: `say` sends to the host, and the function that comes back takes what the host sends. */
export function deviceProgram(port: WorkerPort, say: (message: FromDevice) => void): (message: unknown) => void {
  let device: Device | undefined;
  return (message) => {
    if (typeof message !== "object" || message === null) return;
    // Of the host's own making; the cache's messages have neither of the two.
    const { parts, order } = message as { readonly parts?: DeviceParts; readonly order?: Order };
    if (parts !== undefined) {
      device = new Device(port, parts);
      say({ ready: true });
    }
    if (order !== undefined && device !== undefined) say({ report: device.obey(order) });
  };
}

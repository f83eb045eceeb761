/**
 * The worker's side of the tests: a device model that does as it is told. Runs in a real thread.
 */
import { parentPort, workerData } from "node:worker_threads";
import { BufferMemory, Translation } from "@iommu-kit/iommu-core";
import { WorkerDma, type WorkerSetup } from "../src/worker/index.js";

/** What the test gives it. */
export interface DeviceData {
  readonly setup: WorkerSetup;
  readonly ram: SharedArrayBuffer;
  /** Word 0: stop. Word 1: accesses made in a loop. */
  readonly control: SharedArrayBuffer;
  readonly answerDeadlineMilliseconds?: number;
}

/** What it can be told. */
export type Order =
  | { readonly do: "read"; readonly iova: number; readonly byteLength: number }
  | { readonly do: "write"; readonly iova: number; readonly bytes: readonly number[] }
  | { readonly do: "translate"; readonly iovaPfn: number; readonly access: 0 | 1 | 2 | 3 }
  /** Reads the first byte of each page in turn until told to stop; counts bytes that equal `poison`. */
  | { readonly do: "hammer"; readonly pages: readonly number[]; readonly poison: number }
  /** Computes without ever looking, until told to stop; then reads. */
  | { readonly do: "hang"; readonly iova: number };

/** What it answers. */
export interface Report {
  readonly done: boolean;
  readonly bytes: readonly number[];
  readonly reason: number;
  readonly access: number;
  readonly pageCount: number;
  readonly reads: number;
  readonly refusals: number;
  readonly poisoned: number;
}

if (parentPort === null) throw new Error("expected to run in a worker");
const port = parentPort;
const data = workerData as DeviceData;
const control = new Int32Array(data.control);
const dma = new WorkerDma(data.setup, {
  port,
  memory: new BufferMemory([{ firstPfn: 0, bytes: new Uint8Array(data.ram) }]),
  ...(data.answerDeadlineMilliseconds === undefined
    ? {}
    : { answerDeadlineMilliseconds: data.answerDeadlineMilliseconds }),
});
const NOTHING: Report = {
  done: false,
  bytes: [],
  reason: 0,
  access: 0,
  pageCount: 0,
  reads: 0,
  refusals: 0,
  poisoned: 0,
};

const hammer = (pages: readonly number[], poison: number): Report => {
  const byte = new Uint8Array(1);
  let reads = 0;
  let refusals = 0;
  let poisoned = 0;
  while (Atomics.load(control, 0) === 0) {
    for (const page of pages) {
      if (!dma.read(page * 4096, byte)) refusals += 1;
      else if (byte[0] === poison) poisoned += 1;
      reads += 1;
    }
    Atomics.store(control, 1, reads);
  }
  return { ...NOTHING, done: true, reads, refusals, poisoned };
};

const obey = (order: Order): Report => {
  if (order.do === "read" || order.do === "hang") {
    while (order.do === "hang" && Atomics.load(control, 0) === 0);
    const bytes = new Uint8Array(order.do === "read" ? order.byteLength : 1);
    const done = dma.read(order.iova, bytes);
    return { ...NOTHING, done, bytes: [...bytes], reason: dma.reason };
  }
  if (order.do === "write") {
    return { ...NOTHING, done: dma.write(order.iova, Uint8Array.from(order.bytes)), reason: dma.reason };
  }
  if (order.do === "translate") {
    const out = new Translation();
    const done = dma.translate(order.iovaPfn, order.access, out);
    return { ...NOTHING, done, reason: out.reason, access: out.access, pageCount: out.pageCount };
  }
  return hammer(order.pages, order.poison);
};

port.on("message", (order: Order | { readonly tag: string }) => {
  if ("do" in order) port.postMessage({ report: obey(order) });
});

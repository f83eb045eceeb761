/**
 * A small driver for the device, as a guest would have one: discovers, negotiates (virtio 1.3, §3.1.1), sends requests, reads fault reports.
 */

import type { Access, GuestMemory } from "@iommu-kit/iommu-core";
import type { MmioTransport } from "../mmio-transport.js";
import { AttachFlag, DEVICE_ID, FAULT, IommuFeature, Queue, TAIL_BYTES } from "../spec/iommu.js";
import { Feature, MAGIC, Register, Status } from "../spec/virtio.js";
import { DriverQueue, QUEUE_BYTES, type Shape, type UsedBuffer } from "./driver-queue.js";
import { decodeFault, decodeProperties, encode, type FaultReport, type ReservedRegion } from "./requests.js";

/** What a driver accepts at most. */
const ALL_FEATURES = Object.values(IommuFeature).reduce((all, feature) => all | feature, 0n);

/** See the file's header. */
export class GuestDriver {
  readonly #memory: GuestMemory;
  readonly #mmio: MmioTransport;
  readonly #firstGpa: number;
  #requests: DriverQueue | undefined;
  #events: DriverQueue | undefined;
  readonly #answers = new Map<number, (used: UsedBuffer) => void>();

  /** The driver keeps its queues in 256 KiB of memory from `firstPfn` on. */
  constructor(memory: GuestMemory, mmio: MmioTransport, firstPfn: number) {
    this.#memory = memory;
    this.#mmio = mmio;
    this.#firstGpa = firstPfn * 4096;
  }

  /** Brings the device up. @throws {Error} if it is no virtio-iommu, or does not take these features. */
  boot(features = ALL_FEATURES): void {
    const mmio = this.#mmio;
    const isDevice = mmio.read(Register.MAGIC, 4) === MAGIC && mmio.read(Register.VERSION, 4) === 2;
    if (!isDevice || mmio.read(Register.DEVICE_ID, 4) !== DEVICE_ID) throw new Error("no virtio-iommu of version 2");
    mmio.write(Register.STATUS, 4, 0);
    if (mmio.read(Register.STATUS, 4) !== 0) throw new Error("the device is still in reset");
    mmio.write(Register.STATUS, 4, Status.ACKNOWLEDGE);
    mmio.write(Register.STATUS, 4, Status.ACKNOWLEDGE | Status.DRIVER);
    const wanted = this.#offered() & (features | Feature.VERSION_1 | Feature.INDIRECT_DESC);
    for (const word of [0, 1]) {
      mmio.write(Register.DRIVER_FEATURES_SEL, 4, word);
      mmio.write(Register.DRIVER_FEATURES, 4, Number((wanted >> BigInt(32 * word)) & 0xffff_ffffn));
    }
    const agreed = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK;
    mmio.write(Register.STATUS, 4, agreed);
    if ((mmio.read(Register.STATUS, 4) & Status.FEATURES_OK) === 0) throw new Error("the device refuses the features");
    this.#requests = new DriverQueue(this.#memory, mmio, Queue.REQUEST, this.#firstGpa);
    this.#events = new DriverQueue(this.#memory, mmio, Queue.EVENT, this.#firstGpa + QUEUE_BYTES);
    mmio.write(Register.STATUS, 4, agreed | Status.DRIVER_OK);
    for (let i = 0; i < this.#events.size; i++) this.#events.place(new Uint8Array(0), FAULT.wordCount * 4);
    this.#events.kick();
  }

  /** Acknowledges an interrupt, and takes back what was used. */
  onInterrupt(): void {
    this.#mmio.write(Register.INTERRUPT_ACK, 4, this.#mmio.read(Register.INTERRUPT_STATUS, 4));
    this.#collect();
  }

  /** The configuration, read byte by byte. */
  config(): Uint8Array {
    return Uint8Array.from({ length: 40 }, (_byte, i) => this.#mmio.read(Register.CONFIG + i, 1));
  }

  /** Writes the configuration's `bypass` field. */
  setBypass(on: boolean): void {
    this.#mmio.write(Register.CONFIG + 36, 1, on ? 1 : 0);
  }

  /** Attaches an endpoint to a domain. Answers the status. */
  attach(domain: number, endpoint: number, options: { readonly bypass?: boolean } = {}): Promise<number> {
    return this.status(encode.attach(domain, endpoint, options.bypass === true ? AttachFlag.BYPASS : 0));
  }

  /** Detaches it. */
  detach(domain: number, endpoint: number): Promise<number> {
    return this.status(encode.detach(domain, endpoint));
  }

  /** Maps frames of a domain; `flags` are those of `MapFlag` beside the rights. */
  map(
    domain: number,
    pages: { iovaPfn: number; pageCount: number; gpaPfn: number; access: Access; flags?: number },
  ): Promise<number> {
    const start = BigInt(pages.iovaPfn) * 4096n;
    const end = start + BigInt(pages.pageCount) * 4096n - 1n;
    const target = BigInt(pages.gpaPfn) * 4096n;
    return this.status(encode.map(domain, { start, end, target, flags: pages.access | (pages.flags ?? 0) }));
  }

  /** Unmaps frames of a domain: whole mappings. */
  unmap(domain: number, iovaPfn: number, pageCount: number): Promise<number> {
    const start = BigInt(iovaPfn) * 4096n;
    return this.status(encode.unmap(domain, start, start + BigInt(pageCount) * 4096n - 1n));
  }

  /** Asks for the properties of an endpoint. */
  async probe(endpoint: number): Promise<{ status: number; regions: ReservedRegion[] }> {
    const probeSize = new DataView(this.config().buffer).getUint32(32, true);
    const { bytes } = await this.send(encode.probe(endpoint), probeSize + TAIL_BYTES);
    return { status: bytes[probeSize] ?? -1, regions: decodeProperties(bytes.subarray(0, probeSize)) };
  }

  /** Sends a request that is answered by its tail alone. Answers the status, -1 if nothing was written. */
  async status(request: Uint8Array, shape: Shape = {}): Promise<number> {
    const { length, bytes } = await this.send(request, TAIL_BYTES, shape);
    return length === 0 ? -1 : (bytes[0] ?? -1);
  }

  /** Sends any bytes. Done when the device has used the buffer. */
  send(readable: Uint8Array, writableLength: number, shape: Shape = {}): Promise<UsedBuffer> {
    const answer = this.place(readable, writableLength, shape);
    this.kick();
    return answer;
  }

  /** Places a request without telling the device yet. */
  place(readable: Uint8Array, writableLength: number, shape: Shape = {}): Promise<UsedBuffer> {
    const head = ready(this.#requests).place(readable, writableLength, shape);
    return new Promise((resolve) => this.#answers.set(head, resolve));
  }

  /** Tells the device of all that was placed. */
  kick(): void {
    ready(this.#requests).kick();
    this.#collect();
  }

  /** Fault reports since the last call. Their buffers go back to the device. */
  faults(): FaultReport[] {
    const events = ready(this.#events);
    const reports: FaultReport[] = [];
    for (let used = events.take(); used !== undefined; used = events.take()) {
      reports.push(decodeFault(used.bytes));
      events.place(new Uint8Array(0), FAULT.wordCount * 4);
    }
    if (reports.length > 0) events.kick();
    return reports;
  }

  #offered(): bigint {
    const word = (index: number): bigint => {
      this.#mmio.write(Register.DEVICE_FEATURES_SEL, 4, index);
      return BigInt(this.#mmio.read(Register.DEVICE_FEATURES, 4));
    };
    return word(0) | (word(1) << 32n);
  }

  #collect(): void {
    for (let used = this.#requests?.take(); used !== undefined; used = this.#requests?.take()) {
      this.#answers.get(used.head)?.(used);
      this.#answers.delete(used.head);
    }
  }
}

function ready(queue: DriverQueue | undefined): DriverQueue {
  if (queue === undefined) throw new Error("expected boot() before requests");
  return queue;
}

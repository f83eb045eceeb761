/**
 * A guest whose process has an address range but no memory: its page-request handler hands out frames as the device asks for them, as an operating system does for shared
 * virtual memory. It works through registers, queues and tables only.
 */

import { parseSourceId } from "@iommu-kit/iommu-core";
import { type FirstStageTables, GuestDriver } from "@iommu-kit/iommu-vtd/testing";

const PQH = 0xc0;
const PQT = 0xc8;
const PQA = 0xd0;
const PRS = 0xdc;
const PECTL = 0xe0;
const PEDATA = 0xe4;
const PEADDR = 0xe8;
const ENTRY_BYTES = 32;
const QUEUE_BYTES = 4096;
const RESPONSE_SUCCESS = 0;
const RESPONSE_INVALID = 1;

/** The device's place and the PASID of the process. */
export const DEVICE = "00:03.0";
/** See `DEVICE`. */
export const PASID = 5;

/** See the file's header. */
export class DemandPagingGuest {
  readonly driver: GuestDriver;
  /** Frames given to the process, by virtual page. */
  readonly frames = new Map<number, number>();
  readonly #tables: FirstStageTables;
  readonly #queuePfn: number;
  /** The process owns virtual pages from here ... */
  readonly #firstPfn: number;
  /** ... up to here. */
  readonly #endPfn: number;

  constructor(firstPfn: number, pageCount: number) {
    this.#firstPfn = firstPfn;
    this.#endPfn = firstPfn + pageCount;
    this.driver = new GuestDriver({
      scalableMode: true,
      firstStage: "4-level",
      pasidWidth: 20,
      deviceTlb: true,
      pageRequests: true,
      noWriteRequests: true,
      faultRecords: 8,
    });
    const { driver } = this;
    this.#tables = driver.newFirstStageTables();
    this.#queuePfn = driver.newFrame();
    driver.scalableContext(DEVICE, { pasids: true, fields: { DTE: 1, PRE: 1 } });
    driver.pasid(DEVICE, PASID, { did: 1, type: "first-stage", firstRootPfn: this.#tables.rootPfn });
    driver.start("scalable");
    const { mmio } = driver.unit;
    mmio.write64(PQA, BigInt(this.#queuePfn) * 4096n);
    mmio.write32(PEDATA, 0x51);
    mmio.write32(PEADDR, 0xfee0_0000);
    mmio.write32(PECTL, 0);
  }

  /** The interrupt handler: serves every page request in the queue. Answers how many. */
  handleInterrupts(): number {
    const { unit, messages } = this.driver;
    if (messages.splice(0).length === 0) return 0;
    let served = 0;
    unit.mmio.write32(PRS, 3);
    for (let head = unit.mmio.read32(PQH); head !== unit.mmio.read32(PQT); head = (head + ENTRY_BYTES) % QUEUE_BYTES) {
      this.#serve(head);
      served += 1;
      unit.mmio.write32(PQH, (head + ENTRY_BYTES) % QUEUE_BYTES);
    }
    return served;
  }

  /** Takes a page away again: clears the entry, then tells IOTLB and device TLB, in that order. */
  reclaim(iovaPfn: number): void {
    this.#tables.unmap(iovaPfn);
    this.frames.delete(iovaPfn);
    const flushIotlb = Int32Array.of(0x36 | (1 << 16), PASID, (iovaPfn << 12) | 0, 0, 0, 0, 0, 0);
    const flushDevice = Int32Array.of(0x8 | (parseSourceId(DEVICE) << 16), PASID, iovaPfn << 12, 0, 0, 0, 0, 0);
    this.driver.queue.run(flushIotlb, flushDevice);
  }

  #serve(head: number): void {
    const { memory, queue } = this.driver;
    const at = this.#queuePfn * 4096 + head;
    const [first = 0, pasid = 0, low = 0, high = 0] = [0, 4, 8, 12].map((offset) => memory.peek(at + offset));
    const iovaPfn = (high >>> 0) * 2 ** 20 + (low >>> 12);
    const write = (low & 2) !== 0;
    const code = this.#provide(iovaPfn, write) ? RESPONSE_SUCCESS : RESPONSE_INVALID;
    const group = low & 0xff8;
    // Type 9: PP, requester and PASID as in the request, response code in bits 15:12.
    queue.run(Int32Array.of(0x19 | (code << 12) | (first & 0xffff_0000), pasid & 0xf_ffff, group, 0, 0, 0, 0, 0));
  }

  /** Maps a page of the process; a page that is only read is mapped read-only until it is written. */
  #provide(iovaPfn: number, write: boolean): boolean {
    if (iovaPfn < this.#firstPfn || iovaPfn >= this.#endPfn) return false;
    const frame = this.frames.get(iovaPfn) ?? this.driver.newFrame();
    this.frames.set(iovaPfn, frame);
    this.#tables.map(iovaPfn, 1, frame, { writable: write });
    return true;
  }
}

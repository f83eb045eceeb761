/**
 * The guest: one device with a table of three levels, and a driver that edits it and invalidates through the queue, waiting as Linux's does for a word in memory
 * (§6.5.2, §9.1, §9.3, §9.8, §11.4).
 */

import type { BufferMemory, SourceId } from "@iommu-kit/iommu-core";
import type { VtdIommu } from "@iommu-kit/iommu-vtd";

const Register = { GCMD: 0x18, RTADDR: 0x20, FSTS: 0x34, IQT: 0x88, IQA: 0x90 } as const;
const Command = { TE: 0x8000_0000, SRTP: 0x4000_0000, QIE: 0x0400_0000 } as const;
/** Invalidation time-out: a device with ATS did not answer. */
const TIMED_OUT = 0x40;

const ROOT_TABLE = 0x1000;
const CONTEXT_TABLE = 0x2000;
/** Three tables in a row; the last one decides pages 0 to 511. */
const TABLES = 0x3000;
const LAST_TABLE = 0x5000;
const QUEUE = 0x6000;
const STATUS_GPA = 0x7000;
const QUEUE_BYTES = 4096;
const DOMAIN = 1;

const READ_WRITE = 3;
const PRESENT = 1;
/** Translation type of a context-entry: device TLB allowed. */
const DEVICE_TLB = 1 << 2;
/** Descriptor types in bits 3:0, and granularities in bits 5:4. */
const IOTLB_PAGES = 0x32;
const DEVICE_TLB_INVALIDATE = 3;
const WAIT_STATUS_WRITE = 0x25;

/** See the file's header. */
export class Guest {
  readonly #memory: BufferMemory;
  readonly #unit: VtdIommu;
  readonly #sourceId: SourceId;
  #tailBytes = 0;
  #lastStatus = 0;

  constructor(memory: BufferMemory, unit: VtdIommu, sourceId: SourceId) {
    this.#memory = memory;
    this.#unit = unit;
    this.#sourceId = sourceId;
  }

  /** Gives the device a table, empty at first, and switches queue and translation on. `ats`: the device may have a TLB of its own. */
  boot(ats: boolean): void {
    const { mmio } = this.#unit;
    this.#memory.writeWord(ROOT_TABLE, CONTEXT_TABLE | PRESENT);
    const contextEntry = CONTEXT_TABLE + (this.#sourceId & 0xff) * 16;
    this.#memory.writeWord(contextEntry, TABLES | (ats ? DEVICE_TLB : 0) | PRESENT);
    this.#memory.writeWord(contextEntry + 8, (DOMAIN << 8) | 1);
    this.#memory.writeWord(TABLES, (TABLES + 0x1000) | READ_WRITE);
    this.#memory.writeWord(TABLES + 0x1000, LAST_TABLE | READ_WRITE);
    mmio.write64(Register.RTADDR, BigInt(ROOT_TABLE));
    mmio.write32(Register.GCMD, Command.SRTP);
    mmio.write64(Register.IQA, BigInt(QUEUE));
    mmio.write32(Register.GCMD, Command.QIE);
    mmio.write32(Register.GCMD, Command.QIE + Command.TE);
  }

  /** Writes a leaf entry; `undefined` takes the page away. Announces nothing. */
  setPage(iovaPfn: number, gpaPfn: number | undefined): void {
    this.#memory.writeWord(LAST_TABLE + iovaPfn * 8, gpaPfn === undefined ? 0 : gpaPfn * 4096 + READ_WRITE);
  }

  /** Invalidates one page, with a wait behind it. */
  invalidatePage(iovaPfn: number): void {
    this.#submit([IOTLB_PAGES | (DOMAIN << 16), 0, iovaPfn * 4096, 0]);
  }

  /** Tells the device itself to drop a page, with a wait behind it. */
  invalidateDeviceTlb(iovaPfn: number): void {
    this.#submit([DEVICE_TLB_INVALIDATE, this.#sourceId, iovaPfn * 4096, 0]);
  }

  /** Whether the last wait has written its word. */
  get waitCompleted(): boolean {
    const word = new Int32Array(1);
    this.#memory.fetch(STATUS_GPA, word);
    return word[0] === this.#lastStatus;
  }

  /** Whether the unit reports that a device did not answer an invalidation. */
  get timedOut(): boolean {
    return (this.#unit.mmio.read32(Register.FSTS) & TIMED_OUT) !== 0;
  }

  /** Clears that report: the queue goes on. */
  clearTimeOut(): void {
    this.#unit.mmio.write32(Register.FSTS, TIMED_OUT);
  }

  #submit(descriptor: readonly number[]): void {
    this.#lastStatus += 1;
    for (const words of [descriptor, [WAIT_STATUS_WRITE, this.#lastStatus, STATUS_GPA, 0]]) {
      for (const [index, word] of words.entries()) this.#memory.writeWord(QUEUE + this.#tailBytes + index * 4, word);
      this.#tailBytes = (this.#tailBytes + 16) % QUEUE_BYTES;
    }
    this.#unit.mmio.write32(Register.IQT, this.#tailBytes);
  }
}

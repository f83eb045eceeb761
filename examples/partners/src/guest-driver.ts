/**
 * A guest's driver for the unit: tables in guest memory, descriptors in the invalidation queue, registers; one device in one domain.
 *
 * It writes what Linux's driver writes and waits as that does: for a word in memory that a wait descriptor sets.
 */
import type { SourceId } from "@iommu-kit/iommu-core";
import type { VtdIommu } from "@iommu-kit/iommu-vtd";
import type { SharedGuestMemory } from "./guest-memory.js";
import { turn } from "./proof.js";

const Register = { GCMD: 0x18, GSTS: 0x1c, RTADDR: 0x20, FSTS: 0x34, IQT: 0x88, IQA: 0x90 } as const;
const Command = { TE: 2 ** 31, SRTP: 2 ** 30, QIE: 2 ** 26 } as const;
const QUEUE_DESCRIPTORS = 256;
const DOMAIN = 5n;
const WAITED = 2;

/** Rights of a leaf entry: R in bit 0, W in bit 1. */
export type Rights = 1 | 2 | 3;

/** See the file's header. Its tables take frames from `firstTablePfn` on. */
export class GuestDriver {
  readonly #unit: VtdIommu;
  readonly #memory: SharedGuestMemory;
  readonly #sourceId: SourceId;
  readonly #rootPfn: number;
  readonly #contextPfn: number;
  readonly #queuePfn: number;
  readonly #statusPfn: number;
  readonly #tablePfn: number;
  #nextPfn: number;
  #tail = 0;
  #commands = 0;

  constructor(unit: VtdIommu, memory: SharedGuestMemory, sourceId: SourceId, firstTablePfn: number) {
    this.#unit = unit;
    this.#memory = memory;
    this.#sourceId = sourceId;
    this.#nextPfn = firstTablePfn;
    this.#rootPfn = this.#page();
    this.#contextPfn = this.#page();
    this.#queuePfn = this.#page();
    this.#statusPfn = this.#page();
    this.#tablePfn = this.#page();
  }

  /** Sets the unit up: root and context entry, queue, translation. */
  async start(): Promise<void> {
    const { mmio } = this.#unit;
    const bus = this.#sourceId >> 8;
    const present = 1n;
    this.#write64(this.#rootPfn * 4096 + bus * 16, BigInt(this.#contextPfn * 4096) | present);
    const context = this.#contextPfn * 4096 + (this.#sourceId & 0xff) * 16;
    const fourLevels = 2n;
    this.#write64(context + 8, (DOMAIN << 8n) | fourLevels);
    this.#write64(context, BigInt(this.#tablePfn * 4096) | present);
    mmio.write64(Register.RTADDR, BigInt(this.#rootPfn * 4096));
    await this.#command(Command.SRTP, false);
    mmio.write32(Register.IQT, 0);
    mmio.write64(Register.IQA, BigInt(this.#queuePfn * 4096));
    await this.#command(Command.QIE, true);
    const allContexts = 1n | (1n << 4n);
    const allTranslations = 2n | (1n << 4n);
    await this.submit([
      [allContexts, 0n],
      [allTranslations, 0n],
    ]);
    await this.#command(Command.TE, true);
  }

  /** Writes leaf entries: `pageCount` frames to consecutive targets. Announces nothing. */
  map(iovaPfn: number, gpaPfn: number, pageCount = 1, rights: Rights = 3): void {
    for (let i = 0; i < pageCount; i++)
      this.#write64(this.#leafOf(iovaPfn + i), BigInt((gpaPfn + i) * 4096) | BigInt(rights));
  }

  /** Clears leaf entries. Announces nothing. */
  unmap(iovaPfn: number, pageCount = 1): void {
    for (let i = 0; i < pageCount; i++) this.#write64(this.#leafOf(iovaPfn + i), 0n);
  }

  /** Page-selective invalidation of 2^mask pages; done when the unit says so. */
  invalidatePages(iovaPfn: number, mask = 0): Promise<void> {
    const pages = 2n | (3n << 4n) | (DOMAIN << 16n);
    return this.submit([[pages, BigInt(iovaPfn * 4096) | BigInt(mask)]]);
  }

  /** Invalidation of the whole domain; done when the unit says so. */
  invalidateDomain(): Promise<void> {
    return this.submit([[2n | (2n << 4n) | (DOMAIN << 16n), 0n]]);
  }

  /** Device-TLB invalidation of a page of the device; done when the device has answered. */
  invalidateDeviceTlb(iovaPfn: number): Promise<void> {
    return this.submit([[3n | (BigInt(this.#sourceId) << 32n), BigInt(iovaPfn * 4096)]]);
  }

  /** Queues descriptors with a wait descriptor behind them, and waits for its word. */
  async submit(descriptors: readonly (readonly [bigint, bigint])[]): Promise<void> {
    const slot = this.#tail;
    const status = this.#statusPfn * 4096 + slot * 4;
    this.#memory.view.setUint32(status, 1, true);
    const statusWrite = 5n | (1n << 5n) | (BigInt(WAITED) << 32n);
    for (const [low, high] of [...descriptors, [statusWrite, BigInt(status)] as const]) {
      const at = this.#queuePfn * 4096 + this.#tail * 16;
      this.#write64(at, low);
      this.#write64(at + 8, high);
      this.#tail = (this.#tail + 1) % QUEUE_DESCRIPTORS;
    }
    this.#unit.mmio.write32(Register.IQT, this.#tail * 16);
    for (const end = Date.now() + 10_000; this.#memory.view.getUint32(status, true) !== WAITED; await turn()) {
      if (Date.now() > end)
        throw new Error(
          `the unit did not complete an invalidation: FSTS ${this.#unit.mmio.read32(Register.FSTS).toString(16)}`,
        );
    }
  }

  async #command(bit: number, stays: boolean): Promise<void> {
    const { mmio } = this.#unit;
    mmio.write32(Register.GCMD, this.#commands + bit);
    if (stays) this.#commands += bit;
    while (Math.floor(mmio.read32(Register.GSTS) / bit) % 2 === 0) await turn();
  }

  /** Address of the leaf entry for a frame, with the tables on the way to it. */
  #leafOf(iovaPfn: number): number {
    let table = this.#tablePfn;
    for (let span = 512 ** 3; span > 1; span /= 512) {
      const entry = table * 4096 + (Math.floor(iovaPfn / span) % 512) * 8;
      let next = this.#memory.view.getBigUint64(entry, true);
      if (next === 0n) {
        next = BigInt(this.#page() * 4096) | 3n;
        this.#write64(entry, next);
      }
      table = Number(next >> 12n);
    }
    return table * 4096 + (iovaPfn % 512) * 8;
  }

  #page(): number {
    return this.#nextPfn++;
  }

  #write64(gpa: number, value: bigint): void {
    this.#memory.view.setBigUint64(gpa, value, true);
  }
}

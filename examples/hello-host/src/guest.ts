/**
 * What the guest does, as small as it can be: one device with a table of three levels, and a driver that maps pages, takes them away, and tells the unit by registers
 * (§9.1, §9.3, §9.8, §11.4).
 */

import type { GuestMemory } from "@iommu-kit/iommu-core";
import type { VtdIommu } from "@iommu-kit/iommu-vtd";

const ROOT_TABLE = 0x10000;
const CONTEXT_TABLE = 0x11000;
/** Three tables in a row; the last one decides pages 0 to 511. */
const TABLES = 0x12000;
const LAST_TABLE = 0x14000;
const READ_WRITE = 3;
const DOMAIN = 1;

const GLOBAL_COMMAND = 0x18;
const ROOT_TABLE_ADDRESS = 0x20;
const SET_ROOT_TABLE = 0x4000_0000;
const ENABLE_TRANSLATION = 0x8000_0000;
/** Behind the invalidation registers' default place: invalidate the translations of a domain, now. */
const IOTLB_INVALIDATE = 0xf8;
const INVALIDATE_DOMAIN = (1n << 63n) | (2n << 60n) | (BigInt(DOMAIN) << 32n);

/** See the file's header. */
export class Guest {
  readonly #memory: GuestMemory;
  readonly #unit: VtdIommu;

  constructor(memory: GuestMemory, unit: VtdIommu) {
    this.#memory = memory;
    this.#unit = unit;
  }

  /** Gives the device at 00:03.0 a table, empty at first, and switches translation on. */
  boot(): void {
    this.#memory.writeWord(ROOT_TABLE, CONTEXT_TABLE | 1);
    const contextEntry = CONTEXT_TABLE + 3 * 8 * 16;
    this.#memory.writeWord(contextEntry, TABLES | 1);
    this.#memory.writeWord(contextEntry + 8, (DOMAIN << 8) | 1);
    this.#memory.writeWord(TABLES, (TABLES + 0x1000) | READ_WRITE);
    this.#memory.writeWord(TABLES + 0x1000, LAST_TABLE | READ_WRITE);
    this.#unit.mmio.write64(ROOT_TABLE_ADDRESS, BigInt(ROOT_TABLE));
    this.#unit.mmio.write32(GLOBAL_COMMAND, SET_ROOT_TABLE);
    this.#unit.mmio.write32(GLOBAL_COMMAND, ENABLE_TRANSLATION);
  }

  /** Maps a page below 512 and tells the unit. */
  map(iovaPfn: number, gpaPfn: number): void {
    this.#memory.writeWord(LAST_TABLE + iovaPfn * 8, gpaPfn * 4096 + READ_WRITE);
    this.#unit.mmio.write64(IOTLB_INVALIDATE, INVALIDATE_DOMAIN);
  }

  /** Takes a page away and tells the unit. */
  unmap(iovaPfn: number): void {
    this.#memory.writeWord(LAST_TABLE + iovaPfn * 8, 0);
    this.#unit.mmio.write64(IOTLB_INVALIDATE, INVALIDATE_DOMAIN);
  }
}

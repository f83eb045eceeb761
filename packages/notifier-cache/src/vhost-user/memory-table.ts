/**
 * The guest memory that a back-end has mapped: at most eight regions, each a part of a file.
 *
 * Addresses travel as the front-end's *user addresses*. They name memory and are never dereferenced here, so any numbers do that do not overlap.
 */

import { IommuError, PAGE_BYTES } from "@iommu-kit/iommu-core";
import { packWords32, packWords64 } from "./messages.js";
import { MOST_REGIONS } from "./protocol.js";

/** Where user addresses lie if the host does not say: this plus the guest-physical address. */
const DEFAULT_USER_BASE = 2 ** 45;

/** A region of guest memory, whole pages. */
export interface VhostRegion {
  /** Guest-physical byte address. */
  readonly gpa: number;
  /** Whole pages. */
  readonly byteLength: number;
  /** The file that holds it (a memfd, usually). */
  readonly fd: number;
  /** Where in the file. Default 0. */
  readonly offsetBytes?: number;
  /** The region's user address. Default: a fixed base plus `gpa`. */
  readonly userAddress?: number;
}

/** Where guest memory lies in the files of the host: regions ascending, fixed for good. Guest-physical addresses in, file places and user addresses out. */
export class MemoryTable {
  readonly #regions: readonly Required<VhostRegion>[];

  /** @throws {IommuError} `bad-option` for more than 8 regions, for parts of pages, or for regions that overlap. */
  constructor(regions: readonly VhostRegion[]) {
    const complete = regions.map((region) => ({
      offsetBytes: 0,
      userAddress: DEFAULT_USER_BASE + region.gpa,
      ...region,
    }));
    this.#regions = complete.toSorted((a, b) => a.gpa - b.gpa);
    if (regions.length === 0 || regions.length > MOST_REGIONS) {
      throw badTable(`1 to ${MOST_REGIONS} regions`, String(regions.length), "join regions that lie in one file");
    }
    let end = 0;
    for (const { gpa, byteLength, offsetBytes, userAddress } of this.#regions) {
      const whole = [gpa, byteLength, offsetBytes, userAddress].every(
        (it) => Number.isSafeInteger(it) && it >= 0 && it % PAGE_BYTES === 0,
      );
      if (!whole || byteLength === 0)
        throw badTable("whole pages", `gpa ${gpa}, ${byteLength} bytes`, "give bytes, in multiples of 4096");
      if (gpa < end) throw badTable("regions that do not overlap", `one at ${gpa} below ${end}`, "cut them");
      end = gpa + byteLength;
    }
  }

  /** Descriptors in the order in which they travel with the table. */
  get fds(): number[] {
    return this.#regions.map((region) => region.fd);
  }

  /** The user address of `pageCount` frames from `gpaPfn` on, or `undefined` unless one region contains all of them. */
  userAddressOf(gpaPfn: number, pageCount: number): number | undefined {
    const gpa = gpaPfn * PAGE_BYTES;
    for (const region of this.#regions) {
      const offsetBytes = gpa - region.gpa;
      if (offsetBytes >= 0 && offsetBytes + pageCount * PAGE_BYTES <= region.byteLength)
        return region.userAddress + offsetBytes;
    }
    return undefined;
  }

  /** Payload of SET_MEM_TABLE. */
  pack(): Uint8Array {
    const payload = new Uint8Array(8 + this.#regions.length * 32);
    payload.set(packWords32(this.#regions.length, 0), 0);
    for (const [index, region] of this.#regions.entries()) {
      payload.set(packWords64(region.gpa, region.byteLength, region.userAddress, region.offsetBytes), 8 + index * 32);
    }
    return payload;
  }
}

function badTable(expected: string, got: string, hint: string): IommuError {
  return new IommuError("bad-option", `vhost memory table: expected ${expected}, got ${got}`, { hint });
}

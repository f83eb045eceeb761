/**
 * Requests as a driver writes them, and reports as it reads them. Addresses are bytes, ends inclusive.
 */

import type { Layout } from "@iommu-kit/iommu-core";
import { ATTACH, DETACH, FAULT, MAP, PROBE, RequestType, RESV_MEM, UNMAP } from "../spec/iommu.js";

/** A fault report of the device. */
export interface FaultReport {
  readonly reason: number;
  readonly flags: number;
  readonly endpoint: number;
  readonly address: bigint;
}

/** A reserved range that PROBE answered. */
export interface ReservedRegion {
  readonly subtype: number;
  readonly start: bigint;
  readonly end: bigint;
}

/** The bytes of each request. */
export const encode = {
  attach: (domain: number, endpoint: number, flags = 0): Uint8Array =>
    bytesOf(ATTACH, { TYPE: RequestType.ATTACH, DOMAIN: domain, ENDPOINT: endpoint, FLAGS: flags }),
  detach: (domain: number, endpoint: number): Uint8Array =>
    bytesOf(DETACH, { TYPE: RequestType.DETACH, DOMAIN: domain, ENDPOINT: endpoint }),
  map: (domain: number, range: { start: bigint; end: bigint; target: bigint; flags: number }): Uint8Array =>
    bytesOf(MAP, {
      TYPE: RequestType.MAP,
      DOMAIN: domain,
      START_OFFSET: offsetOf(range.start),
      START_PFN: frameOf(range.start),
      END_OFFSET: offsetOf(range.end),
      END_PFN: frameOf(range.end),
      TARGET_OFFSET: offsetOf(range.target),
      TARGET_PFN: frameOf(range.target),
      FLAGS: range.flags,
    }),
  unmap: (domain: number, start: bigint, end: bigint): Uint8Array =>
    bytesOf(UNMAP, {
      TYPE: RequestType.UNMAP,
      DOMAIN: domain,
      START_OFFSET: offsetOf(start),
      START_PFN: frameOf(start),
      END_OFFSET: offsetOf(end),
      END_PFN: frameOf(end),
    }),
  probe: (endpoint: number): Uint8Array => bytesOf(PROBE, { TYPE: RequestType.PROBE, ENDPOINT: endpoint }),
};

/** Reads a report of the event queue. */
export function decodeFault(bytes: Uint8Array): FaultReport {
  const words = wordsOf(bytes);
  const { REASON, FLAGS, ENDPOINT, OFFSET, PFN } = FAULT.fields;
  return {
    reason: REASON.get(words, 0),
    flags: FLAGS.get(words, 0),
    endpoint: ENDPOINT.get(words, 0),
    address: addressOf(PFN.get(words, 0), OFFSET.get(words, 0)),
  };
}

/** Reads the properties of an endpoint up to the empty one (§5.13.6.5). */
export function decodeProperties(bytes: Uint8Array): ReservedRegion[] {
  const regions: ReservedRegion[] = [];
  const { TYPE, LENGTH, SUBTYPE, START_OFFSET, START_PFN, END_OFFSET, END_PFN } = RESV_MEM.fields;
  for (let at = 0; at + RESV_MEM.wordCount * 4 <= bytes.length;) {
    const words = wordsOf(bytes.subarray(at, at + RESV_MEM.wordCount * 4));
    if (TYPE.get(words, 0) === 0) break;
    regions.push({
      subtype: SUBTYPE.get(words, 0),
      start: addressOf(START_PFN.get(words, 0), START_OFFSET.get(words, 0)),
      end: addressOf(END_PFN.get(words, 0), END_OFFSET.get(words, 0)),
    });
    at += 4 + LENGTH.get(words, 0);
  }
  return regions;
}

function bytesOf<N extends string>(structure: Layout<N>, values: Readonly<Partial<Record<N, number>>>): Uint8Array {
  return new Uint8Array(structure.pack(values).buffer);
}

function wordsOf(bytes: Uint8Array): Int32Array {
  return new Int32Array(bytes.slice().buffer);
}

function offsetOf(address: bigint): number {
  return Number(address & 0xfffn);
}

function frameOf(address: bigint): number {
  return Number(address >> 12n);
}

function addressOf(pfn: number, offset: number): bigint {
  return BigInt(pfn) * 4096n + BigInt(offset);
}

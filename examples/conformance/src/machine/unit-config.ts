/**
 * From a file's capability registers back to the decisions they were packed from, so that the unit reports the same.
 *
 * Decoded here by hand, not with the unit's own tables: `compareCapabilities` then checks both.
 */

import type { VtdConfig } from "@iommu-kit/iommu-vtd";
import type { Header } from "../files/header.js";

type Pair = readonly [low: number, high: number];
type RunnerConfig = VtdConfig & { readonly faultRecordOffset: number };

/** The configuration that a header describes. */
export function configOf(header: Header): RunnerConfig {
  const { ver, cap, ecap } = header;
  const superpages = field(cap, 37, 34);
  return {
    version: { major: (ver >>> 4) & 15, minor: ver & 15 },
    hostAddressWidth: header.hostAddressWidth,
    domainIdWidth: 4 + 2 * field(cap, 2, 0),
    writeBufferFlush: has(cap, 4),
    protectedRegions: [...(has(cap, 5) ? (["low"] as const) : []), ...(has(cap, 6) ? (["high"] as const) : [])],
    cachingMode: has(cap, 7),
    addressWidths: ([39, 48, 57] as const).filter((width) => has(cap, 8 + (width - 30) / 9)),
    maximumGuestAddressWidth: field(cap, 21, 16) + 1,
    zeroLengthRead: has(cap, 22),
    faultRecordOffset: field(cap, 33, 24) * 16,
    superpages: [
      ...((superpages & 1) === 1 ? (["2M"] as const) : []),
      ...((superpages & 2) === 2 ? (["1G"] as const) : []),
    ],
    pageSelective: has(cap, 39) ? field(cap, 53, 48) : false,
    faultRecords: field(cap, 47, 40) + 1,
    postedInterrupts: has(cap, 59),
    interruptPointerFlush: has(cap, 62),
    rootPointerFlush: has(cap, 63),
    coherent: has(ecap, 0),
    queuedInvalidation: has(ecap, 1),
    deviceTlb: has(ecap, 2),
    interruptRemapping: has(ecap, 3),
    extendedInterruptMode: has(ecap, 4),
    // The recorded unit has no CFI: GSTS.CFIS stays 0. Whether a unit has it is in no capability bit.
    compatibilityInterrupts: false,
    passThrough: has(ecap, 6),
    snoopControl: has(ecap, 7),
    iotlbRegisterOffset: field(ecap, 17, 8) * 16,
    ...(has(ecap, 43) ? scalableConfig(cap, ecap) : {}),
  };
}

function scalableConfig(cap: Pair, ecap: Pair): VtdConfig {
  return {
    scalableMode: true,
    nested: has(ecap, 26),
    pageRequests: has(ecap, 29),
    supervisorRequests: has(ecap, 31),
    noWriteRequests: has(ecap, 33),
    extendedAccessed: has(ecap, 34),
    pasidWidth: has(ecap, 40) ? field(ecap, 39, 35) + 1 : false,
    pageRequestDraining: has(ecap, 42),
    secondStageFlags: has(ecap, 45),
    secondStage: has(ecap, 46),
    firstStage: has(ecap, 47) ? (has(cap, 60) ? "5-level" : "4-level") : false,
    firstStage1G: has(cap, 56),
    pageWalkCoherency: has(ecap, 48),
    requestPasid: has(ecap, 49),
    abortDma: has(ecap, 52),
    requestPrivilege: has(ecap, 53),
    stopMarkers: has(ecap, 58),
  };
}

/** Bits `hi` to `lo` of a 64-bit register, at most 32 of them. */
export function field(pair: Pair, hi: number, lo: number): number {
  const value = (BigInt(pair[1]) << 32n) | BigInt(pair[0]);
  return Number((value >> BigInt(lo)) & ((1n << BigInt(hi - lo + 1)) - 1n));
}

/** One bit of a 64-bit register. */
export function has(pair: Pair, bit: number): boolean {
  return field(pair, bit, bit) === 1;
}

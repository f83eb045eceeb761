/**
 * The options of a unit that reports the capabilities of a recorded one (§11.4.2, §11.4.3): a driver decides by them what it does.
 */

import type { AddressWidth, VtdConfig } from "@iommu-kit/iommu-vtd";
import type { TraceHeader } from "../trace/trace.js";

/** The bit of CAP that says caching mode. */
export const CACHING_MODE = 1n << 7n;

/** Options for the recorded unit, with caching mode in any case: MAP notifiers need it. */
export function unitOptions({ cap, ecap, addressWidth }: TraceHeader): VtdConfig {
  const field = (register: bigint, high: number, low: number): number =>
    Number((register >> BigInt(low)) & ((1n << BigInt(high - low + 1)) - 1n));
  const flag = (register: bigint, bit: number): boolean => field(register, bit, bit) === 1;
  const depths: readonly AddressWidth[] = [39, 48, 57];
  return {
    hostAddressWidth: addressWidth,
    addressWidths: depths.filter((_, level) => flag(cap, 9 + level)),
    maximumGuestAddressWidth: field(cap, 21, 16) + 1,
    superpages: (["2M", "1G"] as const).filter((_, size) => flag(cap, 34 + size)),
    cachingMode: true,
    domainIdWidth: 4 + 2 * field(cap, 2, 0),
    zeroLengthRead: flag(cap, 22),
    faultRecordOffset: field(cap, 33, 24) * 16,
    faultRecords: field(cap, 47, 40) + 1,
    pageSelective: flag(cap, 39) ? field(cap, 53, 48) : false,
    rootPointerFlush: flag(cap, 63),
    interruptPointerFlush: flag(cap, 62),
    coherent: flag(ecap, 0),
    queuedInvalidation: flag(ecap, 1),
    interruptRemapping: flag(ecap, 3),
    extendedInterruptMode: flag(ecap, 4),
    passThrough: flag(ecap, 6),
    snoopControl: flag(ecap, 7),
    iotlbRegisterOffset: field(ecap, 17, 8) * 16,
  };
}

/**
 * The language of the invalidation queue (§6.5.2): types, granularities, error codes, and what a descriptor's address
 * and mask fields mean.
 *
 * Address masks and the trailing-ones ranges of device TLBs are decoded here; callers see half-open frame ranges.
 */
import { type FrameRange, type Layout, markBits, type Part, reservedMask } from "@iommu-kit/iommu-core";
import { absentFields } from "./capabilities.js";
import {
  ContextCacheDescriptor,
  Descriptor,
  DeviceTlbDescriptor,
  InterruptEntryCacheDescriptor,
  IotlbDescriptor,
  PasidCacheDescriptor,
  PasidDeviceTlbDescriptor,
  PasidIotlbDescriptor,
  WaitDescriptor,
} from "./descriptors.js";
import { TableMode } from "./encodings.js";
import { PageGroupResponse } from "./page-request.js";
import { ECAP } from "./registers-capability.js";

/** Type numbers of descriptors: bits 11:9 above bits 3:0. */
export const DescriptorType = {
  CONTEXT_CACHE: 1,
  IOTLB: 2,
  DEVICE_TLB: 3,
  INTERRUPT_ENTRY_CACHE: 4,
  WAIT: 5,
  PASID_IOTLB: 6,
  PASID_CACHE: 7,
  PASID_DEVICE_TLB: 8,
  PAGE_GROUP_RESPONSE: 9,
  HOST_PERMISSION: 10,
} as const;
/** A value of `DescriptorType`. */
export type DescriptorType = (typeof DescriptorType)[keyof typeof DescriptorType];

/** Granularities of a context-cache invalidation (descriptor G, CCMD.CIRG and CAIG). 0 is reserved. */
export const ContextGranularity = { GLOBAL: 1, DOMAIN: 2, DEVICE: 3 } as const;
/** Granularities of an IOTLB invalidation (descriptor G, IOTLB.IIRG and IAIG). 0 is reserved. */
export const IotlbGranularity = { GLOBAL: 1, DOMAIN: 2, PAGE: 3 } as const;
/** Granularities of a PASID-cache invalidation. 2 is reserved. */
export const PasidCacheGranularity = { DOMAIN: 0, PASID: 1, GLOBAL: 3 } as const;
/** Granularities of a PASID-based IOTLB invalidation. 0 and 1 are reserved. */
export const PasidIotlbGranularity = { PASID: 2, PAGE: 3 } as const;
/** Granularities of an interrupt-entry-cache invalidation. */
export const InterruptGranularity = { GLOBAL: 0, INDEX: 1 } as const;

/** Causes of an invalidation queue error, IQERCD.IQEI (§11.4.9.9). */
export const QueueError = {
  NONE: 0,
  TAIL_BEYOND_QUEUE: 1,
  FETCH: 2,
  TYPE: 3,
  RESERVED_FIELD: 4,
  DESCRIPTOR_WIDTH: 5,
  TAIL_ALIGNMENT: 6,
  TABLE_MODE: 7,
} as const;
/** A value of `QueueError`. */
export type QueueError = (typeof QueueError)[keyof typeof QueueError];

/** The type of the descriptor at word `at`: a `DescriptorType`, or any other number up to 127. */
export function descriptorType(words: Int32Array, at: number): number {
  return Descriptor.fields.TYPE_HI.get(words, at) * 16 + Descriptor.fields.TYPE.get(words, at);
}

/**
 * The largest descriptor type that a queue may hold: 0 if none, which is a `QueueError.DESCRIPTOR_WIDTH` or, for a
 * reserved table mode, a `QueueError.TABLE_MODE` (§6.5.2). `tableMode` is RTADDR.TTM as latched, `wide` IQA.DW.
 */
export function largestDescriptorType(tableMode: number, wide: boolean): number {
  if (tableMode === TableMode.LEGACY) return DescriptorType.WAIT;
  const queued = wide && (tableMode === TableMode.SCALABLE || tableMode === TableMode.ABORT);
  return queued ? DescriptorType.HOST_PERMISSION : 0;
}

/**
 * The reserved bits of every descriptor that a unit knows, eight words each, indexed by type; `undefined` where the
 * type is invalid for it. A 128-bit queue uses the first four words. `ecap` is the two words of ECAP.
 */
export function descriptorReserved(ecap: Int32Array): (Int32Array | undefined)[] {
  const { DT, DIT, PRS, PDS } = ECAP.fields;
  const masks: (Int32Array | undefined)[] = [];
  const add = (type: DescriptorType, structure: Layout, absent: readonly Part[] = []): void => {
    const mask = new Int32Array(8);
    mask.set(reservedMask(structure, 64, absent));
    masks[type] = markBits(mask, 255, structure.wordCount * 32);
  };
  add(DescriptorType.CONTEXT_CACHE, ContextCacheDescriptor);
  add(DescriptorType.IOTLB, IotlbDescriptor);
  add(DescriptorType.INTERRUPT_ENTRY_CACHE, InterruptEntryCacheDescriptor);
  add(DescriptorType.WAIT, WaitDescriptor, absentFields(ecap, [[PDS, WaitDescriptor.fields.PD]]));
  add(DescriptorType.PASID_IOTLB, PasidIotlbDescriptor);
  add(DescriptorType.PASID_CACHE, PasidCacheDescriptor);
  if (DT.get(ecap, 0)) {
    for (const [type, structure] of [
      [DescriptorType.DEVICE_TLB, DeviceTlbDescriptor],
      [DescriptorType.PASID_DEVICE_TLB, PasidDeviceTlbDescriptor],
    ] as const) {
      const { PFSID_LO, PFSID_HI } = structure.fields;
      add(type, structure, absentFields(ecap, [[DIT, PFSID_LO, PFSID_HI]]));
    }
  }
  if (PRS.get(ecap, 0)) add(DescriptorType.PAGE_GROUP_RESPONSE, PageGroupResponse);
  return masks;
}

/** Bytes of a queue with this IQA.QS (0 to 7): 2^QS pages, whatever the descriptor width. */
export function queueBytes(qs: number): number {
  return 4096 << qs;
}

/** The frames that ADDR and AM (0 to 63) name: aligned to their number, the low AM bits of ADDR are ignored (§6.5.2.3). */
export function maskedRange(addrPfn: number, am: number): FrameRange {
  if (am === 0) return { firstPfn: addrPfn, pageCount: 1 };
  const pageCount = 2 ** Math.min(am, 52);
  return { firstPfn: addrPfn - (addrPfn % pageCount), pageCount };
}

/**
 * The frames that ADDR and S of a device-TLB descriptor name (§6.5.2.5): one page without S; else a range aligned to
 * its size, two pages doubled for each trailing one of ADDR. 51 ones or more name everything.
 */
export function deviceTlbRange(addrPfn: number, s: number): FrameRange {
  if (s === 0) return { firstPfn: addrPfn, pageCount: 1 };
  let pageCount = 2;
  for (let rest = addrPfn; rest % 2 === 1 && pageCount < 2 ** 52; rest = Math.floor(rest / 2)) pageCount *= 2;
  return { firstPfn: addrPfn - (addrPfn % pageCount), pageCount };
}

/** The status address of a wait descriptor in bytes: bits at and above the host address width are ignored (§6.5.2.9). */
export function waitStatusGpa(words: Int32Array, at: number, hostAddressWidth: number): number {
  return (WaitDescriptor.fields.SADDR.get(words, at) * 4) % 2 ** hostAddressWidth;
}

/** Source-id bits that a function mask (FM of descriptors, SQ of interrupt entries; 0 to 3) excludes from comparison. */
export function ignoredFunctionBits(mask: number): number {
  return 8 - (8 >> mask);
}

/**
 * The IOMMU device (virtio 1.3, §5.13): feature bits, configuration, requests, properties, fault reports.
 *
 * Addresses are declared as a frame (52 bits) and an offset in it, so both are exact numbers and "is aligned" is a comparison with 0 or 0xfff. Ends of ranges are
 * inclusive, as everywhere in this device.
 */

import { bits, ignored, layout, reserved, ro, rw } from "@iommu-kit/iommu-core";

/** §5.13.1. */
export const DEVICE_ID = 23;

/** §5.13.2. */
export const Queue = { REQUEST: 0, EVENT: 1 } as const;

/** §5.13.3. `BYPASS` (bit 3) is superseded by `BYPASS_CONFIG` and not offered by new devices. */
export const IommuFeature = {
  INPUT_RANGE: 1n << 0n,
  DOMAIN_RANGE: 1n << 1n,
  MAP_UNMAP: 1n << 2n,
  PROBE: 1n << 4n,
  MMIO: 1n << 5n,
  BYPASS_CONFIG: 1n << 6n,
} as const;

/** The configuration space (§5.13.4). */
export const CONFIG = layout(320, {
  PAGE_SIZE_MASK_LOW: ro(31, 0),
  PAGE_SIZE_MASK_HIGH: ro(63, 32),
  INPUT_START_OFFSET: ro(75, 64),
  INPUT_START_PFN: ro(127, 76),
  INPUT_END_OFFSET: ro(139, 128),
  INPUT_END_PFN: ro(191, 140),
  DOMAIN_START: ro(223, 192),
  DOMAIN_END: ro(255, 224),
  PROBE_SIZE: ro(287, 256),
  BYPASS: rw(295, 288),
  _1: reserved(319, 296),
});

/** Byte offset of the one field that a driver may write. */
export const BYPASS_OFFSET = 36;

/** Request types (§5.13.6). */
export const RequestType = { ATTACH: 1, DETACH: 2, MAP: 3, UNMAP: 4, PROBE: 5 } as const;

/** Answers to a request (§5.13.6). */
export const RequestStatus = {
  OK: 0,
  IOERR: 1,
  UNSUPP: 2,
  DEVERR: 3,
  INVAL: 4,
  RANGE: 5,
  NOENT: 6,
  FAULT: 7,
  NOMEM: 8,
} as const;
/** One of the answers. */
export type RequestStatus = (typeof RequestStatus)[keyof typeof RequestStatus];

/** Bytes of a request's tail: the status, then three that are 0. */
export const TAIL_BYTES = 4;

/** §5.13.6.1. The head's reserved bytes are ignored in every request; this one's own are not. */
export const ATTACH = layout(160, {
  TYPE: bits(7, 0),
  _head: ignored(31, 8),
  DOMAIN: bits(63, 32),
  ENDPOINT: bits(95, 64),
  FLAGS: bits(127, 96),
  _tail: reserved(159, 128),
});
/** §5.13.6.1. */
export const AttachFlag = { BYPASS: 1 } as const;

/** §5.13.6.2. */
export const DETACH = layout(160, {
  TYPE: bits(7, 0),
  _head: ignored(31, 8),
  DOMAIN: bits(63, 32),
  ENDPOINT: bits(95, 64),
  _tail: ignored(159, 96),
});

/** §5.13.6.3. */
export const MAP = layout(288, {
  TYPE: bits(7, 0),
  _head: ignored(31, 8),
  DOMAIN: bits(63, 32),
  START_OFFSET: bits(75, 64),
  START_PFN: bits(127, 76),
  END_OFFSET: bits(139, 128),
  END_PFN: bits(191, 140),
  TARGET_OFFSET: bits(203, 192),
  TARGET_PFN: bits(255, 204),
  FLAGS: bits(287, 256),
});
/** §5.13.6.3. READ and WRITE are the rights of `Access`. */
export const MapFlag = { READ: 1, WRITE: 2, MMIO: 4 } as const;

/** §5.13.6.4. */
export const UNMAP = layout(224, {
  TYPE: bits(7, 0),
  _head: ignored(31, 8),
  DOMAIN: bits(63, 32),
  START_OFFSET: bits(75, 64),
  START_PFN: bits(127, 76),
  END_OFFSET: bits(139, 128),
  END_PFN: bits(191, 140),
  _tail: reserved(223, 192),
});

/** §5.13.6.5, the part that the device reads. */
export const PROBE = layout(576, {
  TYPE: bits(7, 0),
  _head: ignored(31, 8),
  ENDPOINT: bits(63, 32),
  _tail: ignored(575, 64),
});

/** A property of an endpoint: virtual addresses that it cannot use as others (§5.13.6.6). */
export const RESV_MEM = layout(192, {
  TYPE: bits(11, 0),
  _1: reserved(15, 12),
  LENGTH: bits(31, 16),
  SUBTYPE: bits(39, 32),
  _2: reserved(63, 40),
  START_OFFSET: bits(75, 64),
  START_PFN: bits(127, 76),
  END_OFFSET: bits(139, 128),
  END_PFN: bits(191, 140),
});
/** The type of `RESV_MEM`, and its length without the four bytes of type and length. */
export const RESV_MEM_TYPE = 1;
/** See `RESV_MEM_TYPE`. */
export const RESV_MEM_LENGTH = 20;
/** What a reserved range is. */
export const ReservedKind = { RESERVED: 0, MSI: 1 } as const;

/** A report on the event queue (§5.13.6.7). */
export const FAULT = layout(192, {
  REASON: bits(7, 0),
  _1: reserved(31, 8),
  FLAGS: bits(63, 32),
  ENDPOINT: bits(95, 64),
  _2: reserved(127, 96),
  OFFSET: bits(139, 128),
  PFN: bits(191, 140),
});
/** Why a request of an endpoint was refused; also the core's `Translation.reason`, hence never 0 there. */
export const FaultReason = { UNKNOWN: 0, DOMAIN: 1, MAPPING: 2 } as const;
/** §5.13.6.7. */
export const FaultFlag = { READ: 1, WRITE: 2, ADDRESS: 256 } as const;

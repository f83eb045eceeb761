/**
 * Page requests and their responses (§7.4, §7.6): one 32-byte descriptor each, in the page request queue and in the
 * invalidation queue.
 *
 * A request with neither RDR nor WRR but LPIG and PP is a stop marker.
 */
import { bit, bits, ignored, layout, reserved, type TextOf } from "@iommu-kit/iommu-core";

/** What hardware writes to the page request queue. */
export const PageRequest = layout(256, {
  TYPE: bits(7, 0),
  PP: bit(8),
  _9: reserved(15, 9),
  RID: bits(31, 16),
  PASID: bits(51, 32),
  EXR: bit(52),
  PMR: bit(53),
  _54: reserved(63, 54),
  RDR: bit(64),
  WRR: bit(65),
  LPIG: bit(66),
  PRGI: bits(75, 67),
  ADDR: bits(127, 76),
  _128: reserved(255, 128),
});

/** Meanings of `PageRequest`. */
export const PageRequestText: TextOf<typeof PageRequest> = {
  title: "Page request",
  section: "§7.4.1.1",
  TYPE: "1, a page request",
  PP: "The request has a PASID",
  RID: "Requester",
  PASID: "PASID",
  EXR: "Execute requested",
  PMR: "Privileged mode requested",
  RDR: "Read requested",
  WRR: "Write requested",
  LPIG: "Last in the group",
  PRGI: "Group index",
  ADDR: "Page frame",
};

/** The only value of `PageRequest.TYPE`. */
export const PAGE_REQUEST_TYPE = 1;

/** Type 9 of the invalidation queue. Bits that once belonged to private data are ignored. */
export const PageGroupResponse = layout(256, {
  TYPE: bits(3, 0),
  PP: bit(4),
  _5: ignored(5),
  _6: reserved(8, 6),
  TYPE_HI: bits(11, 9),
  RC: bits(15, 12),
  RID: bits(31, 16),
  PASID: bits(51, 32),
  _52: reserved(63, 52),
  _64: reserved(65, 64),
  _66: ignored(66),
  PRGI: bits(75, 67),
  _76: reserved(127, 76),
  _128: ignored(255, 128),
});

/** Meanings of `PageGroupResponse`. */
export const PageGroupResponseText: TextOf<typeof PageGroupResponse> = {
  title: "Page group response",
  section: "§7.6.1",
  TYPE: "Type bits 3:0",
  PP: "The request had a PASID",
  TYPE_HI: "Type bits 6:4",
  RC: "Response: 0 success, 1 invalid, 15 failure",
  RID: "Requester",
  PASID: "PASID",
  PRGI: "Group index",
};

/** Response codes, RC. Others are reserved. */
export const ResponseCode = { SUCCESS: 0, INVALID_REQUEST: 1, FAILURE: 15 } as const;
/** A value of `ResponseCode`. */
export type ResponseCode = (typeof ResponseCode)[keyof typeof ResponseCode];

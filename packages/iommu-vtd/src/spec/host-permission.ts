/**
 * Host permission table: the invalidation descriptor only (§6.5.2.7). This unit never reports ECAP.HPTS, so the type is
 * invalid for it; the table is here for documentation and for decoding the queues of other units.
 */
import { bits, layout, reserved, type TextOf } from "@iommu-kit/iommu-core";

/** Type 10. */
export const HostPermissionDescriptor = layout(256, {
  TYPE: bits(3, 0),
  G: bits(5, 4),
  _6: reserved(8, 6),
  TYPE_HI: bits(11, 9),
  _12: reserved(15, 12),
  HPTDID: bits(31, 16),
  _32: reserved(63, 32),
  AM: bits(69, 64),
  IH: bits(71, 70),
  _72: reserved(75, 72),
  ADDR: bits(127, 76),
  _128: reserved(255, 128),
});

/** Meanings of `HostPermissionDescriptor`. */
export const HostPermissionDescriptorText: TextOf<typeof HostPermissionDescriptor> = {
  title: "Host-permission-cache invalidate",
  section: "§6.5.2.7",
  TYPE: "Type bits 3:0",
  G: "Granularity",
  TYPE_HI: "Type bits 6:4",
  HPTDID: "Domain-id of the table",
  AM: "log2 of the number of pages",
  IH: "Which levels did not change",
  ADDR: "Page frame",
};

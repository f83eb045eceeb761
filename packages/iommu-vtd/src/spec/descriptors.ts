/**
 * The descriptors of the invalidation queue (§6.5.2); the page group response is in page-request.ts.
 *
 * Types 1 to 5 are 128 bits long and fill the low half of a slot in a 256-bit queue; the upper half must then be 0.
 * Domain-id bits above the unit's width and address bits above its guest address width are ignored.
 */
import { bit, bits, ignored, layout, reserved, type TextOf } from "@iommu-kit/iommu-core";

const header = { TYPE: bits(3, 0), TYPE_HI: bits(11, 9) };

/** What every descriptor starts with. */
export const Descriptor = layout(32, { ...header, _4: ignored(8, 4), _12: ignored(31, 12) });

/** Meanings of `Descriptor`. */
export const DescriptorText: TextOf<typeof Descriptor> = {
  title: "Descriptor",
  section: "§6.5.2",
  TYPE: "Type bits 3:0",
  TYPE_HI: "Type bits 6:4",
};

/** Type 1. */
export const ContextCacheDescriptor = layout(128, {
  ...header,
  G: bits(5, 4),
  _6: reserved(8, 6),
  _12: reserved(15, 12),
  DID: bits(31, 16),
  SID: bits(47, 32),
  FM: bits(49, 48),
  _50: reserved(127, 50),
});

/** Meanings of `ContextCacheDescriptor`. */
export const ContextCacheDescriptorText: TextOf<typeof ContextCacheDescriptor> = {
  ...DescriptorText,
  title: "Context-cache invalidate",
  section: "§6.5.2.1",
  G: "Granularity: 1 global, 2 domain, 3 device",
  DID: "Domain-id",
  SID: "Source-id",
  FM: "Source-id bits to ignore (function mask)",
};

/** Type 2. */
export const IotlbDescriptor = layout(128, {
  ...header,
  G: bits(5, 4),
  DW: bit(6),
  DR: bit(7),
  _8: reserved(8),
  _12: reserved(15, 12),
  DID: bits(31, 16),
  _32: reserved(63, 32),
  AM: bits(69, 64),
  IH: bit(70),
  _71: reserved(75, 71),
  ADDR: bits(127, 76),
});

/** Meanings of `IotlbDescriptor`. */
export const IotlbDescriptorText: TextOf<typeof IotlbDescriptor> = {
  ...DescriptorText,
  title: "IOTLB invalidate",
  section: "§6.5.2.3",
  G: "Granularity: 1 global, 2 domain, 3 page",
  DW: "Drain writes",
  DR: "Drain reads",
  DID: "Domain-id",
  AM: "log2 of the number of pages",
  IH: "Non-leaf entries did not change",
  ADDR: "Page frame; the low AM bits are ignored",
};

/** Type 3. */
export const DeviceTlbDescriptor = layout(128, {
  ...header,
  _4: reserved(8, 4),
  PFSID_LO: bits(15, 12),
  MIP: bits(20, 16),
  _21: reserved(31, 21),
  SID: bits(47, 32),
  _48: reserved(51, 48),
  PFSID_HI: bits(63, 52),
  S: bit(64),
  _65: reserved(75, 65),
  ADDR: bits(127, 76),
});

/** Meanings of `DeviceTlbDescriptor`. */
export const DeviceTlbDescriptorText: TextOf<typeof DeviceTlbDescriptor> = {
  ...DescriptorText,
  title: "Device-TLB invalidate",
  section: "§6.5.2.5",
  PFSID_LO: "Source-id of the physical function, bits 3:0",
  MIP: "Most invalidations pending, 0 is 32",
  SID: "Source-id",
  PFSID_HI: "Source-id of the physical function, bits 15:4",
  S: "More than one page",
  ADDR: "Page frame; trailing ones give the size with S",
};

/** Type 4. */
export const InterruptEntryCacheDescriptor = layout(128, {
  ...header,
  G: bit(4),
  _5: reserved(8, 5),
  _12: reserved(26, 12),
  IM: bits(31, 27),
  IIDX: bits(47, 32),
  _48: reserved(127, 48),
});

/** Meanings of `InterruptEntryCacheDescriptor`. */
export const InterruptEntryCacheDescriptorText: TextOf<typeof InterruptEntryCacheDescriptor> = {
  ...DescriptorText,
  title: "Interrupt-entry-cache invalidate",
  section: "§6.5.2.8",
  G: "Granularity: 0 global, 1 index",
  IM: "log2 of the number of indexes",
  IIDX: "Interrupt index; the low IM bits are ignored",
};

/** Type 5. Status address bits at and above the host address width are ignored, those above 51 have no field. */
export const WaitDescriptor = layout(128, {
  ...header,
  IF: bit(4),
  SW: bit(5),
  FN: bit(6),
  PD: bit(7),
  _8: reserved(8),
  _12: reserved(31, 12),
  DATA: bits(63, 32),
  _64: reserved(65, 64),
  SADDR: bits(115, 66),
  _116: ignored(127, 116),
});

/** Meanings of `WaitDescriptor`. */
export const WaitDescriptorText: TextOf<typeof WaitDescriptor> = {
  ...DescriptorText,
  title: "Invalidation wait",
  section: "§6.5.2.9",
  IF: "Raise the completion event",
  SW: "Write the status",
  FN: "Fence: later descriptors wait",
  PD: "Drain page requests",
  DATA: "Status to write",
  SADDR: "Status address / 4",
};

/** Type 6. */
export const PasidIotlbDescriptor = layout(256, {
  ...header,
  G: bits(5, 4),
  _6: reserved(8, 6),
  _12: reserved(15, 12),
  DID: bits(31, 16),
  PASID: bits(51, 32),
  _52: reserved(63, 52),
  AM: bits(69, 64),
  IH: bit(70),
  _71: reserved(75, 71),
  ADDR: bits(127, 76),
  _128: reserved(255, 128),
});

/** Meanings of `PasidIotlbDescriptor`. */
export const PasidIotlbDescriptorText: TextOf<typeof PasidIotlbDescriptor> = {
  ...DescriptorText,
  title: "PASID-based IOTLB invalidate",
  section: "§6.5.2.4",
  G: "Granularity: 2 PASID, 3 page",
  DID: "Domain-id",
  PASID: "PASID",
  AM: "log2 of the number of pages",
  IH: "Non-leaf entries did not change",
  ADDR: "Page frame; the low AM bits are ignored",
};

/** Type 7. */
export const PasidCacheDescriptor = layout(256, {
  ...header,
  G: bits(5, 4),
  _6: reserved(8, 6),
  _12: reserved(15, 12),
  DID: bits(31, 16),
  PASID: bits(51, 32),
  _52: reserved(255, 52),
});

/** Meanings of `PasidCacheDescriptor`. */
export const PasidCacheDescriptorText: TextOf<typeof PasidCacheDescriptor> = {
  ...DescriptorText,
  title: "PASID-cache invalidate",
  section: "§6.5.2.2",
  G: "Granularity: 0 domain, 1 PASID, 3 global",
  DID: "Domain-id",
  PASID: "PASID",
};

/** Type 8. */
export const PasidDeviceTlbDescriptor = layout(256, {
  ...header,
  MIP: bits(8, 4),
  PFSID_LO: bits(15, 12),
  SID: bits(31, 16),
  PASID: bits(51, 32),
  PFSID_HI: bits(63, 52),
  GI: bit(64),
  _65: reserved(74, 65),
  S: bit(75),
  ADDR: bits(127, 76),
  _128: reserved(255, 128),
});

/** Meanings of `PasidDeviceTlbDescriptor`. */
export const PasidDeviceTlbDescriptorText: TextOf<typeof PasidDeviceTlbDescriptor> = {
  ...DescriptorText,
  title: "PASID-based device-TLB invalidate",
  section: "§6.5.2.6",
  MIP: "Most invalidations pending, 0 is 32",
  PFSID_LO: "Source-id of the physical function, bits 3:0",
  SID: "Source-id",
  PASID: "PASID",
  PFSID_HI: "Source-id of the physical function, bits 15:4",
  GI: "For every PASID",
  S: "More than one page",
  ADDR: "Page frame; trailing ones give the size with S",
};

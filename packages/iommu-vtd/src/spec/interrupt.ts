/**
 * Interrupt messages (§5.1.2) and the messages that come out of remapping.
 *
 * A message is a 32-bit write to FEEx_xxxx. FORMAT in the address tells a remappable message, which names a table entry,
 * from one in compatibility format, which carries the interrupt itself.
 */
import { bit, bits, ignored, layout, reserved, type TextOf } from "@iommu-kit/iommu-core";

/** Address of a remappable message. Its index is the handle, plus the subhandle of the data if SHV is set. */
export const RemappableAddress = layout(32, {
  _0: ignored(1, 0),
  HANDLE_HI: bit(2),
  SHV: bit(3),
  FORMAT: bit(4),
  HANDLE_LO: bits(19, 5),
  WINDOW: bits(31, 20),
});

/** Meanings of `RemappableAddress`. */
export const RemappableAddressText: TextOf<typeof RemappableAddress> = {
  title: "Remappable address",
  section: "§5.1.2.2",
  HANDLE_HI: "Handle bit 15",
  SHV: "The data holds a subhandle",
  FORMAT: "1: remappable",
  HANDLE_LO: "Handle bits 14:0",
  WINDOW: "FEEh",
};

/** Data of a remappable message with SHV set; without SHV the data is ignored. */
export const RemappableData = layout(32, { SUBHANDLE: bits(15, 0), _16: reserved(31, 16) });

/** Meanings of `RemappableData`. */
export const RemappableDataText: TextOf<typeof RemappableData> = {
  title: "Remappable data",
  section: "§5.1.2.2",
  SUBHANDLE: "Added to the handle",
};

/** Address of a message in compatibility format, and of every message to the local APICs. */
export const CompatibilityAddress = layout(32, {
  _0: ignored(1, 0),
  DM: bit(2),
  RH: bit(3),
  FORMAT: bit(4),
  _5: reserved(11, 5),
  DEST: bits(19, 12),
  WINDOW: bits(31, 20),
});

/** Meanings of `CompatibilityAddress`. */
export const CompatibilityAddressText: TextOf<typeof CompatibilityAddress> = {
  title: "Compatibility address",
  section: "§5.1.2.1",
  DM: "Destination mode: 0 physical, 1 logical",
  RH: "Redirection hint",
  FORMAT: "0: compatibility",
  DEST: "Destination bits 7:0",
  WINDOW: "FEEh",
};

/** Data of a message in compatibility format, and of every message to the local APICs. */
export const CompatibilityData = layout(32, {
  V: bits(7, 0),
  DLM: bits(10, 8),
  _11: reserved(13, 11),
  LEVEL: bit(14),
  TM: bit(15),
  _16: reserved(31, 16),
});

/** Meanings of `CompatibilityData`. */
export const CompatibilityDataText: TextOf<typeof CompatibilityData> = {
  title: "Compatibility data",
  section: "§5.1.2.1",
  V: "Vector",
  DLM: "Delivery mode",
  LEVEL: "1: asserted",
  TM: "Trigger mode: 0 edge, 1 level",
};

/** Value of WINDOW in every message address: the window is FEE0_0000 to FEEF_FFFF. */
export const MESSAGE_WINDOW = 0xfee;

/** Delivery modes, DLM. 3 and 6 are undefined and treated as reserved. */
export const DeliveryMode = { FIXED: 0, LOWEST_PRIORITY: 1, SMI: 2, NMI: 4, INIT: 5, EXT_INT: 7 } as const;
/** A value of `DeliveryMode`. */
export type DeliveryMode = (typeof DeliveryMode)[keyof typeof DeliveryMode];

/** How an entry names its requesters, SVT (§9.9). 3 is reserved. */
export const SourceValidation = {
  NONE: 0,
  /** The requester is SID, but for the bits that SQ excludes. */
  SOURCE_ID: 1,
  /** The requester's bus lies in SID: start bus in bits 15:8, end bus in bits 7:0. */
  BUS_RANGE: 2,
} as const;
/** A value of `SourceValidation`. */
export type SourceValidation = (typeof SourceValidation)[keyof typeof SourceValidation];

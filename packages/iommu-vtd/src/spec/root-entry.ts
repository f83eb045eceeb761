/**
 * Root entries, 16 bytes, 256 to a table, indexed by bus: legacy (§9.1) and scalable mode (§9.2).
 */
import { address, bit, layout, reserved, type TextOf } from "@iommu-kit/iommu-core";

/** Legacy root-entry: one context table of 256 entries, indexed by device and function. */
export const RootEntry = layout(128, {
  P: bit(0),
  _1: reserved(11, 1),
  CTP: address(63, 12),
  _64: reserved(127, 64),
});

/** Meanings of `RootEntry`. */
export const RootEntryText: TextOf<typeof RootEntry> = {
  title: "Root entry",
  section: "§9.1",
  P: "Present",
  CTP: "Context table, page frame",
};

/**
 * Scalable-mode root-entry: the low half serves device and function numbers 0 to 127, the high half 128 to 255.
 * Only the half in use is checked.
 */
export const ScalableRootEntry = layout(128, {
  LP: bit(0),
  _1: reserved(11, 1),
  LCTP: address(63, 12),
  UP: bit(64),
  _65: reserved(75, 65),
  UCTP: address(127, 76),
});

/** Meanings of `ScalableRootEntry`. */
export const ScalableRootEntryText: TextOf<typeof ScalableRootEntry> = {
  title: "Scalable-mode root entry",
  section: "§9.2",
  LP: "Lower half present",
  LCTP: "Lower context table, page frame",
  UP: "Upper half present",
  UCTP: "Upper context table, page frame",
};

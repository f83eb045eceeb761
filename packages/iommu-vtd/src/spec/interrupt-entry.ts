/**
 * Interrupt remapping table entries, remapped (§9.9) and posted (§9.10), and the posted-interrupt descriptor (§9.11).
 *
 * IM tells the two forms apart. FPD counts even where P is 0.
 */
import { bit, bits, ignored, layout, markBits, reserved, reservedMask, type TextOf } from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "./capabilities.js";
import { CAP } from "./registers-capability.js";

const source = { SID: bits(79, 64), SQ: bits(81, 80), SVT: bits(83, 82) };
const sourceText = { SID: "Source-id, or start and end bus", SQ: "Source-id bits to ignore", SVT: "Source validation" };

/** Entry with IM = 0: what the interrupt becomes. */
export const RemappedEntry = layout(128, {
  P: bit(0),
  FPD: bit(1),
  DM: bit(2),
  RH: bit(3),
  TM: bit(4),
  DLM: bits(7, 5),
  _8: ignored(11, 8),
  _12: reserved(14, 12),
  IM: bit(15),
  V: bits(23, 16),
  _24: reserved(31, 24),
  DST: bits(63, 32),
  ...source,
  _84: reserved(127, 84),
});

/** Meanings of `RemappedEntry`. */
export const RemappedEntryText: TextOf<typeof RemappedEntry> = {
  ...sourceText,
  title: "Interrupt entry, remapped",
  section: "§9.9",
  P: "Present",
  FPD: "Do not record faults",
  DM: "Destination mode: 0 physical, 1 logical",
  RH: "Redirection hint",
  TM: "Trigger mode: 0 edge, 1 level",
  DLM: "Delivery mode",
  IM: "0: remapped",
  V: "Vector",
  DST: "Destination; bits 15:8 of it without EIME",
};

/** Entry with IM = 1: where the interrupt is posted. */
export const PostedEntry = layout(128, {
  P: bit(0),
  FPD: bit(1),
  _2: reserved(7, 2),
  _8: ignored(11, 8),
  _12: reserved(13, 12),
  URG: bit(14),
  IM: bit(15),
  V: bits(23, 16),
  _24: reserved(37, 24),
  PDA_LO: bits(63, 38),
  ...source,
  _84: reserved(95, 84),
  PDA_HI: bits(127, 96),
});

/** Meanings of `PostedEntry`. */
export const PostedEntryText: TextOf<typeof PostedEntry> = {
  ...sourceText,
  title: "Interrupt entry, posted",
  section: "§9.10",
  P: "Present",
  FPD: "Do not record faults",
  URG: "Notify even if suppressed",
  IM: "1: posted",
  V: "Vector",
  PDA_LO: "Descriptor address bits 31:6",
  PDA_HI: "Descriptor address bits 63:32",
};

/** Posted-interrupt descriptor, 64 bytes, aligned to its size. Bits 255:0 are PIR: bit n requests vector n. */
export const PostedDescriptor = layout(512, {
  _PIR: ignored(255, 0),
  ON: bit(256),
  SN: bit(257),
  _258: reserved(271, 258),
  NV: bits(279, 272),
  _280: reserved(287, 280),
  NDST: bits(319, 288),
  _320: reserved(511, 320),
});

/** Meanings of `PostedDescriptor`. */
export const PostedDescriptorText: TextOf<typeof PostedDescriptor> = {
  title: "Posted-interrupt descriptor",
  section: "§9.11",
  ON: "A notification is outstanding",
  SN: "Suppress notifications",
  NV: "Notification vector",
  NDST: "Destination; bits 15:8 of it without EIME",
};

/**
 * The reserved bits of a present entry with IM = 0, four words. `extended` is IRTA.EIME as latched: without it only
 * bits 15:8 of the destination may be set.
 */
export function remappedEntryReserved(extended: boolean): Int32Array {
  const words = reservedMask(RemappedEntry, 64);
  return extended ? words : markShortDestination(words, RemappedEntry.fields.DST.lo);
}

/** The reserved bits of a present entry with IM = 1, four words; IM itself is one without CAP.PI. */
export function postedEntryReserved(unit: UnitCapabilities): Int32Array {
  const { IM, PDA_HI } = PostedEntry.fields;
  const words = reservedMask(PostedEntry, 64, CAP.fields.PI.get(unit.cap, 0) ? [] : [IM]);
  return markBits(words, PDA_HI.hi, PDA_HI.lo + unit.hostAddressWidth - 32);
}

/** The reserved bits of a posted-interrupt descriptor, sixteen words. `extended` is IRTA.EIME as latched. */
export function postedDescriptorReserved(extended: boolean): Int32Array {
  const words = reservedMask(PostedDescriptor, 64);
  return extended ? words : markShortDestination(words, PostedDescriptor.fields.NDST.lo);
}

/** The byte address of the descriptor that the posted entry at word `at` names, a multiple of 64. */
export function postedDescriptorGpa(words: Int32Array, at: number): number {
  return PostedEntry.fields.PDA_HI.get(words, at) * 2 ** 32 + PostedEntry.fields.PDA_LO.get(words, at) * 64;
}

/** The destination in a 32-bit destination field: all of it if `extended` (IRTA.EIME), else its bits 15:8. */
export function destinationOf(field: number, extended: boolean): number {
  return extended ? field : (field >>> 8) & 0xff;
}

function markShortDestination(words: Int32Array, lo: number): Int32Array {
  return markBits(markBits(words, lo + 7, lo), lo + 31, lo + 16);
}

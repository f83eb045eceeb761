/**
 * One slot of the IOVA tree: two 32-bit words shaped like a second-stage entry, R in bit 0, W in bit 1, the target frame in bits 51:12. Both are 0 when it is free.
 *
 * The shape is that of the tables which most guests write. The other bits are as the guest's entry had them, so a leaf can be compared with a table page word by word.
 */

import type { Access } from "../access.js";

/** Slots in a node, entries in a table. */
export const FANOUT = 512;
/** Frames covered by one slot of a node at level 1, 2, 3 ...; level 1 maps single frames. */
const SLOT_SPAN: readonly number[] = [1, 1, 2 ** 9, 2 ** 18, 2 ** 27, 2 ** 36, 2 ** 45, 2 ** 54];

/** The frames that one slot at this level covers. */
export function slotSpan(level: number): number {
  return SLOT_SPAN[level] ?? 0;
}

/** Low word of a slot. */
export function slotLow(gpaPfn: number, access: Access): number {
  // 2^20 frames of 12-bit shift fill the word; the remainder is exact because frames are below 2^40.
  return ((gpaPfn % 0x100000) << 12) | access;
}

/** High word of a slot. */
export function slotHigh(gpaPfn: number): number {
  return Math.floor(gpaPfn / 0x100000);
}

/** The bits of a slot's words that map: rights and frame. */
export const SLOT_LOW = 0xfffff003 | 0;
export const SLOT_HIGH = 0xfffff;

/** The target frame of a slot's two words. */
export function slotTarget(low: number, high: number): number {
  return (high & SLOT_HIGH) * 0x100000 + (low >>> 12);
}

/** Writes `count` consecutive slots from slot `index` on, targets advancing frame by frame. */
export function fillSlots(words: Int32Array, index: number, count: number, gpaPfn: number, access: Access): void {
  let target = gpaPfn;
  for (let at = index * 2; at < (index + count) * 2; at += 2) {
    words[at] = slotLow(target, access);
    words[at + 1] = slotHigh(target);
    target += 1;
  }
}

/** Targets are below this frame. */
export const TARGET_LIMIT = 2 ** 40;

/** Whether slots can say that these frames lead there. */
export function isTarget(gpaPfn: number, pageCount: number): boolean {
  return Number.isSafeInteger(gpaPfn) && gpaPfn >= 0 && gpaPfn + pageCount <= TARGET_LIMIT;
}

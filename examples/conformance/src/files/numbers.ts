/**
 * Numbers as the files spell them: hexadecimal text, with or without `0x`, of up to 64 bits.
 *
 * 64-bit values are split into two unsigned 32-bit words, as the unit's own tables are, so that no value is rounded.
 */

import { byteAddress, type ByteAddress } from "@iommu-kit/iommu-core";

/** The low 32 bits, unsigned. */
export function lowWord(text: string): number {
  const start = digitsFrom(text);
  return Number.parseInt(text.length - start > 8 ? text.slice(-8) : text.slice(start), 16);
}

/** Bits 63:32, unsigned. */
export function highWord(text: string): number {
  const start = digitsFrom(text);
  return text.length - start > 8 ? Number.parseInt(text.slice(start, -8), 16) : 0;
}

/** The frame of an address. */
export function pfnIn(text: string): number {
  return highWord(text) * 2 ** 20 + (lowWord(text) >>> 12);
}

/** The offset of an address in its page. */
export function offsetIn(text: string): number {
  return lowWord(text) & 0xfff;
}

/** The address, exact. */
export function addressIn(text: string): ByteAddress {
  const high = highWord(text);
  return high < 2 ** 20 ? high * 2 ** 32 + lowWord(text) : byteAddress(pfnIn(text), offsetIn(text));
}

/** Numbers that are known to be below 2^53: addresses of memory, offsets, masks. */
export function numberIn(text: string): number {
  return Number.parseInt(text, 16);
}

/** Pages of a block, from its mask: 0xfff is 1, 0x1fffff is 512. */
export function pagesOfMask(text: string): number {
  return (numberIn(text) + 1) / 4096;
}

/** Two words as one 64-bit text. */
export function formatWords(low: number, high: number): string {
  return `0x${((BigInt(high >>> 0) << 32n) | BigInt(low >>> 0)).toString(16)}`;
}

/** Any number as hexadecimal text. */
export function hex(value: number): string {
  return `0x${(value < 0 ? value >>> 0 : value).toString(16)}`;
}

/** A frame as the text of its byte address. */
export function hexPfn(pfn: number): string {
  return `0x${byteAddress(pfn).toString(16)}`;
}

function digitsFrom(text: string): number {
  return text.charCodeAt(1) === 120 ? 2 : 0;
}

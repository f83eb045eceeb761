/**
 * The edge between byte addresses and page-frame numbers, and the only file of this package that knows `bigint`.
 *
 * A page-frame number (address / 4096) is a JS number: the whole 64-bit space has 2^52 frames, exact in a double. A byte address is a number
 * up to 2^53 and a `bigint` above.
 */

/** Bytes in a page frame. */
export const PAGE_BYTES = 4096;
/** Frames in the 64-bit address space. */
export const FRAME_LIMIT = 2 ** 52;

/** A byte address: an integer number in [0, 2^53), or a bigint in [0, 2^64). */
export type ByteAddress = number | bigint;

/** The page-frame number of a byte address, in [0, 2^52). */
export function pfnOf(address: ByteAddress): number {
  return typeof address === "bigint" ? Number(BigInt.asUintN(64, address) >> 12n) : Math.floor(address / PAGE_BYTES);
}

/** The offset of a byte address in its page, in [0, 4096). */
export function offsetInPage(address: ByteAddress): number {
  if (typeof address === "bigint") return Number(address & 0xfffn);
  // Not `%`: on numbers above 2^31 that is a call.
  return address - Math.floor(address / PAGE_BYTES) * PAGE_BYTES;
}

/** The byte address of a frame plus an offset, as a bigint: exact for every frame below 2^52. */
export function byteAddress(pfn: number, offsetBytes = 0): bigint {
  return BigInt(pfn) * 4096n + BigInt(offsetBytes);
}

/** Hexadecimal, without rounding, for messages. */
export function formatAddress(address: ByteAddress): string {
  return `0x${address.toString(16)}`;
}

/** Hexadecimal byte address of a frame, for messages. */
export function formatPfn(pfn: number): string {
  return formatAddress(byteAddress(pfn));
}

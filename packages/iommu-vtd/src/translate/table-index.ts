/**
 * Index arithmetic of 512-entry tables, on page-frame numbers.
 */

const SPANS: readonly number[] = [0, 1, 2 ** 9, 2 ** 18, 2 ** 27, 2 ** 36];

/** Input frames that one entry of a table at this level covers; level 1 maps single frames. */
export function levelSpan(level: number): number {
  return SPANS[level] ?? 0;
}

/** Index (0 to 511) into the table of this level. */
export function tableIndex(iovaPfn: number, level: number): number {
  // Bit operators cut to 32 bits: enough for the indexes of the three lower levels, bits 26:0. `%` on frames above 2^31 would be a call.
  if (level <= 3) return (iovaPfn >>> (level * 9 - 9)) & 511;
  return (iovaPfn / (level === 4 ? 2 ** 27 : 2 ** 36)) & 511;
}

/** Where a frame lies in its naturally aligned block of `pageCount` frames, a power of two up to 2^31. */
export function offsetInBlock(pfn: number, pageCount: number): number {
  return pfn & (pageCount - 1);
}

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
  return Math.floor(iovaPfn / levelSpan(level)) % 512;
}

/**
 * How many pages an answer holds for: as many as the mapping, except where the mapping contains the interrupt window (0xFEE00000-0xFEEFFFFF).
 *
 * Requests to the window are messages and nothing may be written there (§3.15), so an answer that does not reach over it is the better one. Pages beside the window must
 * go to the same targets all the same.
 */

const WINDOW_FIRST = 0xfee00;
const WINDOW_END = 0xfef00;

/** A page, its target, and the number of pages that the answer holds for. */
export interface SizedAnswer {
  readonly iovaPfn: number;
  readonly gpaPfn: number;
  readonly pageCount: number;
}

/** Whether our answer covers what it may of a mapping of `pages` pages. */
export function coversMapping({ iovaPfn, gpaPfn, pageCount }: SizedAnswer, pages: number): boolean {
  if (pageCount === pages) return true;
  return pageCount < pages && (touchesWindow(iovaPfn, pages) || touchesWindow(gpaPfn, pages));
}

function touchesWindow(pfn: number, pages: number): boolean {
  const first = pfn - (pfn % pages);
  return first < WINDOW_END && first + pages > WINDOW_FIRST;
}

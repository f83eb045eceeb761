/**
 * How the frames that become reachable are cut into container entries.
 *
 * An entry is a one-way door: a container of granularity `block` cannot cut it later. When the guest takes one frame of
 * a merged entry away, the whole entry is unmapped and the rest of it mapped again, and for that moment frames vanish
 * that stay mapped. Fewer entries are bought with larger windows; the host chooses how much.
 */

/**
 * `leaf`: one entry for each leaf of the guest's tables. No window, unless the guest breaks a superpage up. 256 MiB in
 * 4 KiB pages need 65,536 entries: one more than type 1 has.
 *
 * `aligned`: what becomes reachable as one run is cut into naturally aligned blocks of 2^n frames. A window is never
 * larger than its block.
 *
 * `free`: what becomes reachable as one run within one step is one entry, however long. The fewest entries, and windows
 * of any size. Since a run is known only when the step ends, its answer comes late, and the guest's invalidation
 * completes later too.
 */
export type Coalescing = "leaf" | "aligned" | "free";

/** One entry to be. */
export interface Piece {
  readonly iovaPfn: number;
  readonly pageCount: number;
  readonly gpaPfn: number;
}

/**
 * Cuts a run into the entries of a policy, ascending.
 * @param largest Most frames of an entry: a power of two, or Infinity.
 */
export function piecesOf(
  policy: Coalescing,
  iovaPfn: number,
  pageCount: number,
  gpaPfn: number,
  largest: number,
): Piece[] {
  const pieces: Piece[] = [];
  for (let done = 0; done < pageCount;) {
    const left = pageCount - done;
    const count = policy === "aligned" ? alignedBlock(iovaPfn + done, left, largest) : Math.min(left, largest);
    pieces.push({ iovaPfn: iovaPfn + done, pageCount: count, gpaPfn: gpaPfn + done });
    done += count;
  }
  return pieces;
}

/** Frames of the largest block of 2^n frames that begins here, is naturally aligned, and fits. */
function alignedBlock(firstPfn: number, left: number, largest: number): number {
  let count = 1;
  while (count * 2 <= left && count * 2 <= largest && firstPfn % (count * 2) === 0) count *= 2;
  return count;
}

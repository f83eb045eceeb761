/**
 * Maps whose answer is not there yet; what is unmapped meanwhile is noted on them.
 *
 * Where only whole blocks are unmapped, one is found by its first frame. Else all of them are looked at, of which there
 * are few.
 */
import { type FrameRange, intersect } from "@iommu-kit/iommu-core";
import type { Piece } from "./coalescing.js";

/** One map under way. */
export interface Flight {
  readonly piece: Piece;
  /** Parts that were unmapped since. */
  readonly dropped: FrameRange[];
  /** Set once the answer is there. */
  refused: boolean;
}

/** How much of a map under way an unmap takes away. */
export interface Overlap {
  readonly flight: Flight;
  readonly pageCount: number;
}

/** The maps under way of one container. */
export class Flights {
  readonly #exact: boolean;
  readonly #byFirst = new Map<number, Flight>();
  readonly #all = new Set<Flight>();

  /** @param exact Whether unmaps name exactly what was mapped. */
  constructor(exact: boolean) {
    this.#exact = exact;
  }

  /** A map has been asked for. */
  start(piece: Piece): Flight {
    const flight: Flight = { piece, dropped: [], refused: false };
    if (this.#exact) this.#byFirst.set(piece.iovaPfn, flight);
    else this.#all.add(flight);
    return flight;
  }

  /** Nothing that happens from here on matters to it. */
  end(flight: Flight): void {
    this.#all.delete(flight);
    if (this.#byFirst.get(flight.piece.iovaPfn) === flight) this.#byFirst.delete(flight.piece.iovaPfn);
  }

  /** A range is unmapped: notes it, and answers whom it concerns. */
  drop(range: FrameRange): readonly Overlap[] {
    if (this.#exact) {
      const flight = this.#byFirst.get(range.firstPfn);
      if (flight === undefined) return NONE;
      // Its first frame may be mapped anew from here on.
      this.#byFirst.delete(range.firstPfn);
      flight.dropped.push(range);
      return [{ flight, pageCount: range.pageCount }];
    }
    if (this.#all.size === 0) return NONE;
    const overlaps: Overlap[] = [];
    for (const flight of this.#all) {
      for (const rest of restOf(flight)) {
        const part = intersect({ firstPfn: rest.iovaPfn, pageCount: rest.pageCount }, range);
        if (part.pageCount === 0) continue;
        flight.dropped.push(part);
        overlaps.push({ flight, pageCount: part.pageCount });
      }
    }
    return overlaps;
  }

  /** Forgets all of them. */
  clear(): void {
    this.#byFirst.clear();
    this.#all.clear();
  }
}

const NONE: readonly Overlap[] = [];

/** What of a map has not been unmapped since. */
export function restOf(flight: Flight): Piece[] {
  const { iovaPfn, pageCount, gpaPfn } = flight.piece;
  const rest: Piece[] = [];
  let at = iovaPfn;
  const upTo = (endPfn: number): void => {
    if (endPfn > at) rest.push({ iovaPfn: at, pageCount: endPfn - at, gpaPfn: gpaPfn + (at - iovaPfn) });
  };
  for (const part of flight.dropped.toSorted((a, b) => a.firstPfn - b.firstPfn)) {
    upTo(part.firstPfn);
    at = part.firstPfn + part.pageCount;
  }
  upTo(iovaPfn + pageCount);
  return rest;
}

/**
 * The entries that one notifier has in a container, kept in step with the container's answers.
 *
 * A container may answer later, while calls go on in order. An entry counts as held from the call on; if the container
 * turns out to have refused it, whatever of it was not dropped in the meantime is taken off again. An unmap that the
 * container does not carry out in full leaves a device with access that the guest took away: that is thrown, and ends
 * the attachment, which revokes everything.
 */
import {
  type Access,
  type Completion,
  CompletionGroup,
  formatRange,
  type FrameRange,
  IommuError,
  isPending,
} from "@iommu-kit/iommu-core";
import type { Piece } from "./coalescing.js";
import type { Answer, ContainerRefusal, DmaContainer, MapResult, UnmapResult } from "./container.js";
import { type Flight, Flights, type Overlap, restOf } from "./flights.js";
import { type ShadowBlock, ShadowPageTable } from "./shadow-page-table.js";

/** Why entries are not held; `undefined`: they are. */
export type Outcome = ContainerRefusal | undefined;

/** A map whose answer is not there yet. */
interface Waiting {
  readonly flight: Flight;
  readonly answer: PromiseLike<MapResult>;
}

/** Removes entries from the container; replaced while dirty pages are tracked. */
export type Unmapper = (range: FrameRange, blocks: readonly ShadowBlock[]) => Answer<UnmapResult>;

/** See the file's header. */
export class HeldEntries {
  /** What is held, each entry a block. */
  readonly table = new ShadowPageTable();
  readonly #container: DmaContainer;
  readonly #unmap: Unmapper;
  readonly #flights: Flights;

  constructor(container: DmaContainer, unmap: Unmapper) {
    this.#container = container;
    this.#unmap = unmap;
    this.#flights = new Flights(container.granularity === "block");
  }

  /**
   * Adds entries, all or none: where one is refused, the others are taken back, as far as they were not dropped in the
   * meantime. None of their frames is held.
   */
  add(pieces: readonly Piece[], access: Access): Outcome | Promise<Outcome> {
    const waiting: Waiting[] = [];
    const taken: Piece[] = [];
    let cause: Outcome;
    for (const piece of pieces) {
      const answer = this.#map(piece, access);
      if (isPending(answer)) {
        waiting.push({ flight: this.#flights.start(piece), answer });
        continue;
      }
      if (!answer.ok) {
        this.table.removeBlock(piece.iovaPfn);
        cause = answer.cause;
        break;
      }
      taken.push(piece);
    }
    if (waiting.length > 0) return this.#settle(taken, waiting, cause);
    return cause === undefined ? undefined : this.#takeBack(taken, cause);
  }

  /** Removes a range: whole entries, or any part of them where the container can cut. All of it is held. */
  drop(firstPfn: number, pageCount: number): Completion {
    const range = { firstPfn, pageCount };
    const blocks = [...this.table.blocks(firstPfn, pageCount)];
    const overlaps = this.#flights.drop(range);
    this.table.remove(firstPfn, pageCount);
    const answer = this.#unmap(range, blocks);
    if (!isPending(answer)) {
      checkRemoved(range, overlaps, answer);
      return undefined;
    }
    return Promise.resolve(answer).then((result) => checkRemoved(range, overlaps, result));
  }

  /** Forgets everything, without a word to the container. */
  forget(): void {
    this.table.clear();
    this.#flights.clear();
  }

  #map(piece: Piece, access: Access): Answer<MapResult> {
    const { iovaPfn, pageCount, gpaPfn } = piece;
    if (!this.table.insert(iovaPfn, pageCount, gpaPfn, access)) {
      throw new IommuError(
        "notifier-contract",
        `map of ${formatRange({ firstPfn: iovaPfn, pageCount })}: expected frames that are not held, got some that are`,
        {
          hint: "unmap or replace frames before mapping them again",
        },
      );
    }
    return this.#container.map(iovaPfn, pageCount, gpaPfn, access);
  }

  /** Waits for all answers of a group, then makes it whole: everything, or nothing. */
  async #settle(taken: readonly Piece[], waiting: readonly Waiting[], early: Outcome): Promise<Outcome> {
    let cause = early;
    try {
      for (const { flight, answer } of waiting) {
        const result = await answer;
        if (result.ok) continue;
        flight.refused = true;
        for (const rest of restOf(flight)) this.table.remove(rest.iovaPfn, rest.pageCount);
        cause ??= result.cause;
      }
    } finally {
      for (const { flight } of waiting) this.#flights.end(flight);
    }
    if (cause === undefined) return undefined;
    const accepted = waiting.filter(({ flight }) => !flight.refused).flatMap(({ flight }) => restOf(flight));
    return this.#takeBack([...taken, ...accepted], cause);
  }

  /** Takes entries back, then answers why. */
  #takeBack(pieces: readonly Piece[], cause: ContainerRefusal): Outcome | Promise<Outcome> {
    const group = new CompletionGroup();
    for (const { iovaPfn, pageCount } of pieces) group.add(this.drop(iovaPfn, pageCount));
    const pending = group.take();
    return pending === undefined ? cause : pending.then(() => cause);
  }
}

/** Did the container let go of all that it held of the range? */
function checkRemoved(range: FrameRange, overlaps: readonly Overlap[], answer: UnmapResult): void {
  let expected = range.pageCount;
  for (const { flight, pageCount } of overlaps) if (flight.refused) expected -= pageCount;
  const removed = answer.ok ? answer.removedPageCount : 0;
  if (removed === expected) return;
  const got = answer.ok ? `${answer.removedPageCount}` : `"${answer.cause}"`;
  throw new IommuError(
    "notifier-failed",
    `unmap of ${formatRange(range)}: expected the container to remove ${expected} pages, got ${got}`,
    {
      hint: "the device may still reach them: reset it, and let nobody else change these entries of the container",
    },
  );
}

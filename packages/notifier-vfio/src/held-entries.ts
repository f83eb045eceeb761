/**
 * The entries that one notifier has in a container, kept in step with the container's answers.
 *
 * A container may answer later, while calls go on in order. An entry counts as held from the call on; if the container
 * turns out to have refused it, whatever of it was not dropped in the meantime is taken off again. An unmap that the
 * container does not carry out in full leaves a device with access that the guest took away: that is thrown, and ends
 * the attachment, which revokes everything, and insists on what was not carried out.
 */
import {
  type Access,
  type Completion,
  formatRange,
  type FrameRange,
  IommuError,
  isPending,
} from "@iommu-kit/iommu-core";
import type { Piece } from "./coalescing.js";
import {
  type Answer,
  type ContainerRefusal,
  type DmaContainer,
  type MapResult,
  refused,
  type UnmapResult,
} from "./container.js";
import { type Flight, Flights, type Overlap, restOf } from "./flights.js";
import { type ShadowBlock, ShadowPageTable } from "./shadow-page-table.js";

/** Told what of an entry the container turned out not to hold: as far as it has not been dropped since, at the moment at which it is taken off. */
export type LateRefusal = (cause: ContainerRefusal, rest: readonly Piece[]) => void;

/** Removes entries from the container. */
export interface Unmapper {
  /** Removes what was held, with what was written to it while dirty pages are tracked. */
  unmap(range: FrameRange, blocks: readonly ShadowBlock[]): Answer<UnmapResult>;
  /** Tries once more, by the plainest call there is, what `unmap` was not confirmed to have removed. */
  insist(range: FrameRange, blocks: readonly ShadowBlock[]): Answer<UnmapResult>;
}

/** A removal that the container has not confirmed: devices may still reach these frames. */
interface Removal {
  readonly range: FrameRange;
  readonly blocks: readonly ShadowBlock[];
  readonly overlaps: readonly Overlap[];
  /** Frames that the container says it has removed. */
  removedPageCount: number;
  /** When it has answered; rejects where it failed. */
  answered: Completion;
}

/** One for each notifier; frames here are IOVA frames, targets those of the unit. */
export class HeldEntries {
  /** What is held, each entry a block. */
  readonly table = new ShadowPageTable();
  readonly #container: DmaContainer;
  readonly #unmapper: Unmapper;
  readonly #flights: Flights;
  /** They are out of the table: only here is it known that a device may still reach them. */
  readonly #unconfirmed = new Set<Removal>();

  constructor(container: DmaContainer, unmapper: Unmapper) {
    this.#container = container;
    this.#unmapper = unmapper;
    this.#flights = new Flights(container.granularity === "block");
  }

  /** Adds an entry, and answers why not; `undefined`: it is held. A promise is done when the container has answered. None of its frames is held before. */
  add(piece: Piece, access: Access, late: LateRefusal): ContainerRefusal | undefined | Promise<void> {
    const { iovaPfn, pageCount, gpaPfn } = piece;
    if (!this.table.insert(iovaPfn, pageCount, gpaPfn, access)) throw alreadyHeld({ firstPfn: iovaPfn, pageCount });
    const answer = this.#container.map(iovaPfn, pageCount, gpaPfn, access);
    if (isPending(answer)) return this.#settle(this.#flights.start(piece), answer, late);
    if (answer.ok) return undefined;
    this.table.removeBlock(iovaPfn);
    return answer.cause;
  }

  /** Removes a range: whole entries, or any part of them where the container can cut. All of it is held. */
  drop(firstPfn: number, pageCount: number): Completion {
    const range = { firstPfn, pageCount };
    const blocks = [...this.table.blocks(firstPfn, pageCount)];
    const overlaps = this.#flights.drop(range);
    this.table.remove(firstPfn, pageCount);
    const removal: Removal = { range, blocks, overlaps, removedPageCount: 0, answered: undefined };
    this.#unconfirmed.add(removal);
    const answer = this.#unmapper.unmap(range, blocks);
    if (!isPending(answer)) {
      this.#confirm(removal, answer);
      return undefined;
    }
    removal.answered = Promise.resolve(answer).then((result) => this.#confirm(removal, result));
    return removal.answered;
  }

  /**
   * Removes every entry, and insists on what was dropped before and is not confirmed; one that fails keeps no other from being removed.
   * Answers how many frames devices may reach even so.
   */
  dropAll(): Answer<number> {
    for (const { iovaPfn, pageCount } of [...this.table.blocks()]) {
      try {
        void Promise.resolve(this.drop(iovaPfn, pageCount)).catch(() => undefined);
      } catch {
        // It is unconfirmed now, which is dealt with below.
      }
    }
    // Every call is made here and now: a later one could hit what somebody maps there afterwards.
    const left = [...this.#unconfirmed].map((removal) => this.#insist(removal));
    const pending = left.filter(isPending);
    const known = left.reduce<number>((sum, frames) => (isPending(frames) ? sum : sum + frames), 0);
    if (pending.length === 0) return known;
    return Promise.all(pending.map((frames) => Promise.resolve(frames))).then((late) =>
      late.reduce((sum, frames) => sum + frames, known),
    );
  }

  /** Forgets everything, without a word to the container. */
  forget(): void {
    this.table.clear();
    this.#flights.clear();
    this.#unconfirmed.clear();
  }

  /** Did the container let go of all that it held of the range? */
  #confirm(removal: Removal, answer: UnmapResult): void {
    removal.removedPageCount = answer.ok ? answer.removedPageCount : 0;
    const expected = heldPagesOf(removal);
    if (removal.removedPageCount !== expected) throw notRemoved(removal.range, expected, answer);
    this.#unconfirmed.delete(removal);
  }

  /** Answers how many frames of a removal devices may reach even so. */
  #insist(removal: Removal): Answer<number> {
    let again: Answer<UnmapResult>;
    try {
      again = this.#unmapper.insist(removal.range, removal.blocks);
    } catch {
      again = refused("gone");
    }
    const left = (result: UnmapResult): number =>
      Math.max(0, heldPagesOf(removal) - removal.removedPageCount - (result.ok ? result.removedPageCount : 0));
    const { answered } = removal;
    if (answered === undefined && !isPending(again)) return left(again);
    return Promise.allSettled([again, answered]).then(([late]) =>
      left(late.status === "fulfilled" ? late.value : refused("gone")),
    );
  }

  async #settle(flight: Flight, answer: PromiseLike<MapResult>, late: LateRefusal): Promise<void> {
    try {
      const result = await answer;
      if (result.ok) return;
      flight.refused = true;
      const rest = restOf(flight);
      for (const { iovaPfn, pageCount } of rest) this.table.remove(iovaPfn, pageCount);
      late(result.cause, rest);
    } finally {
      this.#flights.end(flight);
    }
  }
}

/** Frames of a removal that the container held: a map that it refused has left nothing to remove. */
function heldPagesOf({ range, overlaps }: Removal): number {
  let pages = range.pageCount;
  for (const { flight, pageCount } of overlaps) if (flight.refused) pages -= pageCount;
  return pages;
}

function alreadyHeld(range: FrameRange): IommuError {
  return new IommuError(
    "notifier-contract",
    `map of ${formatRange(range)}: expected frames that are not held, got some that are`,
    { hint: "unmap or replace frames before mapping them again" },
  );
}

function notRemoved(range: FrameRange, expected: number, answer: UnmapResult): IommuError {
  const got = answer.ok ? `${answer.removedPageCount}` : `"${answer.cause}"`;
  return new IommuError(
    "notifier-failed",
    `unmap of ${formatRange(range)}: expected the container to remove ${expected} pages, got ${got}`,
    {
      hint: "the device may still reach them: reset it, and let nobody else change these entries of the container",
    },
  );
}

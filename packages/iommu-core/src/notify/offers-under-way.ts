/**
 * What was offered to a consumer and is not answered yet. A late answer finds the frames that are still its own: each frame's "target" in the tree is a number that no
 * other offer has.
 */

import { IovaTree } from "../diff/iova-tree.js";
import { TARGET_LIMIT } from "../diff/slot.js";
import type { FrameRange } from "../range.js";

/** Tickets begin at 0 again before this: half of the targets that a tree can hold. */
const TICKET_LIMIT = TARGET_LIMIT / 2;

/** Of one consumer: `add` when an answer is pending, `take` when it comes. */
export class OffersUnderWay {
  readonly #frames = new IovaTree();
  #nextTicket = 0;

  /** Notes an offer; the answer is its ticket. Frames of it that were offered before are of this one now. */
  add(range: FrameRange): number {
    if (this.#nextTicket + range.pageCount > TICKET_LIMIT) this.#nextTicket = 0;
    const ticket = this.#nextTicket;
    this.#nextTicket += range.pageCount;
    this.#frames.insert(range.firstPfn, range.pageCount, ticket, 1);
    return ticket;
  }

  /** What becomes of these frames is not up to their offers any more. */
  drop(firstPfn: number, pageCount: number): void {
    if (this.#frames.slotCount > 0) this.#frames.remove(firstPfn, pageCount);
  }

  /** Ends an offer: its frames that have been neither dropped nor offered anew since. */
  take(ticket: number, range: FrameRange): FrameRange[] {
    const left: FrameRange[] = [];
    this.#frames.runs((firstPfn, pageCount, tag) => {
      if (tag - ticket === firstPfn - range.firstPfn) left.push({ firstPfn, pageCount });
    }, range);
    for (const part of left) this.drop(part.firstPfn, part.pageCount);
    return left;
  }

  /** Forgets all of them. */
  clear(): void {
    this.#frames.clear();
  }
}

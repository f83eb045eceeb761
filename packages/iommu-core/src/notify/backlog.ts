/**
 * Invalidations under way, bounded: a guest that commands more without waiting for what it has commanded gets one that covers all of them (design D9).
 *
 * Caches of the unit have been dropped before a change comes here, so what is late is only what notifiers hear, and with it the completion that the guest polls.
 */

import type { Completion } from "../completion.js";
import { endOf, type FrameRange } from "../range.js";

/** What waits for those under way: whom it concerns, and the smallest range around all of it. */
interface Waiting<Key> {
  readonly concerned: Set<Key>;
  range: FrameRange;
  readonly done: Promise<void>;
  readonly settle: (completion: Completion) => void;
}

/** Carries out changes at once while at most `most` are under way; what comes beyond waits, joined into one that covers all of it. */
export class Backlog<Key> {
  readonly #most: number;
  readonly #carryOut: (concerned: readonly Key[], range: FrameRange) => Completion;
  #underWay = 0;
  #waiting: Waiting<Key> | undefined;

  /** `carryOut` begins one change; it stays under way until its completion has settled, so whoever must not wait for ever bounds that completion. */
  constructor(most: number, carryOut: (concerned: readonly Key[], range: FrameRange) => Completion) {
    this.#most = most;
    this.#carryOut = carryOut;
  }

  /** Carries a change out, now if not too many are under way. Done, or rejected, when it is, with what it was joined with. */
  add(concerned: readonly Key[], range: FrameRange): Completion {
    if (this.#waiting === undefined && this.#underWay < this.#most) return this.#start(concerned, range);
    this.#waiting ??= emptyAt(range);
    const waiting = this.#waiting;
    for (const key of concerned) waiting.concerned.add(key);
    waiting.range = around(waiting.range, range);
    return waiting.done;
  }

  #start(concerned: readonly Key[], range: FrameRange): Completion {
    const completion = this.#carryOut(concerned, range);
    if (completion === undefined) return undefined;
    this.#underWay += 1;
    const over = (): void => {
      this.#underWay -= 1;
      this.#next();
    };
    // A rejection is for whoever asked for this.
    completion.then(over, over);
    return completion;
  }

  #next(): void {
    const waiting = this.#waiting;
    if (waiting === undefined) return;
    this.#waiting = undefined;
    waiting.settle(this.#start([...waiting.concerned], waiting.range));
  }
}

function emptyAt<Key>(range: FrameRange): Waiting<Key> {
  let settle: (completion: Completion) => void = () => undefined;
  const done = new Promise<void>((resolve) => (settle = resolve));
  return { concerned: new Set(), range, done, settle: (completion) => settle(completion) };
}

/** The smallest range that contains both. */
function around(one: FrameRange, other: FrameRange): FrameRange {
  const firstPfn = Math.min(one.firstPfn, other.firstPfn);
  return { firstPfn, pageCount: Math.max(endOf(one), endOf(other)) - firstPfn };
}

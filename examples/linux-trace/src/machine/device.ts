/**
 * A device of the recorded machine. Each of its requests goes three ways, and all must agree: through its own translation cache (an UNMAP-only notifier), through
 * the unit, and through the container that follows its address space.
 */

import { type AddressSpace, accessOf, type FrameRange, Translation } from "@iommu-kit/iommu-core";
import { CacheNotifier } from "@iommu-kit/notifier-cache";
import { MemoryContainer, type ShadowTarget, shadow } from "@iommu-kit/notifier-vfio";
import type { Follow } from "../follow/follow.js";
import { type Run, walkDomain } from "../follow/walk-domain.js";
import { WatchedContainer } from "../measure/watched-container.js";
import type { DmaEvent } from "../trace/trace-event.js";

/** What three ways of one request say: `undefined` means as recorded. */
export interface DmaVerdict {
  /** Which way answered otherwise, and what. */
  readonly mismatch: string | undefined;
  /** Whether the container follows already: a driver without caching mode announces a new mapping only with its next flush. */
  readonly announced: boolean;
}

const AGREED: DmaVerdict = { mismatch: undefined, announced: true };

/** See the file's header. */
export class Device {
  readonly name: string;
  readonly space: AddressSpace;
  readonly container: WatchedContainer;
  readonly cache: CacheNotifier;
  readonly #regions: readonly FrameRange[];
  readonly #cached = new Translation();
  readonly #walked = new Translation();
  readonly #target: ShadowTarget = { gpaPfn: 0, access: 0 };

  constructor(name: string, space: AddressSpace, regions: readonly FrameRange[], follow: Follow) {
    this.name = name;
    this.space = space;
    this.#regions = regions;
    this.container = new WatchedContainer(new MemoryContainer(shadow), () => performance.now());
    this.cache = new CacheNotifier(space);
    space.attach(this.cache);
    follow(space, this.container, regions);
  }

  /**
   * Makes a recorded request once. The unit is asked once in any case, so that it records as many faults as the recorded one.
   *
   * The recorded unit answered a write to a page that it had cached as read-only with the page and its rights, and recorded no fault. So what such a request
   * asks for here is the page; that it cannot be written is checked by the rights in the answer, and by the container.
   */
  request({ iovaPfn, access: requested, answer }: DmaEvent): DmaVerdict {
    const access = accessOf(answer === undefined ? requested : requested & answer.access);
    const hits = this.cache.statistics.hits;
    this.cache.translate(iovaPfn, access, this.#cached);
    if (this.cache.statistics.hits > hits) this.space.translate(iovaPfn, access, this.#walked);
    else copy(this.#cached, this.#walked);
    const ways = [this.#cached, this.#walked];
    for (const [way, translation] of ways.entries()) {
      const mismatch = differs(translation, iovaPfn, answer);
      if (mismatch !== undefined)
        return { mismatch: `${way === 0 ? "the cache" : "the unit"} ${mismatch}`, announced: true };
    }
    const reached = this.container.inner.translate(iovaPfn, accessOf(requested), this.#target);
    if (answer === undefined || access !== requested)
      return reached ? { mismatch: "the container reaches what the unit refuses", announced: true } : AGREED;
    const gpaPfn = this.#walked.gpaPfn;
    if (!reached) return { mismatch: undefined, announced: false };
    if (this.#target.gpaPfn !== gpaPfn) return { mismatch: undefined, announced: false };
    this.container.recent.used(iovaPfn, gpaPfn);
    return AGREED;
  }

  /** Whether the container holds exactly what a fresh walk of the guest's tables finds. */
  followsTables(): boolean {
    const walked: readonly Run[] = walkDomain(this.space.domain, this.#regions, { firstPfn: 0, pageCount: 2 ** 52 });
    const held = [...this.container.inner.ranges()];
    return (
      held.length === walked.length &&
      walked.every((run, index) => {
        const other = held[index];
        return (
          other !== undefined &&
          other.iovaPfn === run.iovaPfn &&
          other.pageCount === run.pageCount &&
          other.gpaPfn === run.gpaPfn &&
          other.access === run.access
        );
      })
    );
  }
}

function copy(from: Translation, to: Translation): void {
  if (from.reason === 0) to.allow(from.gpaPfn, from.pageCount, from.access);
  else to.refuse(from.reason, from.cause);
}

/** How a translation differs from the recorded answer, for people. */
function differs(translation: Translation, iovaPfn: number, answer: DmaEvent["answer"]): string | undefined {
  if (answer === undefined) return translation.reason === 0 ? "allows what was refused" : undefined;
  if (translation.reason !== 0) return `refuses (${translation.cause}) what was allowed`;
  const gpaPfn = answer.gpaPfn + (iovaPfn % answer.pageCount);
  if (translation.gpaPfn !== gpaPfn)
    return `answers frame 0x${translation.gpaPfn.toString(16)}, recorded 0x${gpaPfn.toString(16)}`;
  if (translation.access !== answer.access) return `gives rights ${translation.access}, recorded ${answer.access}`;
  if (translation.pageCount !== answer.pageCount)
    return `gives a block of ${translation.pageCount} pages, recorded ${answer.pageCount}`;
  return undefined;
}

/**
 * A container that is watched from the device's side: which pages were gone for a while although they stay mapped, for how long, and what a device at work
 * would have met meanwhile.
 *
 * A *step* is everything that one event of the trace sets off. A page that is unmapped and mapped again to the same target with the same rights within a step
 * was live: the guest never took it away. The measure is taken at every call, so it also counts what a container applies later as one step.
 */

import type { Access } from "@iommu-kit/iommu-core";
import {
  type Answer,
  type DmaContainer,
  type MapResult,
  type MemoryContainer,
  ShadowPageTable,
  type ShadowTarget,
  type UnmapResult,
} from "@iommu-kit/notifier-vfio";
import { RecentPages } from "./recent-pages.js";

/** What was lost while steps ran. */
export interface GapTotals {
  /** Live pages that vanished, once for each time. */
  vanishedPages: number;
  /** Steps in which any did. */
  steps: number;
  /** Requests that a device at work repeats inside the gap, refused although the page stays mapped. */
  refusedRequests: number;
  /** Most calls to the container between a page's unmap and its map. */
  longestCalls: number;
  /** Longest time a page was gone, and the sum over steps of each one's longest. */
  longestMilliseconds: number;
  totalMilliseconds: number;
}

/** Pages mapped during one step. */
export interface StepSample {
  readonly fewestPages: number;
  readonly pages: number;
}

/** A call to a container. */
export type ContainerCall =
  | {
      readonly kind: "map";
      readonly iovaPfn: number;
      readonly pageCount: number;
      readonly gpaPfn: number;
      readonly access: Access;
    }
  | { readonly kind: "unmap"; readonly iovaPfn: number; readonly pageCount: number };

/** A run that was unmapped during the present step. */
interface Gone {
  readonly iovaPfn: number;
  readonly at: number;
  readonly call: number;
}

/** See the file's header. */
export class WatchedContainer implements DmaContainer {
  readonly inner: MemoryContainer;
  readonly gaps: GapTotals = {
    vanishedPages: 0,
    steps: 0,
    refusedRequests: 0,
    longestCalls: 0,
    longestMilliseconds: 0,
    totalMilliseconds: 0,
  };
  /** Told of every call that was carried out, after it. */
  onCall: ((call: ContainerCall) => void) | undefined;
  readonly calls = { maps: 0, unmaps: 0, mappedPages: 0, unmappedPages: 0 };
  /** What the device behind it used last. */
  readonly recent = new RecentPages();
  readonly #now: () => number;
  readonly #held = new ShadowPageTable();
  readonly #goneRuns = new ShadowPageTable();
  readonly #gone = new Map<number, Gone>();
  readonly #missed = new Map<number, number>();
  readonly #target: ShadowTarget = { gpaPfn: 0, access: 0 };
  #fewest = 0;
  #stepLongest = 0;
  #stepVanished = 0;

  /** @param now Milliseconds that only grow. */
  constructor(inner: MemoryContainer, now: () => number) {
    this.inner = inner;
    this.#now = now;
  }

  get granularity(): "page" | "block" {
    return this.inner.granularity;
  }

  get entryLimit(): number {
    return this.inner.entryLimit;
  }

  get entriesHeld(): number {
    return this.inner.entriesHeld;
  }

  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapResult {
    const answer = this.inner.map(iovaPfn, pageCount, gpaPfn, access);
    if (!answer.ok) return answer;
    this.calls.maps += 1;
    this.calls.mappedPages += pageCount;
    this.#held.insert(iovaPfn, pageCount, gpaPfn, access);
    for (const gone of this.#goneRuns.blocks(iovaPfn, pageCount)) {
      const isSame = gone.access === access && gone.gpaPfn - gone.iovaPfn === gpaPfn - iovaPfn;
      if (isSame) this.#returned(gone.iovaPfn, overlap(gone, { iovaPfn, pageCount }));
    }
    this.onCall?.({ kind: "map", iovaPfn, pageCount, gpaPfn, access });
    return answer;
  }

  unmap(iovaPfn: number, pageCount: number): UnmapResult {
    const answer = this.inner.unmap(iovaPfn, pageCount);
    if (answer.ok) this.#removed(iovaPfn, pageCount, answer.removedPageCount);
    return answer;
  }

  unmapAll(): UnmapResult {
    const answer = this.inner.unmapAll();
    if (answer.ok) this.#removed(0, 2 ** 52, answer.removedPageCount);
    return answer;
  }

  begin(): void {
    this.inner.begin();
  }

  commit(): Answer<void> {
    this.inner.commit();
  }

  onEntriesFreed(listener: () => void): () => void {
    return this.inner.onEntriesFreed(listener);
  }

  /** Ends a step. `undefined` if nothing was mapped or unmapped in it. */
  endStep(): StepSample | undefined {
    if (this.#gone.size === 0 && this.#fewest === this.#held.pageCount) return undefined;
    if (this.#stepVanished > 0) {
      const { gaps } = this;
      gaps.vanishedPages += this.#stepVanished;
      gaps.steps += 1;
      gaps.totalMilliseconds += this.#stepLongest;
      gaps.longestMilliseconds = Math.max(gaps.longestMilliseconds, this.#stepLongest);
      for (const [pfn, gpaPfn] of this.#missed) if (this.#reaches(pfn, gpaPfn)) gaps.refusedRequests += 1;
    }
    const sample = { fewestPages: this.#fewest, pages: this.#held.pageCount };
    this.#goneRuns.clear();
    this.#gone.clear();
    this.#missed.clear();
    this.#stepLongest = 0;
    this.#stepVanished = 0;
    this.#fewest = this.#held.pageCount;
    return sample;
  }

  #removed(firstPfn: number, pageCount: number, removedPageCount: number): void {
    this.calls.unmaps += 1;
    this.calls.unmappedPages += removedPageCount;
    const at = this.#now();
    const call = this.calls.maps + this.calls.unmaps;
    for (const held of this.#held.blocks(firstPfn, pageCount)) {
      const iovaPfn = Math.max(held.iovaPfn, firstPfn);
      const count = Math.min(held.iovaPfn + held.pageCount, firstPfn + pageCount) - iovaPfn;
      this.#goneRuns.remove(iovaPfn, count);
      this.#goneRuns.insert(iovaPfn, count, held.gpaPfn + (iovaPfn - held.iovaPfn), held.access);
      this.#gone.set(iovaPfn, { iovaPfn, at, call });
    }
    this.#held.remove(firstPfn, pageCount);
    this.#fewest = Math.min(this.#fewest, this.#held.pageCount);
    // The device goes on with its work: it asks for the pages that it used last.
    for (const { iovaPfn, gpaPfn } of this.recent.within(firstPfn, pageCount)) {
      if (!this.#reaches(iovaPfn, gpaPfn)) this.#missed.set(iovaPfn, gpaPfn);
    }
    this.onCall?.({ kind: "unmap", iovaPfn: firstPfn, pageCount });
  }

  #returned(iovaPfn: number, pageCount: number): void {
    const gone = this.#gone.get(iovaPfn);
    this.#stepVanished += pageCount;
    if (gone === undefined) return;
    this.#stepLongest = Math.max(this.#stepLongest, this.#now() - gone.at);
    const callsBetween = this.calls.maps + this.calls.unmaps - gone.call;
    this.gaps.longestCalls = Math.max(this.gaps.longestCalls, callsBetween);
  }

  #reaches(iovaPfn: number, gpaPfn: number): boolean {
    return this.inner.translate(iovaPfn, 0, this.#target) && this.#target.gpaPfn === gpaPfn;
  }
}

function overlap(
  a: { readonly iovaPfn: number; readonly pageCount: number },
  b: { readonly iovaPfn: number; readonly pageCount: number },
): number {
  return Math.min(a.iovaPfn + a.pageCount, b.iovaPfn + b.pageCount) - Math.max(a.iovaPfn, b.iovaPfn);
}

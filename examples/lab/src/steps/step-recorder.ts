/**
 * What one step did to a container, call by call, so that every moment within the step can be looked at again.
 *
 * A *step* is everything that one action of the guest sets off. The container is followed by its calls alone: what it held at the beginning of the last step is
 * kept, and the state after any number of its calls is made from that.
 */

import type { ContainerCall, WatchedContainer } from "@iommu-kit/linux-trace/measure/watched-container";
import { type ShadowBlock, ShadowPageTable } from "@iommu-kit/notifier-vfio";
import type { Span } from "../tables/page-map.js";

/** A step in which the container was called. */
export interface StepRecord {
  readonly calls: readonly ContainerCall[];
  readonly pagesBefore: number;
  readonly pagesAfter: number;
  /** The fewest pages that the container held at any moment. */
  readonly fewestPages: number;
  /** Pages that were unmapped and mapped again, to the same target with the same rights. */
  readonly vanishedPages: number;
  /** Where those are; a page may be listed twice. */
  readonly vanished: readonly Span[];
  /** Requests for recently used pages that failed while those were away. */
  readonly refusedRequests: number;
}

/** Follows one container. */
export class StepRecorder {
  readonly #container: WatchedContainer;
  /** At the beginning of `#last`. */
  readonly #before = new ShadowPageTable();
  /** Now. */
  readonly #held = new ShadowPageTable();
  #calls: ContainerCall[] = [];
  /** What was unmapped in this step. */
  #removed: ShadowBlock[] = [];
  #fewest = 0;
  #last: StepRecord | undefined;
  #seen = { vanishedPages: 0, refusedRequests: 0 };

  /** Begins with what the container holds. One recorder for a container. */
  constructor(container: WatchedContainer) {
    this.#container = container;
    for (const { iovaPfn, pageCount, gpaPfn, access } of container.inner.entries()) {
      this.#before.insert(iovaPfn, pageCount, gpaPfn, access);
      this.#held.insert(iovaPfn, pageCount, gpaPfn, access);
    }
    container.endStep();
    this.#seen = { ...container.gaps };
    this.#fewest = this.#held.pageCount;
    container.onCall = (call) => {
      this.#calls.push(call);
      if (call.kind === "unmap")
        for (const block of this.#held.blocks(call.iovaPfn, call.pageCount)) this.#removed.push(block);
      apply(call, this.#held);
      this.#fewest = Math.min(this.#fewest, this.#held.pageCount);
    };
  }

  /** Pages held now. */
  get pages(): number {
    return this.#held.pageCount;
  }

  /** The last step with a call in it. */
  get last(): StepRecord | undefined {
    return this.#last;
  }

  /** Ends a step. `undefined`: nobody called the container; the step before stays the last. */
  endStep(): StepRecord | undefined {
    this.#container.endStep();
    if (this.#calls.length === 0) return undefined;
    for (const call of this.#last?.calls ?? []) apply(call, this.#before);
    const { vanishedPages, refusedRequests } = this.#container.gaps;
    const vanishedNow = vanishedPages - this.#seen.vanishedPages;
    this.#last = {
      calls: this.#calls,
      pagesBefore: this.#before.pageCount,
      pagesAfter: this.#held.pageCount,
      fewestPages: this.#fewest,
      vanishedPages: vanishedNow,
      vanished: vanishedNow === 0 ? [] : this.#removed.flatMap((block) => this.#stillHeld(block)),
      refusedRequests: refusedRequests - this.#seen.refusedRequests,
    };
    this.#seen = { vanishedPages, refusedRequests };
    this.#calls = [];
    this.#removed = [];
    this.#fewest = this.#held.pageCount;
    return this.#last;
  }

  /** Whether the container holds all of this, as it is. */
  holds(block: Readonly<ShadowBlock>): boolean {
    return this.#stillHeld(block).reduce((sum, { pageCount }) => sum + pageCount, 0) === block.pageCount;
  }

  /** What the container held after the first `callCount` calls of the last step; a copy. */
  heldAfter(callCount: number): ShadowPageTable {
    const held = new ShadowPageTable();
    for (const { iovaPfn, pageCount, gpaPfn, access } of this.#before.blocks())
      held.insert(iovaPfn, pageCount, gpaPfn, access);
    for (const call of this.#last?.calls.slice(0, callCount) ?? []) apply(call, held);
    return held;
  }

  /** The parts of a block that are held now, to the same target with the same rights. */
  #stillHeld({ iovaPfn, pageCount, gpaPfn, access }: Readonly<ShadowBlock>): Span[] {
    const parts: Span[] = [];
    for (const held of this.#held.blocks(iovaPfn, pageCount)) {
      if (held.access !== access || held.gpaPfn - held.iovaPfn !== gpaPfn - iovaPfn) continue;
      const firstPfn = Math.max(held.iovaPfn, iovaPfn);
      const endPfn = Math.min(held.iovaPfn + held.pageCount, iovaPfn + pageCount);
      parts.push({ firstPfn, pageCount: endPfn - firstPfn });
    }
    return parts;
  }
}

/** A call in words. */
export function describeCall(call: ContainerCall): string {
  const where =
    call.iovaPfn === 0 && call.pageCount >= 2 ** 40
      ? "everything"
      : `0x${call.iovaPfn.toString(16)}${call.pageCount === 1 ? "" : `, ${call.pageCount.toLocaleString("en")} pages`}`;
  return call.kind === "unmap" ? `unmap ${where}` : `map ${where} to 0x${call.gpaPfn.toString(16)}`;
}

function apply(call: ContainerCall, table: ShadowPageTable): void {
  if (call.kind === "unmap") table.remove(call.iovaPfn, call.pageCount);
  else table.insert(call.iovaPfn, call.pageCount, call.gpaPfn, call.access);
}

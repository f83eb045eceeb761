/**
 * One page request group of a device: the pages asked for, and the promise of its response (§7.4.1, §7.6).
 */

import { endOf, type FrameRange, type Requester } from "@iommu-kit/iommu-core";
import type { PageResponse } from "./page-request-queue.js";

/** `open`: its last request is still to come. `waiting`: for the guest's response. `answered`: notifiers hear of it, then the device. */
type GroupState = "open" | "waiting" | "answered";

/** Ranges that are told apart; a device that asks for more of them in one group has them taken for everything between. */
const MOST_RANGES = 64;

/** A group, from its first request until `settle`. */
export class PageGroup {
  readonly requester: Requester;
  state: GroupState = "open";
  readonly #pages: FrameRange[] = [];
  #answer: (response: PageResponse) => void = () => undefined;

  constructor(requester: Requester) {
    this.requester = requester;
  }

  /** What was asked for, in the order in which it was. */
  get pages(): readonly FrameRange[] {
    return this.#pages;
  }

  /** A request of the group was queued. */
  add(iovaPfn: number): void {
    const pages = this.#pages;
    const last = pages.at(-1);
    if (last !== undefined && endOf(last) === iovaPfn) {
      pages[pages.length - 1] = { firstPfn: last.firstPfn, pageCount: last.pageCount + 1 };
      return;
    }
    pages.push({ firstPfn: iovaPfn, pageCount: 1 });
    if (pages.length <= MOST_RANGES) return;
    const firstPfn = Math.min(...pages.map((range) => range.firstPfn));
    const end = Math.max(...pages.map(endOf));
    pages.splice(0, pages.length, { firstPfn, pageCount: end - firstPfn });
  }

  /** The last request of the group was queued. */
  response(): Promise<PageResponse> {
    this.state = "waiting";
    return new Promise((resolve) => (this.#answer = resolve));
  }

  /** The group's response, once. */
  settle(response: PageResponse): void {
    this.#answer(response);
  }
}

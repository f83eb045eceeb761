/** What a device lost over the course of a session, step by step, and how it is drawn in few columns. */

import type { StepRecord } from "./step-recorder.js";

/** A step on the time line. */
export interface TimelinePoint {
  /** Where on the line: grows. */
  readonly at: number;
  readonly pages: number;
  readonly fewestPages: number;
  readonly vanishedPages: number;
  readonly refusedRequests: number;
}

/** A stretch of the line that is drawn as one. */
export interface TimelineColumn {
  /** Pages at the end of the stretch. */
  readonly pages: number;
  readonly fewestPages: number;
  readonly vanishedPages: number;
  readonly refusedRequests: number;
}

/** Sums over a whole line. */
export interface TimelineTotals {
  readonly maps: number;
  readonly unmaps: number;
  readonly vanishedPages: number;
  readonly refusedRequests: number;
}

/** See the file's header. */
export class Timeline {
  readonly #points: TimelinePoint[] = [];
  readonly #totals = { maps: 0, unmaps: 0, vanishedPages: 0, refusedRequests: 0 };
  readonly #pages: number;

  /** @param pages Mapped at the beginning. */
  constructor(pages: number) {
    this.#pages = pages;
  }

  /** Sums so far. */
  get totals(): TimelineTotals {
    return this.#totals;
  }

  /** Notes a step; `at` must not be less than that of the one before. */
  add(at: number, { calls, pagesAfter, fewestPages, vanishedPages, refusedRequests }: StepRecord): void {
    this.#points.push({ at, pages: pagesAfter, fewestPages, vanishedPages, refusedRequests });
    const maps = calls.filter(({ kind }) => kind === "map").length;
    this.#totals.maps += maps;
    this.#totals.unmaps += calls.length - maps;
    this.#totals.vanishedPages += vanishedPages;
    this.#totals.refusedRequests += refusedRequests;
  }

  /** The line from 0 to `end` (included) in `count` columns of equal width; nothing that was lost gets lost in between. */
  columns(count: number, end: number): TimelineColumn[] {
    const columns: TimelineColumn[] = [];
    let next = 0;
    let pages = this.#pages;
    for (let column = 0; column < count; column++) {
      const until = ((column + 1) * (end + 1)) / count;
      const sum = { fewestPages: pages, vanishedPages: 0, refusedRequests: 0 };
      for (let point = this.#points[next]; point !== undefined && point.at < until; point = this.#points[++next]) {
        pages = point.pages;
        sum.fewestPages = Math.min(sum.fewestPages, point.fewestPages);
        sum.vanishedPages += point.vanishedPages;
        sum.refusedRequests += point.refusedRequests;
      }
      columns.push({ pages, ...sum });
    }
    return columns;
  }
}

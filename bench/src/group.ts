/** A group of rows that are measured in one process of their own, so that no group shapes the heap or the compiled code of another. */

import type { Goal, MeasuredRow, Row } from "./row.js";
import type { Ratio } from "./ratio.js";

/** How much work. */
export interface Size {
  /** Pages of the main domain: 2^20, or a few with `--small`. */
  readonly pages: number;
  /** Pages of the large domain: 16 times as many. */
  readonly manyPages: number;
  /** Pairs of batches for a row. */
  readonly pairs: number;
}

/** See the file's header. */
export interface Group {
  readonly name: string;
  measure(size: Size, report: (row: Row) => void): void | Promise<void>;
}

/** What a row of two candidates says besides the ratio. */
export interface RatioTitle {
  readonly what: string;
  readonly against: string;
  readonly per: string;
  readonly goal?: Goal;
}

/** A row whose goal is about the time of the subject in times of the baseline. */
export function timeRow({ what, against, per, goal }: RatioTitle, ratio: Ratio): MeasuredRow {
  return {
    what,
    against,
    result: ratio.ratio,
    unit: "x",
    quartiles: ratio.quartiles,
    ...(goal && { goal }),
    nanoseconds: { subject: ratio.subject, baseline: ratio.baseline, per },
  };
}

/** A row whose goal is about how many times faster the subject is. */
export function speedRow(title: RatioTitle, ratio: Ratio): MeasuredRow {
  const [low, high] = ratio.quartiles;
  return { ...timeRow(title, ratio), result: 1 / ratio.ratio, quartiles: [1 / high, 1 / low] };
}

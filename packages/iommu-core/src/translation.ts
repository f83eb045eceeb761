/**
 * The answer to "where does this page go?". Written into an object that the caller reuses: a hit allocates nothing.
 */

import type { Access } from "./access.js";

/** Reason 0: the request was translated. Any other number is the backend's fault reason. */
export const TRANSLATED = 0;

/** A reusable answer. Its contents are valid until the next invalidation that covers the page, or the next call that writes into it. */
export class Translation {
  /** Target frame of the *requested* page (not of the block around it). Meaningful when `reason` is 0. */
  gpaPfn = 0;
  /** All rights of the mapping, not only those asked for. */
  access: Access = 0;
  /** Size of the naturally aligned block of input frames that the answer holds for, in pages; target frames advance with input frames. */
  pageCount = 1;
  /** 0, or why the request was refused: a fault reason of the backend, or, negative, one of `LocalReason`. */
  reason = TRANSLATED;
  /** Finer than the reason, for people: `""`, or the name of the failing check. */
  cause = "";

  /** Writes a positive answer. */
  allow(gpaPfn: number, pageCount: number, access: Access): void {
    this.gpaPfn = gpaPfn;
    this.pageCount = pageCount;
    this.access = access;
    this.reason = TRANSLATED;
    this.cause = "";
  }

  /** Writes a refusal. `reason` is not 0. */
  refuse(reason: number, cause: string): void {
    this.gpaPfn = 0;
    this.pageCount = 1;
    this.access = 0;
    this.reason = reason;
    this.cause = cause;
  }
}

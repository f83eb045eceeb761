/** The pages that a device used last, the working set of a device at work: what it will ask for next. */

/** A page and where it led. */
export interface RecentPage {
  readonly iovaPfn: number;
  readonly gpaPfn: number;
}

const KEPT = 16;

/** See the file's header. */
export class RecentPages {
  readonly #pages = new Map<number, RecentPage>();

  /** The device reached this page. */
  used(iovaPfn: number, gpaPfn: number): void {
    this.#pages.delete(iovaPfn);
    this.#pages.set(iovaPfn, { iovaPfn, gpaPfn });
    if (this.#pages.size <= KEPT) return;
    const oldest = this.#pages.keys().next();
    if (oldest.done !== true) this.#pages.delete(oldest.value);
  }

  /** Those of a range. */
  *within(firstPfn: number, pageCount: number): Generator<RecentPage> {
    for (const page of this.#pages.values()) {
      if (page.iovaPfn >= firstPfn && page.iovaPfn < firstPfn + pageCount) yield page;
    }
  }
}

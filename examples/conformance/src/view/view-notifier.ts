/**
 * A MAP notifier that keeps what it was told, page by page, and objects to whatever breaks the contract.
 *
 * The point of it is `settle`: after each step it says which pages were unmapped although they reach, after the step, exactly what they reached before.
 */

import type { Access, MapNotifier } from "@iommu-kit/iommu-core";
import { hexPfn } from "../files/numbers.js";
import { PageView } from "./page-view.js";

interface Run {
  readonly iovaPfn: number;
  readonly pageCount: number;
  readonly gpaPfn: number;
  readonly access: number;
}

/** Frames that something happened to. */
export interface TouchedRange {
  readonly firstPfn: number;
  readonly pageCount: number;
}

/** See the file's header. */
export class ViewNotifier implements MapNotifier {
  readonly kind = "map";
  readonly granularity: "page" | "block";
  readonly name: string;
  readonly view = new PageView();
  /** What broke the contract. */
  readonly breaches: string[] = [];
  /** What the unit has reported as windows of this notifier in the present step. */
  readonly windows: TouchedRange[] = [];
  /** Since the last `takeTouched`. */
  #touched: TouchedRange[] = [];
  /** What was unmapped in the present step. */
  #removed: Run[] = [];
  /** Announced blocks, by first frame, for `block` granularity. */
  readonly #blocks = new Map<number, number>();
  calls = 0;

  constructor(granularity: "page" | "block", name: string) {
    this.granularity = granularity;
    this.name = name;
  }

  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    this.calls += 1;
    if (this.view.count(iovaPfn, pageCount) > 0)
      this.breaches.push(`map of ${hexPfn(iovaPfn)} (${pageCount} pages), of which some are held`);
    this.view.set(iovaPfn, pageCount, gpaPfn, access);
    this.#touched.push({ firstPfn: iovaPfn, pageCount });
    if (this.granularity === "block") this.#blocks.set(iovaPfn, pageCount);
  }

  unmap(iovaPfn: number, pageCount: number): void {
    this.calls += 1;
    let held = 0;
    this.view.each(iovaPfn, pageCount, (first, pages, gpaPfn, access) => {
      held += pages;
      this.#removed.push({ iovaPfn: first, pageCount: pages, gpaPfn, access });
    });
    if (held !== pageCount)
      this.breaches.push(`unmap of ${hexPfn(iovaPfn)} (${pageCount} pages), of which ${held} are held`);
    if (this.granularity === "block" && !this.#takeBlocks(iovaPfn, pageCount)) {
      this.breaches.push(`unmap of ${hexPfn(iovaPfn)} (${pageCount} pages), which are not whole announced blocks`);
    }
    this.view.clear(iovaPfn, pageCount);
    this.#touched.push({ firstPfn: iovaPfn, pageCount });
  }

  /** Ends a step: runs that were unmapped in it although they are mapped as before. */
  settle(): TouchedRange[] {
    if (this.#removed.length === 0) return [];
    const removed = this.#removed;
    this.#removed = [];
    const alive: TouchedRange[] = [];
    for (const { iovaPfn, pageCount, gpaPfn, access } of removed) {
      this.view.each(iovaPfn, pageCount, (first, pages, target, rights) => {
        if (target === gpaPfn + first - iovaPfn && rights === access) alive.push({ firstPfn: first, pageCount: pages });
      });
    }
    return alive;
  }

  /** Takes the ranges touched since the last call. */
  takeTouched(): TouchedRange[] {
    const touched = this.#touched;
    this.#touched = [];
    return touched;
  }

  /** Whether a range is exactly made of announced blocks; these are then gone. */
  #takeBlocks(iovaPfn: number, pageCount: number): boolean {
    let next = iovaPfn;
    while (next < iovaPfn + pageCount) {
      const pages = this.#blocks.get(next);
      if (pages === undefined) return false;
      this.#blocks.delete(next);
      next += pages;
    }
    return next === iovaPfn + pageCount;
  }
}

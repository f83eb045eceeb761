/**
 * One `page` and one `block` notifier on every device of a file, and what they reveal after each step.
 */

import { ALL_FRAMES, formatRange } from "@iommu-kit/iommu-core";
import type { Machine } from "../machine/machine.js";
import type { Tally } from "../report/tally.js";
import { hex } from "../files/numbers.js";
import type { DeviationName } from "../deviations.js";
import { type Difference, formatDifference, PageView } from "./page-view.js";
import { type TouchedRange, ViewNotifier } from "./view-notifier.js";

/** A device, what our notifiers on it hold, and what the oracle's holds. */
export interface WatchedDevice {
  readonly sourceId: number;
  readonly page: ViewNotifier;
  readonly block: ViewNotifier;
  readonly theirs: PageView;
  /** Notifier sections that the oracle has registered: none while translation is off or the device is passed through. */
  readonly sections: Set<string>;
  /** Ranges that the oracle told of since the last comparison. */
  touched: TouchedRange[];
}

/** Figures of block notifiers and left-out views are notes with these names. */
export const NOTE = {
  live: "pages that stay mapped unmapped on a page notifier",
  windows: "windows of block notifiers",
  windowPages: "pages that stay mapped in windows of block notifiers",
  changes: "changes of target or rights told to page notifiers as unmap and map",
  leftOut: "final views left out (translation off or pass-through: the oracle holds nothing)",
  pages: "mapped pages compared in final views",
  calls: "notifications to page notifiers",
} as const;

/** See the file's header. */
export class WatchedDevices {
  readonly #tally: Tally;
  readonly #devices = new Map<number, WatchedDevice>();

  constructor(machine: Machine, sourceIds: readonly number[], tally: Tally) {
    this.#tally = tally;
    for (const name of Object.values(NOTE)) tally.note(name, 0);
    machine.unit.events.on("window", ({ iovaPfn, pageCount, attachment: { notifier } }) => {
      if (notifier instanceof ViewNotifier) notifier.windows.push({ firstPfn: iovaPfn, pageCount });
      const block = notifier.kind === "map" && notifier.granularity === "block";
      tally.note(block ? NOTE.windows : NOTE.changes);
    });
    machine.unit.events.on("failed", ({ error }) =>
      this.#tally.fail("contract", "attachment failed", error.message, "no failure"),
    );
    for (const sourceId of sourceIds) {
      const page = new ViewNotifier("page", `page ${hex(sourceId)}`);
      const block = new ViewNotifier("block", `block ${hex(sourceId)}`);
      const space = machine.space(sourceId);
      space.attach(page);
      space.attach(block);
      this.#devices.set(sourceId, { sourceId, page, block, theirs: new PageView(), sections: new Set(), touched: [] });
    }
  }

  [Symbol.iterator](): IterableIterator<WatchedDevice> {
    return this.#devices.values();
  }

  /** The device; every source-id that a file speaks of is in its header. */
  of(sourceId: number): WatchedDevice {
    const device = this.#devices.get(sourceId);
    if (device === undefined) throw new Error(`source-id ${hex(sourceId)} is not in the file's header`);
    return device;
  }

  /** Ends a step: looks for pages that were unmapped although they stay mapped. */
  settle(): void {
    for (const { page, block } of this.#devices.values()) {
      for (const range of page.settle()) {
        this.#tally.note(NOTE.live, range.pageCount);
        this.#tally.fail(
          "live pages",
          page.name,
          `unmapped ${formatRange(range)} although it stays mapped`,
          "stays mapped",
        );
      }
      for (const range of block.settle()) {
        this.#tally.note(NOTE.windowPages, range.pageCount);
        if (block.windows.some((window) => contains(window, range))) continue;
        this.#tally.fail("live pages", block.name, `unmapped ${formatRange(range)} in silence`, "a window event");
      }
      page.windows.length = 0;
      block.windows.length = 0;
    }
  }

  /** Ends a case or trace: one check of the contract for each notifier. */
  finish(): void {
    for (const { page, block } of this.#devices.values()) {
      this.#tally.note(NOTE.calls, page.calls);
      for (const { name, breaches } of [page, block]) {
        if (breaches.length === 0) this.#tally.pass("contract");
        else this.#tally.fail("contract", name, `${breaches.length} breaches: ${breaches[0] ?? ""}`, "none");
      }
    }
  }

  /** Compares what both sides hold for a device, everywhere. */
  compareAll(
    device: WatchedDevice,
    kind: string,
    { theirs = device.theirs, explain }: { readonly theirs?: PageView | undefined; readonly explain?: Explain } = {},
  ): void {
    if (device.sections.size === 0) return this.#tally.note(NOTE.leftOut);
    this.#tally.note(NOTE.pages, device.page.view.count(ALL_FRAMES.firstPfn, ALL_FRAMES.pageCount));
    this.#compare(device, kind, { theirs, ranges: [ALL_FRAMES], told: { theirs: [], ours: [] }, explain });
  }

  /** Compares the ranges that either side was told of since the last comparison. `explain` may know better than calling a difference a failure. */
  compareTouched(kind: string, explain: Explain): void {
    for (const device of this.#devices.values()) {
      const told = { theirs: device.touched, ours: [...device.page.takeTouched(), ...device.block.takeTouched()] };
      device.touched = [];
      const ranges = [...told.theirs, ...told.ours];
      if (ranges.length > 0 && device.sections.size > 0)
        this.#compare(device, kind, { theirs: device.theirs, ranges, told, explain });
    }
  }

  #compare(device: WatchedDevice, kind: string, { theirs, ranges, told, explain }: Comparison): void {
    for (const { view, name } of [device.page, device.block]) {
      const found = ranges.flatMap((range) => view.difference(theirs, range));
      const causes = new Set(found.map((difference) => explain?.(device, told, difference)));
      const [cause] = causes;
      if (found.length === 0) this.#tally.pass(kind);
      else if (causes.size === 1 && cause !== undefined) this.#tally.deviate(kind, cause);
      else this.#tally.fail(kind, name, found.slice(0, 3).map(formatDifference).join("; "), "");
    }
  }
}

/** What either side's notifiers were told of since the last comparison. */
export interface Told {
  readonly theirs: readonly TouchedRange[];
  readonly ours: readonly TouchedRange[];
}

/** The deviation that explains a difference. */
export type Explain = (device: WatchedDevice, told: Told, difference: Difference) => DeviationName | undefined;

function contains(outer: TouchedRange, inner: TouchedRange): boolean {
  return outer.firstPfn <= inner.firstPfn && inner.firstPfn + inner.pageCount <= outer.firstPfn + outer.pageCount;
}

interface Comparison {
  readonly theirs: PageView;
  readonly ranges: readonly TouchedRange[];
  readonly told: Told;
  readonly explain: Explain | undefined;
}

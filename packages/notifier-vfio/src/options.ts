/**
 * The options of a `VfioNotifier`.
 */
import { IommuError, type Scheduler } from "@iommu-kit/iommu-core";
import type { Coalescing } from "./coalescing.js";

/** How to mirror. Everything has a default. */
export interface VfioNotifierOptions {
  /** For events and messages. Default: `"vfio"`. */
  readonly name?: string;
  /** How entries are cut. Default: `"leaf"`, which opens no windows of its own. */
  readonly coalescing?: Coalescing;
  /** Most frames of an entry, a power of two. Default: what the container takes. */
  readonly largestBlock?: number;
  /** Fills of the container at which `pressure` is reported, as ascending parts of its limit. Default: `[0.8, 0.95]`. */
  readonly pressureLevels?: readonly number[];
  /**
   * Whether the container can reach these target frames. Where it cannot (a peer device's BAR, say), the run is reported
   * and left out. Default: whatever the container itself answers.
   */
  readonly acceptsTarget?: (gpaPfn: number, pageCount: number) => boolean;
  /** Whether nobody else puts entries into the container: a revoke then empties it in one call. Default: true. */
  readonly exclusive?: boolean;
  /**
   * Milliseconds for which `startDirtyTracking`, `stopDirtyTracking` and `collectDirty` wait for the container, a positive integer. Default: 5,000, as long as a
   * unit waits for a consumer. What is not known by then counts as written.
   */
  readonly dirtyDeadlineMilliseconds?: number;
  /** For that deadline. Default: the host's timers. */
  readonly scheduler?: Scheduler;
}

/**
 * Most frames of an entry, by what the host wants and what the container takes: a power of two, or Infinity.
 * @throws {IommuError} `bad-option`.
 */
export function largestBlockOf(wanted: number | undefined, offered: number | undefined): number {
  const largest = Math.min(wanted ?? Infinity, offered === undefined ? Infinity : 2 ** Math.floor(Math.log2(offered)));
  if (largest === Infinity || (largest >= 1 && Number.isInteger(Math.log2(largest)))) return largest;
  throw new IommuError("bad-option", `largestBlock: expected a power of two of pages, got ${wanted}`, {
    hint: "512 for 2 MiB, 1 for single pages",
  });
}

/**
 * How long the container may take to tell what devices wrote.
 * @throws {IommuError} `bad-option`.
 */
export function dirtyDeadlineOf(wanted: number | undefined): number {
  if (wanted === undefined) return 5000;
  if (Number.isSafeInteger(wanted) && wanted > 0) return wanted;
  throw new IommuError("bad-option", `dirtyDeadlineMilliseconds: expected a positive integer, got ${wanted}`, {
    hint: "leave it out for 5,000",
  });
}

/**
 * Budgets and deadlines: what one guest may make the host do (design D7, D9).
 */

import { IommuError, withoutUndefined } from "./errors.js";
import type { GuestMemory } from "./ports.js";
import type { FrameRange } from "./range.js";

/** All have defaults; all are positive integers. */
export interface Limits {
  /** Table entries read before the guest's next instruction. Default 65,536: about 0.3 ms. */
  readonly entriesPerSlice: number;
  /**
   * Mappings announced before the guest's next instruction, and calls of the consumer that gets most of them: one of small blocks needs many for a superpage. A slice
   * ends between two steps; a step is a leaf table, or part of a superpage, and at most 2,048 calls. Default 65,536.
   */
  readonly mappingsPerSlice: number;
  /**
   * Mappings a view may announce, a superpage counting as one, and blocks of its own largest size that a consumer may hold: what is beyond them counts as refused
   * by it. Default: 4 for each frame of RAM, or of the regions that devices reach untranslated if they are larger, and at least 2^20; it follows `setRegions`.
   */
  readonly mappingsPerView: number;
  /** Bytes the announced state of a view may take. Default: 64 for each frame of RAM, and at least 64 MiB. */
  readonly bytesPerView: number;
  /** Table pages read in one pass over a view. Default: 2 for each frame of RAM, and at least 2^18. */
  readonly tablesPerView: number;
  /** Calls that consumers may leave unanswered before further slices wait for them. Default 65,536. */
  readonly callsInFlight: number;
  /** Invalidations that may be under way; what comes while they are becomes one. Default 64. */
  readonly invalidationsInFlight: number;
  /** Milliseconds until a consumer that does not answer is cut off. Default 5,000: half of what a Linux guest waits for its unit. */
  readonly consumerDeadlineMilliseconds: number;
  /** Milliseconds until a lease that is not released is revoked. Default 1,000. */
  readonly leaseDeadlineMilliseconds: number;
}

/**
 * Fills in the defaults.
 * @param regions What devices reach untranslated.
 * @throws {IommuError} `bad-option` for a limit that is not a positive integer, or that does not exist.
 */
export function resolveLimits(given: Partial<Limits>, memory: GuestMemory, regions: readonly FrameRange[]): Limits {
  const ramFrames = framesOf(memory.ram);
  const defaults: Limits = {
    entriesPerSlice: 65_536,
    mappingsPerSlice: 65_536,
    mappingsPerView: Math.max(2 ** 20, ramFrames * 4, framesOf(regions) * 4),
    bytesPerView: Math.max(2 ** 26, ramFrames * 64),
    tablesPerView: Math.max(2 ** 18, ramFrames * 2),
    callsInFlight: 65_536,
    invalidationsInFlight: 64,
    consumerDeadlineMilliseconds: 5000,
    leaseDeadlineMilliseconds: 1000,
  };
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(defaults, name)) {
      throw new IommuError("bad-option", `limits: expected ${Object.keys(defaults).join(", ")}, got ${name}`, {
        hint: "see Limits for what each means",
      });
    }
    if (value !== undefined && (!Number.isSafeInteger(value) || value < 1)) {
      throw new IommuError("bad-option", `limits.${name}: expected a positive integer, got ${value}`, {
        hint: "leave it out for the default",
      });
    }
  }
  return { ...defaults, ...withoutUndefined(given) };
}

function framesOf(ranges: readonly FrameRange[]): number {
  return ranges.reduce((frames, range) => frames + range.pageCount, 0);
}

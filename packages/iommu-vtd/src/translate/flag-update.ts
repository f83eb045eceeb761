/**
 * Sets accessed and dirty flags in table entries with compare-and-set (§3.6.2, §3.7.2): an entry that changed meanwhile is walked again, never overwritten.
 */

import { type GuestMemory, PAGE_BYTES } from "@iommu-kit/iommu-core";

/** Done, the entry changed (walk again), or there is nothing writable. */
export type FlagOutcome = "set" | "changed" | "failed";

/** What a walk does about flags: `setFlags`, or `spareFlags` for one that only finds out. */
export type FlagUpdate = typeof setFlags;

/** Sets `flags` in the low word of entry `index`; `low` is what was fetched. */
export function setFlags(
  memory: GuestMemory,
  tablePfn: number,
  index: number,
  low: number,
  flags: number,
): FlagOutcome {
  const gpa = tablePfn * PAGE_BYTES + index * 8;
  if (memory.compareExchange(gpa, low, low | flags)) return "set";
  const now = new Int32Array(1);
  if (!memory.fetch(gpa, now)) return "failed";
  return now[0] === low ? "failed" : "changed";
}

/** Leaves every entry as it is: dirty flags are never set on speculation (§3.6.2). */
export const spareFlags: FlagUpdate = () => "set";

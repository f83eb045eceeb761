/**
 * Sets accessed and dirty flags in table entries with compare-and-set (§3.6.2, §3.7.2): an entry that changed meanwhile is walked again, never overwritten.
 *
 * The flags are in the low half, and the memory port compares halves. So the high half is looked at once more afterwards: as long as it is what the walk went by, the walk
 * went by an entry that has these flags.
 */

import { type GuestMemory, PAGE_BYTES } from "@iommu-kit/iommu-core";
import type { EntryReader } from "./entry-reader.js";

/** Done, the entry changed (walk again), or there is nothing writable. */
export type FlagOutcome = "set" | "changed" | "failed";

/** What a walk does about flags: `setFlags`, or `spareFlags` for one that only finds out. */
export type FlagUpdate = typeof setFlags;

/** Sets `flags` in the low word of entry `index`, which `reader` has fetched, and fetches it again. */
export function setFlags(
  memory: GuestMemory,
  reader: EntryReader,
  tablePfn: number,
  index: number,
  flags: number,
): FlagOutcome {
  const { low, high } = reader;
  const done = memory.compareExchange(tablePfn * PAGE_BYTES + index * 8, low, low | flags);
  if (!reader.fetch(tablePfn, index)) return "failed";
  if (done) return reader.high === high ? "set" : "changed";
  return reader.low === low ? "failed" : "changed";
}

/** Leaves every entry as it is: dirty flags are never set on speculation (§3.6.2). */
export const spareFlags: FlagUpdate = () => "set";

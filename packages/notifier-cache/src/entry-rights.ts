/**
 * Which rights an entry of a cache may carry.
 *
 * Only a translated write sets the dirty flag of a page. An entry that was filled by a read and lets a write through would keep the flag from ever being set, and
 * the guest drops a page that it takes for clean.
 */

import { Access, type AddressSpace } from "@iommu-kit/iommu-core";

/** `"mapping"`: all that the mapping allows. `"requested"`: none whose flags the guest's tables do not show yet. */
export type EntryRights = "mapping" | "requested";

/**
 * The part of the rights granted that an entry may carry.
 * @param asked With which access the page was translated: a write has set both flags, a read the accessed flag alone.
 * @param rights What the host chose; by default it depends on what the address space sees.
 */
export function entryRights(
  space: AddressSpace,
  asked: Access,
  granted: Access,
  rights: EntryRights | undefined,
): Access {
  if ((asked & Access.write) !== 0 || (granted & Access.write) === 0) return granted;
  const narrow = rights === undefined ? space.domain.setsFlags === true : rights === "requested";
  return narrow ? ((granted & Access.read) as Access) : granted;
}

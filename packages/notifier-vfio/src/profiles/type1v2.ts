/** Linux VFIO type 1, version 2, as measured on Linux 6.1: the container that most hosts use. */
import { usableRangesOf, type ContainerProfile } from "./profile.js";

/**
 * VFIO_TYPE1v2_IOMMU. Spread it to change what depends on the machine:
 * `{ ...type1v2, usableRanges: usableRangesOf(48) }`.
 */
export const type1v2: ContainerProfile = {
  name: "type1v2",
  granularity: "block",
  overlap: { identical: "exists", other: "exists" },
  cut: "invalid",
  unions: true,
  hole: "nothing",
  entryLimit: 65535,
  alignmentBytes: 4096,
  wrap: "invalid",
  usableRanges: usableRangesOf(39),
  dirty: { log: "all-mapped", range: "whole", withUnmap: true, pageBytes: 4096 },
};

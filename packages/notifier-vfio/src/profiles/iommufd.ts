/** Linux iommufd through its VFIO-compatible calls, read from public sources, not measured. */
import { usableRangesOf, type ContainerProfile } from "./profile.js";

/** An iommufd address space (IOAS). Its own dirty tracking is not reachable through the compatible calls. */
export const iommufd: ContainerProfile = {
  name: "iommufd",
  granularity: "block",
  overlap: { identical: "exists", other: "exists" },
  cut: "no-entry",
  unions: true,
  hole: "no-entry",
  entryLimit: 2 ** 32 - 1,
  alignmentBytes: 4096,
  wrap: "overflow",
  usableRanges: usableRangesOf(39),
  dirty: { log: "unsupported", range: "whole", withUnmap: false, pageBytes: 4096 },
};

/** The DMA regions of a vfio-user server, read from the public protocol and its implementations, not measured. */
import { ALL_FRAMES } from "@iommu-kit/iommu-core";
import type { ContainerProfile } from "./profile.js";

/**
 * A vfio-user server: repeating a map is harmless, an unmap names exactly one region, and there is no alignment rule.
 * Frames with a fraction of 1/4096 then stand for single bytes. The device reports its own writes, by a protocol of
 * its own, mapped or not.
 */
export const vfioUser: ContainerProfile = {
  name: "vfio-user",
  granularity: "block",
  overlap: { identical: "accept", other: "invalid" },
  cut: "no-entry",
  unions: false,
  hole: "no-entry",
  entryLimit: 1_000_000,
  alignmentBytes: 1,
  wrap: "invalid",
  usableRanges: [ALL_FRAMES],
  dirty: { log: "written", range: "any", withUnmap: false, pageBytes: 4096 },
};

/** A shadow page table in the emulator's own process: no limit, and entries can be cut. */
import { ALL_FRAMES } from "@iommu-kit/iommu-core";
import type { ContainerProfile } from "./profile.js";

/** The rules of an in-process device model that follows a table of ours: every event fits, none opens a window. */
export const shadow: ContainerProfile = {
  name: "shadow",
  granularity: "page",
  overlap: { identical: "accept", other: "exists" },
  cut: "split",
  unions: true,
  hole: "nothing",
  entryLimit: Infinity,
  alignmentBytes: 4096,
  wrap: "invalid",
  usableRanges: [ALL_FRAMES],
  dirty: { log: "written", range: "any", withUnmap: true, pageBytes: 4096 },
};

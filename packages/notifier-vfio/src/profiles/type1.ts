/** Linux VFIO type 1 in its first version, as measured on Linux 6.1: an unmap may remove more than it was asked for. */
import { type1v2 } from "./type1v2.js";
import type { ContainerProfile } from "./profile.js";

/** VFIO_TYPE1_IOMMU. As a consumer of a notifier it is fit only because the notifier unmaps whole entries. */
export const type1: ContainerProfile = {
  ...type1v2,
  name: "type1",
  cut: "whole-from-first",
  dirty: { ...type1v2.dirty, log: "denied", withUnmap: false },
};

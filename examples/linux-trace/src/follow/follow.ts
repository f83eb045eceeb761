/** The two ways to keep a container in step with an address space, behind one name: the host changes this line and no other. */

import type { AddressSpace, Attachment, FrameRange } from "@iommu-kit/iommu-core";
import { type DmaContainer, VfioNotifier } from "@iommu-kit/notifier-vfio";
import { UnmapAllThenMap } from "./unmap-all-then-map.js";

/** Makes `container` follow what `space` may reach, until the attachment is detached. */
export type Follow = (space: AddressSpace, container: DmaContainer, regions: readonly FrameRange[]) => Attachment;

/** Only differences: a notifier of the MAP kind. */
export const announceDifferences: Follow = (space, container) => space.attach(new VfioNotifier(container));

/** Everything away, everything anew: see unmap-all-then-map.ts. */
export const unmapAllThenMap: Follow = (space, container, regions) =>
  space.attach(new UnmapAllThenMap(space, container, regions));

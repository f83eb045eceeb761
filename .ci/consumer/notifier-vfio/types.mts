import type { AddressSpace, MapNotifier } from "@iommu-kit/iommu-core";
import { type DmaContainer, MemoryContainer, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";
import { container, registerVfioNotifier, VFIO_NOTIFIER } from "@iommu-kit/notifier-vfio/di";

declare const space: AddressSpace;

const target: DmaContainer = new MemoryContainer(type1v2);
const notifier = new VfioNotifier(target, { name: "device 3" });
export const asNotifier: MapNotifier = notifier;
export const pages: number = notifier.attachTo(space).heldPages;

registerVfioNotifier(container);
export const resolved: VfioNotifier = container.resolve(VFIO_NOTIFIER);

// @ts-expect-error the profile is not optional
export const wrong = new MemoryContainer();

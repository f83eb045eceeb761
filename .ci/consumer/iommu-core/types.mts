import {
  Access,
  type Backend,
  BackendIommu,
  type GuestMemory,
  type Iommu,
  type MapNotifier,
  parseSourceId,
  Translation,
} from "@iommu-kit/iommu-core";
import { container, GUEST_MEMORY, IOMMU, registerBackendIommu } from "@iommu-kit/iommu-core/di";

declare const backend: Backend;
declare const memory: GuestMemory;

const mapped = new Map<number, number>();
const notifier: MapNotifier = {
  kind: "map",
  granularity: "page",
  map: (iovaPfn, pageCount, gpaPfn) => {
    for (let page = 0; page < pageCount; page += 1) mapped.set(iovaPfn + page, gpaPfn + page);
  },
  unmap: (iovaPfn, pageCount) => {
    for (let page = 0; page < pageCount; page += 1) mapped.delete(iovaPfn + page);
    return undefined;
  },
};

const iommu: Iommu = new BackendIommu({ backend, memory });
const space = iommu.addressSpace(parseSourceId("00:03.0"), { pasid: 5 });
const out = new Translation();
export const allowed: boolean = space.translate(0x10, Access.read, out) && space.dma.read(0x1_0000, new Uint8Array(64));
export const held: number = space.attach(notifier, { range: { firstPfn: 0, pageCount: 512 } }).heldPages;
iommu.events.on("fault", ({ reason }) => reason.toFixed());

registerBackendIommu(container);
container.register(GUEST_MEMORY, { useValue: memory });
export const resolved: Iommu = container.resolve(IOMMU);

// @ts-expect-error a notifier that mirrors has to say how it can be unmapped
space.attach({ kind: "map", map: () => undefined, unmap: () => undefined });

import { BackendIommu, sourceId } from "@iommu-kit/iommu-core";
import { FakeMemory, SimpleBackend, SimpleDomain } from "@iommu-kit/iommu-core/testing";
import { MemoryContainer, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";

// A machine with one device. In an emulator: new VtdIommu({ cachingMode: true, ... }).
const backend = new SimpleBackend();
const iommu = new BackendIommu({ backend, memory: new FakeMemory() });
const device = iommu.addressSpace(sourceId(0, 3, 0));

// The far side: here an in-memory container with the rules of Linux VFIO, else your own DmaContainer.
const container = new MemoryContainer(type1v2);
const notifier = new VfioNotifier(container);
notifier.events.on("pressure", ({ level }) => console.warn(`container filled to ${level * 100} %`));
notifier.attachTo(device);

// The guest maps two pages, later takes one away.
const domain = new SimpleDomain("guest table");
domain.map(0x10, 2, 0x8000);
await backend.assign(device.sourceId, domain);
console.log([...container.entries()]); // [{ iovaPfn: 0x10, pageCount: 2, gpaPfn: 0x8000, access: 3 }]
domain.unmap(0x10, 2);
await backend.invalidate(domain);
console.log(container.entriesHeld); // 0

import { Access, BackendIommu, parseSourceId } from "@iommu-kit/iommu-core";
import { FakeMemory, SimpleBackend, SimpleDomain } from "@iommu-kit/iommu-core/testing";

// A machine: guest memory, a remapping backend (here the kit's reference one), and the unit that joins them.
const memory = new FakeMemory();
const tables = new SimpleDomain("the guest's tables");
const backend = new SimpleBackend(tables);
const iommu = new BackendIommu({ backend, memory });

// A device reaches memory through its address space, and cannot tell that from memory itself.
const nic = iommu.addressSpace(parseSourceId("00:03.0"));
iommu.events.on("fault", ({ space, cause }) => console.log(`${space.label}: ${cause}`));

// Something that needs a shadow of what the device may reach.
nic.attach({
  kind: "map",
  granularity: "page",
  map: (iovaPfn, pageCount, gpaPfn) => console.log(`map ${iovaPfn}+${pageCount} -> ${gpaPfn}`),
  unmap: (iovaPfn, pageCount) => console.log(`unmap ${iovaPfn}+${pageCount}`),
});

tables.map(16, 4, 512, Access.read);
await backend.invalidate(tables); // map 16+4 -> 512
console.log(nic.dma.read(16 * 4096, new Uint8Array(64))); // true
console.log(nic.dma.write(16 * 4096, new Uint8Array(64))); // 00:03.0: no right, then false

tables.unmap(17, 1);
await backend.invalidate(tables); // unmap 17+1, and nothing else

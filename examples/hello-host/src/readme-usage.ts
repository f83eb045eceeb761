import { BufferMemory, sourceId } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { MemoryContainer, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";

// The host: 16 MiB of memory, a VT-d unit, a disk at 00:03.0, and a notifier that mirrors what the disk may reach.
const ram = new Uint8Array(16 * 2 ** 20);
const memory = new BufferMemory([{ firstPfn: 0, bytes: ram }]);
const unit = new VtdIommu({ memory, cachingMode: true, msi: (message) => console.log(message) });
const disk = unit.addressSpace(sourceId(0, 3, 0));
const container = new MemoryContainer(type1v2);
disk.attach(new VfioNotifier(container)); // to flush a cache instead: disk.attach(new CacheNotifier(disk));

// The guest: for 00:03.0 a table of three levels, which maps page 5 to page 9; then it switches translation on.
memory.writeWord(0x10000, 0x11001); // root-entry of bus 0: context table at 0x11000
memory.writeWord(0x11180, 0x12001); // context-entry of 00:03.0: tables at 0x12000,
memory.writeWord(0x11188, 0x101); //   domain 1, three levels
memory.writeWord(0x12000, 0x13003); // readable, writable: next table at 0x13000,
memory.writeWord(0x13000, 0x14003); //   the last one at 0x14000
memory.writeWord(0x14028, 0x9003); // entry 5: page 9
unit.mmio.write64(0x20, 0x10000n); // root table address
unit.mmio.write32(0x18, 0x4000_0000); // global command: set root table
unit.mmio.write32(0x18, 0x8000_0000); // global command: enable translation

console.log([...container.entries()]); // [ { iovaPfn: 5, pageCount: 1, gpaPfn: 9, access: 3 } ]
console.log(disk.dma.write(0x5010, new TextEncoder().encode("hello"))); // true
console.log(new TextDecoder().decode(ram.subarray(0x9010, 0x9015))); // hello

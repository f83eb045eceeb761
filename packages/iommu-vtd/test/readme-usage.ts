import { BufferMemory, sourceId } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";

const memory = new BufferMemory([{ firstPfn: 0, bytes: new Uint8Array(64 << 20) }]);
const unit = new VtdIommu({
  memory,
  msi: ({ address, data }) => console.log(`message ${address.toString(16)}: ${data.toString(16)}`),
  cachingMode: true, // the guest announces every change: what MAP notifiers need
});

// The guest's CPU reaches the register block (usually at 0xfed90000).
console.log(`CAP ${unit.mmio.read64(0x08).toString(16)}`);
unit.mmio.write32(0x18, 0); // GCMD

// A device gets memory of the same shape as RAM; addresses are IOVAs.
const disk = unit.addressSpace(sourceId(0, 3, 0));
disk.dma.write(0x1000, Uint8Array.of(1, 2, 3));
unit.events.on("fault", ({ space, address, cause }) =>
  console.log(`${space.label} at 0x${address.toString(16)}: ${cause}`),
);

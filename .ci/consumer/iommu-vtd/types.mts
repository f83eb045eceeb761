import type { GuestMemory, Iommu } from "@iommu-kit/iommu-core";
import { container, IOMMU, MSI_SINK } from "@iommu-kit/iommu-core/di";
import { VtdIommu, type VtdOptions } from "@iommu-kit/iommu-vtd";
import { buildDmar } from "@iommu-kit/iommu-vtd/acpi";
import { registerVtdIommu, VTD_IOMMU } from "@iommu-kit/iommu-vtd/di";

declare const memory: GuestMemory;

const options: VtdOptions = {
  memory,
  msi: ({ address, data }) => void (address + data),
  cachingMode: true,
  addressWidths: [48],
};
const unit = new VtdIommu(options);
export const iommu: Iommu = unit;
export const status: number = unit.mmio.read32(0x1c);
export const dmar: Uint8Array = buildDmar({ hostAddressWidth: 48, units: [] });

container.register(MSI_SINK, { useValue: ({ data }) => void data });
registerVtdIommu(container, { addressWidths: [39, 48] });
export const resolved: VtdIommu = container.resolve(VTD_IOMMU);
export const asIommu: Iommu = container.resolve(IOMMU);

// @ts-expect-error table widths are 39, 48 or 57
export const wrong = new VtdIommu({ memory, msi: () => undefined, addressWidths: [40] });

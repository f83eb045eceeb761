import { BufferMemory } from "@iommu-kit/iommu-core";
import { createMachineContainer, GUEST_MEMORY, IOMMU, MSI_SINK } from "@iommu-kit/iommu-core/di";
import { describe, expect, it } from "vitest";
import { registerVtdIommu, VTD_IOMMU } from "../src/di.js";

function machine(): ReturnType<typeof createMachineContainer> {
  const container = createMachineContainer();
  container.register(GUEST_MEMORY, {
    useValue: new BufferMemory([{ firstPfn: 0, bytes: new Uint8Array(4096) }]),
  });
  container.register(MSI_SINK, { useValue: () => undefined });
  return container;
}

describe("registerVtdIommu", () => {
  it("gives one unit for a machine, whichever token asks for it", () => {
    const container = machine();
    registerVtdIommu(container, { cachingMode: true });
    const unit = container.resolve(VTD_IOMMU);
    expect(container.resolve(VTD_IOMMU)).toBe(unit);
    expect(container.resolve(IOMMU)).toBe(unit);
    expect(unit.config.cachingMode).toBe(true);
  });

  it("gives each machine a unit of its own", () => {
    const units = [machine(), machine()].map((container) => {
      registerVtdIommu(container);
      return container.resolve(VTD_IOMMU);
    });
    expect(units[0]).not.toBe(units[1]);
  });

  it("says what has to be registered first", () => {
    const container = createMachineContainer();
    registerVtdIommu(container);
    expect(() => container.resolve(VTD_IOMMU)).toThrow(/GUEST_MEMORY/);
  });
});

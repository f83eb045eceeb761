import assert from "node:assert/strict";
import { container, createMachineContainer, GUEST_MEMORY, IOMMU, MSI_SINK } from "@iommu-kit/iommu-core/di";
import * as testing from "@iommu-kit/iommu-core/testing";
import { registerVtdIommu, VTD_IOMMU } from "@iommu-kit/iommu-vtd/di";
import { host, scenario } from "./scenario.mjs";

registerVtdIommu(container, { cachingMode: true });

function makeMachine() {
  const machine = createMachineContainer();
  const { memory, msi } = host(testing);
  machine.register(GUEST_MEMORY, { useValue: memory });
  machine.register(MSI_SINK, { useValue: msi });
  return { machine, memory };
}

const { machine, memory } = makeMachine();
const unit = machine.resolve(VTD_IOMMU);
assert.equal(machine.resolve(VTD_IOMMU), unit, "one machine has one unit");
assert.equal(machine.resolve(IOMMU), unit, "which is the one that others ask for");
assert.notEqual(makeMachine().machine.resolve(VTD_IOMMU), unit, "another machine has its own");
scenario(unit, memory, testing);

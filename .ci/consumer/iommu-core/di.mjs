import assert from "node:assert/strict";
import * as core from "@iommu-kit/iommu-core";
import {
  BACKEND,
  container,
  createMachineContainer,
  GUEST_MEMORY,
  IOMMU,
  registerBackendIommu,
} from "@iommu-kit/iommu-core/di";
import * as testing from "@iommu-kit/iommu-core/testing";
import { useIommu } from "./scenario.mjs";

registerBackendIommu(container);

function makeMachine() {
  const machine = createMachineContainer();
  const memory = new testing.FakeMemory();
  const backend = new testing.SimpleBackend();
  machine.register(GUEST_MEMORY, { useValue: memory });
  machine.register(BACKEND, { useValue: backend });
  return { machine, memory, backend };
}

const { machine, memory, backend } = makeMachine();
const iommu = machine.resolve(IOMMU);
assert.equal(machine.resolve(IOMMU), iommu, "one machine has one unit");
assert.notEqual(makeMachine().machine.resolve(IOMMU), iommu, "another machine has its own");
useIommu(iommu, { memory, backend }, core, testing);

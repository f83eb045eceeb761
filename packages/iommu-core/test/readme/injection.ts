import { BACKEND, createMachineContainer, GUEST_MEMORY, IOMMU, registerBackendIommu } from "@iommu-kit/iommu-core/di";
import { FakeMemory, SimpleBackend } from "@iommu-kit/iommu-core/testing";

const machine = createMachineContainer();
machine.register(GUEST_MEMORY, { useValue: new FakeMemory() });
machine.register(BACKEND, { useValue: new SimpleBackend() });
registerBackendIommu(machine);
const unit = machine.resolve(IOMMU);
console.log(machine.resolve(IOMMU) === unit); // true

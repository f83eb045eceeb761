/** A machine by awilix instead of tsyringe: a scope is the machine, constructors are all that is needed of the packages, and the notifier is one registration. */

import { type AddressSpace, BufferMemory, type GuestMemory, type Notifier, sourceId } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { CacheNotifier } from "@iommu-kit/notifier-cache";
import { MemoryContainer, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";
import { asFunction, type AwilixContainer, createContainer } from "awilix";

/** What a machine is made of. */
export interface Machine {
  readonly memory: GuestMemory;
  readonly unit: VtdIommu;
  readonly disk: AddressSpace;
  readonly notifier: Notifier;
}

const program = createContainer<Machine>({ injectionMode: "PROXY", strict: true });
program.register({
  memory: asFunction(() => new BufferMemory([{ firstPfn: 0, bytes: new Uint8Array(2 ** 24) }])).scoped(),
  unit: asFunction(({ memory }: Machine) => new VtdIommu({ memory, msi: () => undefined, cachingMode: true })).scoped(),
  disk: asFunction(({ unit }: Machine) => unit.addressSpace(sourceId(0, 3, 0))).scoped(),
});

/** The two notifiers that a host may choose from. */
export const choices = {
  mirror: () => new VfioNotifier(new MemoryContainer(type1v2)),
  cache: ({ disk }: Machine) => new CacheNotifier(disk),
};

/** Makes a machine. `choice` is the one line in which two machines differ. */
export function makeMachine(choice: (machine: Machine) => Notifier): AwilixContainer<Machine> {
  const machine = program.createScope();
  machine.register({ notifier: asFunction(choice).scoped() });
  machine.cradle.disk.attach(machine.cradle.notifier);
  return machine;
}

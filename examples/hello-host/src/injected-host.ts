/** The same host by dependency injection: a child container of tsyringe is the machine, and which notifier it has is one registration. */

import {
  createMachineContainer,
  GUEST_MEMORY,
  type InjectionToken,
  IOMMU,
  MSI_SINK,
  registerPerContainer,
} from "@iommu-kit/iommu-core/di";
import { BufferMemory, type Notifier } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { CACHE_NOTIFIER, registerCacheNotifier } from "@iommu-kit/notifier-cache/di";
import { registerVfioNotifier, VFIO_NOTIFIER } from "@iommu-kit/notifier-vfio/di";
import { DISK, type Host, RAM_BYTES } from "./host.js";

/** The unit with its registers; whoever needs no registers asks for `IOMMU`. */
const UNIT: InjectionToken<VtdIommu> = Symbol.for("@iommu-kit/hello-host/Unit");
/** What follows the disk in this machine. */
const NOTIFIER: InjectionToken<Notifier> = Symbol.for("@iommu-kit/hello-host/Notifier");

/** The two notifiers that a host may choose from. */
export const choices = { mirror: VFIO_NOTIFIER, cache: CACHE_NOTIFIER };

/** Makes a host. `choice` is the one line in which two hosts differ. */
export function makeInjectedHost(choice: (typeof choices)[keyof typeof choices]): Host {
  const machine = createMachineContainer();
  const ram = new Uint8Array(RAM_BYTES);
  const memory = new BufferMemory([{ firstPfn: 0, bytes: ram }]);
  machine.register(GUEST_MEMORY, { useValue: memory });
  machine.register(MSI_SINK, { useValue: () => undefined });
  registerPerContainer(machine, UNIT, (from) => {
    return new VtdIommu({ memory: from.resolve(GUEST_MEMORY), msi: from.resolve(MSI_SINK), cachingMode: true });
  });
  machine.register(IOMMU, { useToken: UNIT });
  registerVfioNotifier(machine);
  registerCacheNotifier(machine, { sourceId: DISK });
  machine.register(NOTIFIER, { useToken: choice });

  const unit = machine.resolve(UNIT);
  const disk = machine.resolve(IOMMU).addressSpace(DISK);
  const notifier = machine.resolve(NOTIFIER);
  disk.attach(notifier);
  return { ram, memory, unit, disk, notifier };
}

/** The same host by dependency injection: a child container of tsyringe is the machine, and which notifier it has is one registration. */

import { createMachineContainer, GUEST_MEMORY, type InjectionToken, IOMMU, MSI_SINK } from "@iommu-kit/iommu-core/di";
import { BufferMemory, type Notifier } from "@iommu-kit/iommu-core";
import { registerVtdIommu, VTD_IOMMU } from "@iommu-kit/iommu-vtd/di";
import { CACHE_NOTIFIER, registerCacheNotifier } from "@iommu-kit/notifier-cache/di";
import { registerVfioNotifier, VFIO_NOTIFIER } from "@iommu-kit/notifier-vfio/di";
import { DISK, type Host, RAM_BYTES } from "./host.js";

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
  registerVtdIommu(machine, { cachingMode: true });
  registerVfioNotifier(machine);
  registerCacheNotifier(machine, { sourceId: DISK });
  machine.register(NOTIFIER, { useToken: choice });

  const unit = machine.resolve(VTD_IOMMU);
  const disk = machine.resolve(IOMMU).addressSpace(DISK);
  const notifier = machine.resolve(NOTIFIER);
  disk.attach(notifier);
  return { ram, memory, unit, disk, notifier };
}

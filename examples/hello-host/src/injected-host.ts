/** The same host by dependency injection: a child container of tsyringe is the machine, and which notifier it has is one registration. */

import { CACHE_NOTIFIER, container, type InjectionToken, registerCacheNotifier } from "@iommu-kit/notifier-cache/di";
import { registerVfioNotifier, VFIO_NOTIFIER } from "@iommu-kit/notifier-vfio/di";
import { BufferMemory, type Iommu, type Notifier } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { DISK, type Host, RAM_BYTES } from "./host.js";

/** What follows the disk in this machine. */
const NOTIFIER: InjectionToken<Notifier> = Symbol.for("@iommu-kit/hello-host/Notifier");
const IOMMU: InjectionToken<Iommu> = Symbol.for("@iommu-kit/iommu-core/Iommu");

/** The two notifiers that a host may choose from. */
export const choices = { mirror: VFIO_NOTIFIER, cache: CACHE_NOTIFIER };

/** Makes a host. `choice` is the one line in which two hosts differ. */
export function makeInjectedHost(choice: (typeof choices)[keyof typeof choices]): Host {
  const machine = container.createChildContainer();
  const ram = new Uint8Array(RAM_BYTES);
  const memory = new BufferMemory([{ firstPfn: 0, bytes: ram }]);
  const unit = new VtdIommu({ memory, cachingMode: true, msi: () => undefined });
  machine.register(IOMMU, { useValue: unit });
  registerVfioNotifier(machine);
  registerCacheNotifier(machine, { sourceId: DISK });
  machine.register(NOTIFIER, { useToken: choice });

  const disk = machine.resolve(IOMMU).addressSpace(DISK);
  const notifier = machine.resolve(NOTIFIER);
  disk.attach(notifier);
  return { ram, memory, unit, disk, notifier };
}

/** The host, written with `new`: memory, a unit, one device, and whatever notifier its maker chose. */

import { type AddressSpace, BufferMemory, type Notifier, sourceId } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";

/** A machine with a disk behind the unit. */
export interface Host {
  readonly ram: Uint8Array;
  readonly memory: BufferMemory;
  readonly unit: VtdIommu;
  readonly disk: AddressSpace;
  readonly notifier: Notifier;
}

/** The disk's place on bus 0. */
export const DISK = sourceId(0, 3, 0);
/** 16 MiB. */
export const RAM_BYTES = 16 * 2 ** 20;

/** Makes a host. `notifierOf` is the one line in which two hosts differ. */
export function makeHost(notifierOf: (disk: AddressSpace) => Notifier): Host {
  const ram = new Uint8Array(RAM_BYTES);
  const memory = new BufferMemory([{ firstPfn: 0, bytes: ram }]);
  const unit = new VtdIommu({ memory, cachingMode: true, msi: () => undefined });
  const disk = unit.addressSpace(DISK);
  const notifier = notifierOf(disk);
  disk.attach(notifier);
  return { ram, memory, unit, disk, notifier };
}

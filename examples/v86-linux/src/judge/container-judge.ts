/**
 * The shipped VFIO notifier under the same judge: its container, with the rules of Linux's type1v2, must give at every DMA what a fresh walk gives.
 *
 * The container refuses what the kernel's would refuse (a map over an entry, an unmap that cuts one); a refusal that matters shows as a mismatch or as a
 * failed attachment.
 */

import { Access, type AddressSpace } from "@iommu-kit/iommu-core";
import { MemoryContainer, type1v2, VfioNotifier } from "@iommu-kit/notifier-vfio";
import type { DmaObserver } from "../adapter/device-dma.js";
import type { FreshWalk } from "./fresh-walk.js";

/** What was counted. */
export interface ContainerCounters {
  /** Pages looked at, one for each page of each DMA. */
  checks: number;
  mismatches: number;
}

/** Gives devices a container each, and judges their DMA. */
export class ContainerJudge {
  readonly counters: ContainerCounters = { checks: 0, mismatches: 0 };
  readonly #walk: FreshWalk;
  readonly #containers = new Map<number, MemoryContainer>();
  readonly #target = { gpaPfn: 0, access: Access.none as Access };

  constructor(walk: FreshWalk) {
    this.#walk = walk;
  }

  /**
   * Attaches a notifier with a container of its own.
   * @throws {IommuError} as `AddressSpace.attach`.
   */
  follow(space: AddressSpace): void {
    const container = new MemoryContainer(type1v2);
    new VfioNotifier(container).attachTo(space);
    this.#containers.set(space.sourceId, container);
  }

  /** Asked before each DMA. */
  readonly observer: DmaObserver = (sourceId, address, byteLength) => {
    const container = this.#containers.get(sourceId);
    if (container === undefined) return;
    const lastPfn = Math.floor((address + Math.max(byteLength, 1) - 1) / 4096);
    for (let pfn = Math.floor(address / 4096); pfn <= lastPfn; pfn += 1) {
      this.counters.checks += 1;
      const fresh = this.#walk.reach(sourceId, pfn);
      const held = container.translate(pfn, fresh?.access ?? Access.read, this.#target);
      const same =
        fresh === undefined
          ? !held
          : held && this.#target.gpaPfn === fresh.gpaPfn && this.#target.access === fresh.access;
      if (!same) this.counters.mismatches += 1;
    }
  };
}

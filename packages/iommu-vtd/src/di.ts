/**
 * Dependency injection with tsyringe: one registration for the unit. The classes themselves need none of it (design D3).
 *
 * @packageDocumentation
 */

import {
  GUEST_MEMORY,
  IOMMU,
  MSI_SINK,
  registerPerContainer,
  resolveRequired,
  SCHEDULER,
} from "@iommu-kit/iommu-core/di";
import type { FrameRange, Limits } from "@iommu-kit/iommu-core";
import type { DependencyContainer, InjectionToken } from "tsyringe";
import type { VtdConfig } from "./config.js";
import { VtdIommu } from "./vtd-iommu.js";

/** The unit with its registers. Whoever needs no registers asks for `IOMMU` of iommu-core, which is the same object. */
export const VTD_IOMMU: InjectionToken<VtdIommu> = Symbol.for("@iommu-kit/iommu-vtd/VtdIommu");

/** Decisions about a unit that comes from a container. */
export interface VtdRegistration extends VtdConfig {
  /** See `VtdOptions.regions`: ascending and disjoint. Default: RAM. */
  readonly regions?: readonly FrameRange[];
  /** Budgets and deadlines that differ from the defaults, in the units that their names give. */
  readonly limits?: Partial<Limits>;
}

/**
 * Registers `VTD_IOMMU` and `IOMMU`: a unit on `GUEST_MEMORY` and `MSI_SINK` (and `SCHEDULER`, if there is one), made once for each container that resolves it.
 * Resolving throws an `IommuError` `bad-option` if memory or sink have not been registered, or if the options contradict each other.
 */
export function registerVtdIommu(into: DependencyContainer, options: VtdRegistration = {}): void {
  registerPerContainer(into, VTD_IOMMU, (from) => {
    const memory = resolveRequired(from, GUEST_MEMORY, "GUEST_MEMORY");
    const msi = resolveRequired(from, MSI_SINK, "MSI_SINK");
    const scheduler = from.isRegistered(SCHEDULER, true) ? { scheduler: from.resolve(SCHEDULER) } : {};
    return new VtdIommu({ ...options, ...scheduler, memory, msi });
  });
  into.register(IOMMU, { useToken: VTD_IOMMU });
}

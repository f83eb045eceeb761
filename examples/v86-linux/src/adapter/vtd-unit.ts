/**
 * The VT-d unit as the adapter uses it, and the defaults that suit v86.
 */

import type { AddressSpace, MsiSink, Scheduler } from "@iommu-kit/iommu-core";
import { type VtdConfig, VtdIommu } from "@iommu-kit/iommu-vtd";
import type { RegisterBlock } from "./mmio-page.js";
import type { V86GuestMemory } from "./v86-guest-memory.js";

/** What the adapter supplies to a unit. */
export interface UnitPorts {
  readonly memory: V86GuestMemory;
  readonly msi: MsiSink;
  readonly scheduler: Scheduler;
}

/** The unit as the adapter needs it. */
export interface V86Unit {
  readonly iommu: VtdIommu;
  readonly registers: RegisterBlock;
  /** Where a device behind the unit sends its messages. */
  msiOf(space: AddressSpace): MsiSink;
}

/** v86 has no PCIe, no x2APIC and a 32-bit guest: a unit with interrupt remapping would promise what the machine cannot use. Its processor has 36 address bits. */
const DEFAULTS: VtdConfig = { interruptRemapping: false, hostAddressWidth: 36 };

/**
 * Makes a unit.
 * @throws {IommuError} `bad-option`.
 */
export function createVtdUnit(config: VtdConfig, ports: UnitPorts): V86Unit {
  const iommu = new VtdIommu({ ...DEFAULTS, ...config, ...ports });
  return {
    iommu,
    registers: iommu.mmio,
    msiOf: (space) => (message) => void iommu.interrupt(space.sourceId, message),
  };
}

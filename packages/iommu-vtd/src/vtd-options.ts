/** What a unit is made of. */

import type { FrameRange, GuestMemory, Limits, MsiSink, Scheduler } from "@iommu-kit/iommu-core";
import type { VtdConfig } from "./config.js";

/** What a host supplies, and its decisions about the unit. */
export interface VtdOptions extends VtdConfig {
  /** Guest memory: tables, the queue and what devices reach. */
  readonly memory: GuestMemory;
  /** Receives remapped interrupts and the unit's own events. */
  readonly msi: MsiSink;
  /** Default: the host's timers. */
  readonly scheduler?: Scheduler;
  /** What is mapped onto itself while translation is off or passed through. Default: RAM. */
  readonly regions?: readonly FrameRange[];
  /** Budgets and deadlines that differ from the defaults, in the units that their names give. */
  readonly limits?: Partial<Limits>;
}

/** The host: the recorded machine made of the four packages. Everything that an emulator would do to use them is in this file and device.ts. */

import { type FrameRange, type MsiMessage, PAGE_BYTES } from "@iommu-kit/iommu-core";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import type { Follow } from "../follow/follow.js";
import type { TraceHeader } from "../trace/trace.js";
import { Device } from "./device.js";
import { SparseMemory } from "./sparse-memory.js";
import { TraceScheduler } from "./trace-scheduler.js";
import { unitOptions } from "./unit-options.js";

/** See the file's header. */
export class Machine {
  readonly memory: SparseMemory;
  readonly unit: VtdIommu;
  readonly scheduler = new TraceScheduler();
  /** By source-id. */
  readonly devices: ReadonlyMap<number, Device>;
  /** Interrupts that left the unit and were not looked at yet. */
  readonly messages: MsiMessage[] = [];

  constructor(header: TraceHeader, follow: Follow) {
    const ram: readonly FrameRange[] = header.ram.map(({ start, end }) => ({
      firstPfn: start / PAGE_BYTES,
      pageCount: (end - start) / PAGE_BYTES,
    }));
    this.memory = new SparseMemory(ram);
    this.unit = new VtdIommu({
      ...unitOptions(header),
      memory: this.memory,
      msi: (message) => this.messages.push(message),
      scheduler: this.scheduler,
    });
    this.devices = new Map(
      header.devices.map(({ sourceId, name }) => [
        sourceId,
        new Device(name, this.unit.addressSpace(sourceId), ram, follow),
      ]),
    );
    this.scheduler.runAll();
  }
}

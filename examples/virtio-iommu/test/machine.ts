/** A machine with a device and a driver that has brought it up. */

import { type MsiMessage, parseSourceId } from "@iommu-kit/iommu-core";
import { FakeMemory, ManualScheduler } from "@iommu-kit/iommu-core/testing";
import { GuestDriver } from "../src/guest/guest-driver.js";
import { VirtioIommu, type VirtioIommuOptions } from "../src/virtio-iommu.js";

export const NIC = parseSourceId("00:03.0");
export const DISK = parseSourceId("00:04.0");
/** An endpoint with a doorbell for messages and a reserved range. */
export const GPU = parseSourceId("01:00.0");
/** As on a PC. */
export const DOORBELL = { kind: "msi", firstPfn: 0xfee00, pageCount: 0x100 } as const;
export const RESERVED = { kind: "reserved", firstPfn: 0x200, pageCount: 0x10 } as const;

/** 256 MiB of RAM; the driver's queues lie at 128 MiB. */
export class Machine {
  readonly memory = new FakeMemory();
  readonly scheduler = new ManualScheduler();
  readonly messages: MsiMessage[] = [];
  readonly interrupts: boolean[] = [];
  readonly device: VirtioIommu;
  readonly driver: GuestDriver;

  constructor(options: Partial<VirtioIommuOptions> = {}) {
    this.device = new VirtioIommu({
      memory: this.memory,
      endpoints: [{ sourceId: NIC }, { sourceId: DISK }, { sourceId: GPU, reserved: [DOORBELL, RESERVED] }],
      scheduler: this.scheduler,
      bypass: false,
      msi: (message) => this.messages.push(message),
      interrupt: (level) => {
        this.interrupts.push(level);
        if (level) queueMicrotask(() => this.driver.onInterrupt());
      },
      ...options,
    });
    this.driver = new GuestDriver(this.memory, this.device.mmio, 0x8000);
  }

  /** With its driver up. */
  static booted(options: Partial<VirtioIommuOptions> = {}, features?: bigint): Machine {
    const machine = new Machine(options);
    machine.driver.boot(features);
    return machine;
  }
}

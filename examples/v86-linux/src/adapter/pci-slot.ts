/**
 * A PCI slot of v86 for a device written in TypeScript: one memory BAR, bus-master enable, MSI with a 64-bit address (INTx while MSI is off).
 *
 * The device is made by a function that gets the slot: through it the device reaches memory and raises its interrupt, and cannot tell whether a unit is
 * in between. v86 keeps BARs where they are: the guest can size a BAR but not move it.
 */

import { IommuError, type MsiSink, type SourceId, formatSourceId } from "@iommu-kit/iommu-core";
import type { DeviceMemory } from "./device-dma.js";
import { mapRegisters, type RegisterBlock } from "./mmio-page.js";
import type { V86Cpu } from "./v86-internals.js";

/** Who the device is and where its registers are. */
export interface PciIdentity {
  readonly name: string;
  /** Bus 0. Must be free. */
  readonly sourceId: SourceId;
  readonly vendorId: number;
  readonly deviceId: number;
  /** 24 bits: class, subclass, interface. */
  readonly classCode: number;
  /** Address of BAR 0, a multiple of 128 KiB below 4 GiB; the BAR is 128 KiB large. */
  readonly barGpa: number;
}

/** The device's side of the slot. */
export interface PciSlot {
  /** Memory, as the device reaches it; only while `busMaster`. */
  readonly dma: DeviceMemory;
  /** Whether the guest lets the device start transfers. */
  readonly busMaster: boolean;
  /** Raises the interrupt: a message if the guest has switched MSI on, else the INTx line. */
  raise(): void;
  /** Lowers the INTx line; without effect on messages. */
  lower(): void;
}

/** What a slot leads to: memory and interrupts, raw or behind a unit. */
export interface DevicePorts {
  readonly dma: DeviceMemory;
  readonly msi: MsiSink;
}

const BAR_BYTES = 0x20000;
const CONFIG_BYTES = 256;
const COMMAND_WORD = 1;
const BUS_MASTER = 4;
const INTX_DISABLE = 0x400;
const MSI_CAPABILITY = 0x40;
const MSI_ENABLE = 1;

/**
 * Puts a device into a slot. Answers how to take it out again.
 * @throws {IommuError} `bad-option` if the slot is taken or the BAR is not aligned.
 */
export function plugPciDevice(
  cpu: V86Cpu,
  identity: PciIdentity,
  ports: DevicePorts,
  makeRegisters: (slot: PciSlot) => RegisterBlock,
): () => void {
  const { pci } = cpu.devices;
  if (pci.devices[identity.sourceId] !== undefined) {
    throw new IommuError(
      "bad-option",
      `expected a free slot for ${identity.name}, got ${formatSourceId(identity.sourceId)}, which has a device`,
      { hint: "choose another source-id" },
    );
  }
  if (identity.barGpa % BAR_BYTES !== 0) {
    throw new IommuError("bad-option", `expected a BAR at a multiple of ${BAR_BYTES}, got ${identity.barGpa}`, {
      hint: "v86 maps registers in blocks of 128 KiB",
    });
  }
  const config = pci.register_device({
    pci_id: identity.sourceId,
    pci_space: configurationSpace(identity),
    pci_bars: [{ size: BAR_BYTES }],
    name: identity.name,
  });
  const slot = new Slot(cpu, config, identity.sourceId, ports);
  const unmap = mapRegisters(cpu, identity.barGpa, makeRegisters(slot));
  return () => {
    slot.close();
    unmap();
    pci.devices[identity.sourceId] = undefined;
    pci.device_spaces[identity.sourceId] = undefined;
  };
}

class Slot implements PciSlot {
  readonly dma: DeviceMemory;
  readonly #cpu: V86Cpu;
  readonly #config: Int32Array;
  readonly #sourceId: SourceId;
  readonly #msi: MsiSink;
  #open = true;

  constructor(cpu: V86Cpu, config: Int32Array, sourceId: SourceId, ports: DevicePorts) {
    this.#cpu = cpu;
    this.#config = config;
    this.#sourceId = sourceId;
    this.#msi = ports.msi;
    this.dma = ports.dma;
  }

  get busMaster(): boolean {
    return this.#open && (this.#word(COMMAND_WORD) & BUS_MASTER) !== 0;
  }

  raise(): void {
    if (!this.#open) return;
    const first = MSI_CAPABILITY / 4;
    if ((this.#word(first) & (MSI_ENABLE << 16)) !== 0) {
      this.#msi({
        address: this.#word(first + 1) >>> 0,
        addressHigh: this.#word(first + 2) >>> 0,
        data: this.#word(first + 3) & 0xffff,
      });
    } else if ((this.#word(COMMAND_WORD) & INTX_DISABLE) === 0) {
      this.#cpu.devices.pci.raise_irq(this.#sourceId);
    }
  }

  lower(): void {
    if (this.#open) this.#cpu.devices.pci.lower_irq(this.#sourceId);
  }

  close(): void {
    this.#open = false;
  }

  #word(index: number): number {
    return this.#config[index] ?? 0;
  }
}

/** The 256 bytes that the guest finds at first (PCI Local Bus 3.0, 6.1 and 6.8.1). */
function configurationSpace(identity: PciIdentity): number[] {
  const bytes = new Uint8Array(CONFIG_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint16(0x00, identity.vendorId, true);
  view.setUint16(0x02, identity.deviceId, true);
  view.setUint16(0x06, 0x0010, true); // status: there is a list of capabilities
  view.setUint32(0x08, identity.classCode * 256 + 1, true);
  view.setUint32(0x10, identity.barGpa, true);
  view.setUint16(0x2c, identity.vendorId, true);
  view.setUint16(0x2e, identity.deviceId, true);
  view.setUint8(0x34, MSI_CAPABILITY);
  view.setUint8(0x3d, 1); // INTA
  view.setUint8(MSI_CAPABILITY, 0x05);
  view.setUint16(MSI_CAPABILITY + 2, 0x0080, true); // 64-bit address, one message
  return [...bytes];
}

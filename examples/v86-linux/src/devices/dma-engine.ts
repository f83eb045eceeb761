/**
 * A PCI device of our own: copies between guest memory and 64 KiB of local memory, by the addresses that the guest gives it.
 *
 * It is what an author of a device would write: it knows its slot and nothing of a remapping unit. A transfer runs after the write that starts
 * it, not inside it, as hardware would; STATUS is 0 until it has ended.
 *
 * | offset | register | |
 * |---|---|---|
 * | 0x00 | IDENTITY | 0x00444d41, read-only |
 * | 0x04, 0x08 | ADDRESS | bits 31:0 and 63:32; bits 63:52 are ignored |
 * | 0x0c | LENGTH | bytes, 1 to 65536 |
 * | 0x10 | LOCAL_OFFSET | first byte of local memory |
 * | 0x14 | COMMAND | bit 0: memory to device; bit 1: device to memory; bit 3: interrupt at the end |
 * | 0x18 | STATUS | 0 busy or idle, 1 done, 2 refused, 3 not a bus master, 4 bad length; read-only |
 * | 0x1c | TRANSFERS | transfers done or refused; read-only |
 * | 0x20 | ACKNOWLEDGE | any write lowers the INTx line |
 */

import type { PciIdentity, PciSlot } from "../adapter/pci-slot.js";
import type { RegisterBlock } from "../adapter/mmio-page.js";

/** Where the engine sits: 00:03.0, BAR 0 at 0xF0000000. The vendor is one that is used for such experiments and belongs to nobody. */
export const DMA_ENGINE: PciIdentity = {
  name: "iommu-kit DMA engine",
  sourceId: 0x18,
  vendorId: 0x1234,
  deviceId: 0x6b69,
  classCode: 0xff0000,
  barGpa: 0xf0000000,
};

const IDENTITY = 0x00444d41;
const LOCAL_BYTES = 0x10000;

const Register = {
  identity: 0x00,
  addressLow: 0x04,
  addressHigh: 0x08,
  length: 0x0c,
  localOffset: 0x10,
  command: 0x14,
  status: 0x18,
  transfers: 0x1c,
  acknowledge: 0x20,
} as const;
const Command = { toDevice: 1, fromDevice: 2, interrupt: 8 } as const;
const Status = { busy: 0, done: 1, refused: 2, notBusMaster: 3, badLength: 4 } as const;

/** The device. */
export class DmaEngine implements RegisterBlock {
  readonly byteLength = 0x1000;
  readonly #slot: PciSlot;
  readonly #defer: (task: () => void) => void;
  readonly #local = new Uint8Array(LOCAL_BYTES);
  readonly #registers = new Uint32Array(this.byteLength / 4);

  /** `defer` runs a task later, never before it has returned. */
  constructor(slot: PciSlot, defer: (task: () => void) => void) {
    this.#slot = slot;
    this.#defer = defer;
  }

  read32(offsetBytes: number): number {
    return offsetBytes === Register.identity ? IDENTITY : this.#get(offsetBytes);
  }

  write32(offsetBytes: number, value: number): void {
    switch (offsetBytes) {
      case Register.addressLow:
      case Register.addressHigh:
      case Register.length:
      case Register.localOffset:
        this.#set(offsetBytes, value);
        return;
      case Register.command:
        this.#set(Register.status, Status.busy);
        this.#defer(() => this.#run(value));
        return;
      case Register.acknowledge:
        this.#slot.lower();
    }
  }

  #run(command: number): void {
    const status = this.#transfer(command);
    this.#set(Register.status, status);
    this.#set(Register.transfers, this.#get(Register.transfers) + 1);
    if ((command & Command.interrupt) !== 0) this.#slot.raise();
  }

  #transfer(command: number): number {
    if (!this.#slot.busMaster) return Status.notBusMaster;
    const length = this.#get(Register.length);
    const first = this.#get(Register.localOffset);
    if (length === 0 || first + length > LOCAL_BYTES) return Status.badLength;
    const address = (this.#get(Register.addressHigh) % 2 ** 20) * 2 ** 32 + this.#get(Register.addressLow);
    const local = this.#local.subarray(first, first + length);
    if ((command & Command.toDevice) !== 0 && !this.#slot.dma.read(address, local)) return Status.refused;
    if ((command & Command.fromDevice) !== 0 && !this.#slot.dma.write(address, local)) return Status.refused;
    return Status.done;
  }

  #get(offsetBytes: number): number {
    return this.#registers[offsetBytes / 4] ?? 0;
  }

  #set(offsetBytes: number, value: number): void {
    this.#registers[offsetBytes / 4] = value;
  }
}

/**
 * virtio-mmio (virtio 1.3, §4.2), without the legacy interface: registers, feature negotiation, status, interrupts.
 *
 * A reset completes when the device's notifiers have: until then the status register shows the old value, which is what drivers wait for (§2.4.2).
 */

import { type Completion, type GuestMemory, IommuError, whenDone } from "@iommu-kit/iommu-core";
import { Feature, Interrupt, MAGIC, Register, Status } from "./spec/virtio.js";
import { Virtqueue } from "./virtqueue.js";

/** What a device puts behind the registers. */
export interface VirtioDevice {
  readonly deviceId: number;
  /** Offered, without those of the transport. */
  readonly features: bigint;
  /** The longest request that it reads. */
  readonly readLimit: number;
  /** Before every write of the guest. `false`: a notifier is being called. */
  enter(): boolean;
  /** The configuration space; 0 beyond its end. */
  readConfig(offset: number): number;
  /** One byte of the configuration space. */
  writeConfig(offset: number, value: number): void;
  /** The driver has added buffers to a queue. */
  notified(queue: number): void;
  /** Back to the state before a driver came. */
  reset(): Completion;
}

/** What the host supplies. */
export interface TransportOptions {
  readonly memory: GuestMemory;
  /** The level of the interrupt line has changed. */
  readonly interrupt: (level: boolean) => void;
}

const QUEUE_SIZES = [256, 64] as const;
/** Four characters that name the maker, as in PCI. */
const VENDOR_ID = 0x5449_4b49;

/** The register block. Accesses that the specification does not define read 0 and write nothing. */
export class MmioTransport {
  readonly queues: readonly Virtqueue[];
  /** What the driver has accepted; 0 before FEATURES_OK. */
  accepted = 0n;
  readonly #device: VirtioDevice;
  readonly #offered: bigint;
  readonly #interrupt: (level: boolean) => void;
  #status = 0;
  #resetting = false;
  #interruptStatus = 0;
  #wanted = 0n;
  readonly #selected = { device: 0, driver: 0, queue: 0 };

  constructor(device: VirtioDevice, { memory, interrupt }: TransportOptions) {
    this.#device = device;
    this.#offered = device.features | Feature.VERSION_1 | Feature.INDIRECT_DESC;
    this.#interrupt = interrupt;
    const { readLimit } = device;
    this.queues = QUEUE_SIZES.map(
      (sizeMax) => new Virtqueue({ memory, sizeMax, readLimit, onBroken: () => this.#needsReset() }),
    );
  }

  /** Whether the driver has finished its initialisation and the device may use the queues. */
  get running(): boolean {
    const live = Status.DRIVER_OK | Status.FEATURES_OK;
    return !this.#resetting && (this.#status & live) === live && (this.#status & Status.NEEDS_RESET) === 0;
  }

  /** Raises the line: a buffer was used, or the configuration changed. */
  raise(cause: (typeof Interrupt)[keyof typeof Interrupt]): void {
    const before = this.#interruptStatus;
    this.#interruptStatus |= cause;
    if (before === 0) this.#interrupt(true);
  }

  /** Reads 1, 2 or 4 bytes: registers only 4, the configuration any. */
  read(offset: number, byteLength: 1 | 2 | 4): number {
    if (offset >= Register.CONFIG) {
      let value = 0;
      for (let i = 0; i < byteLength; i++) value += this.#device.readConfig(offset - Register.CONFIG + i) * 256 ** i;
      return value;
    }
    return byteLength === 4 ? this.#readRegister(offset) >>> 0 : 0;
  }

  /**
   * Writes 1, 2 or 4 bytes: registers only 4, the configuration any.
   * @throws {IommuError} `reentrant-call` from inside a notifier's callback: a mistake of the host.
   */
  write(offset: number, byteLength: 1 | 2 | 4, value: number): void {
    if (!this.#device.enter()) {
      throw new IommuError("reentrant-call", "expected register writes from the guest, got one from a notifier", {
        hint: "defer it with queueMicrotask",
      });
    }
    if (offset >= Register.CONFIG) {
      for (let i = 0; i < byteLength; i++)
        this.#device.writeConfig(offset - Register.CONFIG + i, Math.floor((value >>> 0) / 256 ** i) % 256);
    } else if (byteLength === 4 && !this.#resetting) {
      this.#writeRegister(offset, value >>> 0);
    }
  }

  /** As the driver's write of 0 to the status register. */
  reset(): Completion {
    for (const queue of this.queues) queue.reset();
    Object.assign(this.#selected, { device: 0, driver: 0, queue: 0 });
    this.#wanted = 0n;
    this.accepted = 0n;
    this.#acknowledge(~0);
    const done = this.#device.reset();
    this.#resetting = true;
    whenDone(done, () => {
      this.#resetting = false;
      this.#status = 0;
    });
    return done;
  }

  #readRegister(offset: number): number {
    const queue = this.queues[this.#selected.queue];
    switch (offset) {
      case Register.MAGIC:
        return MAGIC;
      case Register.VERSION:
        return 2;
      case Register.DEVICE_ID:
        return this.#device.deviceId;
      case Register.VENDOR_ID:
        return VENDOR_ID;
      case Register.DEVICE_FEATURES:
        return wordOf(this.#offered, this.#selected.device);
      case Register.QUEUE_SIZE_MAX:
        return queue?.sizeMax ?? 0;
      case Register.QUEUE_READY:
        return queue?.ready === true ? 1 : 0;
      case Register.INTERRUPT_STATUS:
        return this.#interruptStatus;
      case Register.STATUS:
        return this.#status;
      default:
        return 0;
    }
  }

  #writeRegister(offset: number, value: number): void {
    switch (offset) {
      case Register.DEVICE_FEATURES_SEL:
        this.#selected.device = value;
        break;
      case Register.DRIVER_FEATURES_SEL:
        this.#selected.driver = value;
        break;
      case Register.DRIVER_FEATURES:
        this.#choose(value);
        break;
      case Register.QUEUE_SEL:
        this.#selected.queue = value;
        break;
      case Register.QUEUE_NOTIFY:
        if (this.running) this.#device.notified(value);
        break;
      case Register.INTERRUPT_ACK:
        this.#acknowledge(value);
        break;
      case Register.STATUS:
        if (value === 0) void this.reset();
        else this.#setStatus(value);
        break;
      default:
        this.#writeQueue(offset, value);
    }
  }

  #writeQueue(offset: number, value: number): void {
    const queue = this.queues[this.#selected.queue];
    if (queue === undefined) return;
    if (offset === Register.QUEUE_READY) {
      queue.ready = (value & 1) === 1 && queue.size > 0;
      return;
    }
    if (queue.ready) return;
    if (offset === Register.QUEUE_SIZE) {
      // §2.7: a power of two.
      queue.size = value <= queue.sizeMax && (value & (value - 1)) === 0 ? value : 0;
    }
    for (const [at, name] of [
      [Register.QUEUE_DESC, "descGpa"],
      [Register.QUEUE_DRIVER, "driverGpa"],
      [Register.QUEUE_DEVICE, "deviceGpa"],
    ] as const) {
      if (offset === at) queue[name] = Math.floor(queue[name] / 2 ** 32) * 2 ** 32 + value;
      if (offset === at + 4) queue[name] = value * 2 ** 32 + (queue[name] % 2 ** 32);
    }
  }

  /** Features are chosen word by word, until FEATURES_OK. */
  #choose(value: number): void {
    const { driver: word } = this.#selected;
    if (word > 1 || (this.#status & Status.FEATURES_OK) !== 0) return;
    const shift = BigInt(word * 32);
    this.#wanted = (this.#wanted & ~(0xffff_ffffn << shift)) | (BigInt(value) << shift);
  }

  /** §3.1.1: FEATURES_OK stays clear if the choice is not acceptable; a driver of the legacy interface never gets further. */
  #setStatus(value: number): void {
    let next = value | (this.#status & Status.NEEDS_RESET);
    if ((next & ~this.#status & Status.FEATURES_OK) !== 0) {
      const isSubset = (this.#wanted & ~this.#offered) === 0n;
      if (isSubset && (this.#wanted & Feature.VERSION_1) !== 0n) this.accepted = this.#wanted;
      else next &= ~Status.FEATURES_OK;
    }
    this.#status = next;
  }

  #acknowledge(bits: number): void {
    const before = this.#interruptStatus;
    this.#interruptStatus &= ~bits;
    if (before !== 0 && this.#interruptStatus === 0) this.#interrupt(false);
  }

  #needsReset(): void {
    this.#status |= Status.NEEDS_RESET;
    if ((this.#status & Status.DRIVER_OK) !== 0) this.raise(Interrupt.CONFIGURATION);
  }
}

function wordOf(features: bigint, word: number): number {
  return word > 1 ? 0 : Number((features >> BigInt(word * 32)) & 0xffff_ffffn);
}

/**
 * Gives a v86 emulator a VT-d unit: registers, the firmware table that announces them, DMA of its devices through the unit, and interrupts.
 *
 * Call it after the event "emulator-loaded" and before `run()`: firmware reads its tables once. Everything is kept per emulator; several emulators in
 * one process, each with a unit of its own, do not know of each other.
 */

import { type AddressSpace, IommuError, type Scheduler, type SourceId, timerScheduler } from "@iommu-kit/iommu-core";
import type { VtdConfig } from "@iommu-kit/iommu-vtd";
import { buildDmar } from "@iommu-kit/iommu-vtd/acpi";
import {
  type DeviceMemory,
  type DmaCounters,
  type DmaObserver,
  newCounters,
  observed,
  redirect,
  translatedCpu,
} from "./device-dma.js";
import { localApicMsi, type MsiCounters } from "./local-apic-msi.js";
import { mapRegisters, type RegisterBlock } from "./mmio-page.js";
import { type PciIdentity, type PciSlot, plugPciDevice } from "./pci-slot.js";
import { checkVirtio, internalsOf, type V86Cpu, type V86DmaUser, type V86Emulator } from "./v86-internals.js";
import { createVtdUnit, type V86Unit } from "./vtd-unit.js";
import { V86GuestMemory } from "./v86-guest-memory.js";

/** v86's own devices that do DMA, by the names v86 has for them. */
export type V86DeviceName = "ide" | "virtio_9p" | "virtio_net" | "virtio_console" | "virtio_balloon";

/** How to attach. */
export interface AttachIommuOptions {
  /** What the unit can do. The default is what suits v86: see `vtd-unit.ts`. */
  readonly unit?: VtdConfig;
  /** Address of the registers: above RAM and below 4 GiB, a multiple of 4096, in a 128 KiB block that nothing else of v86 uses. Default 0xFED90000, where chipsets have it. */
  readonly registerGpa?: number;
  /** Devices that go on reaching memory directly, as if the machine had forgotten to put them behind the unit. Default: none. */
  readonly bypass?: readonly V86DeviceName[];
  /**
   * Virtio devices that do not say that their DMA is subject to the platform's remapping (VIRTIO_F_ACCESS_PLATFORM): their drivers give them physical
   * addresses, which the unit then refuses. Default: none.
   */
  readonly withoutAccessPlatform?: readonly V86DeviceName[];
  /** Hears of every DMA of every device behind the unit, before it is made. Costs nothing when left out. */
  readonly onDma?: DmaObserver;
  /** Hears of every 32-bit write to the unit's registers, before it takes effect. */
  readonly onRegisterWrite?: (offsetBytes: number, value: number) => void;
  /** Work of the unit that is done later. Default: the host's timers. */
  readonly scheduler?: Scheduler;
}

/** One of v86's devices behind the unit. */
export interface AttachedDevice {
  readonly name: V86DeviceName;
  readonly space: AddressSpace;
  readonly counters: DmaCounters;
}

/** An emulator with a unit. */
export interface AttachedIommu {
  readonly unit: V86Unit;
  readonly memory: V86GuestMemory;
  readonly devices: readonly AttachedDevice[];
  readonly interrupts: MsiCounters;
  /** Source-ids of every function on the bus now, whether or not it does DMA. */
  readonly pciFunctions: readonly SourceId[];
  /** Those of them that `plug` put there. */
  readonly pluggedFunctions: readonly SourceId[];
  /**
   * Puts a device of the host's own behind the unit. Answers how to take it out again.
   * @throws {IommuError} `bad-option` if the slot is taken.
   */
  plug(identity: PciIdentity, makeRegisters: (slot: PciSlot) => RegisterBlock): () => void;
  /** Takes everything back: devices reach memory directly, the registers and the firmware table are gone. The guest should not be running. */
  detach(): void;
}

const DEFAULT_REGISTER_GPA = 0xfed90000;
const FIRMWARE_NAME = "acpi/dmar";
const VIRTIO_NAMES = ["virtio_9p", "virtio_net", "virtio_console", "virtio_balloon"] as const;
/** Bit 33 of the features, in word 1. */
const ACCESS_PLATFORM = 2;

/**
 * Attaches a unit to a loaded emulator.
 * @throws {IommuError} `not-supported` if this v86 lacks a part that the adapter needs, `already-attached` if the emulator has a unit, `bad-option`. The emulator is then as it was.
 */
export function attachIommu(emulator: V86Emulator, options: AttachIommuOptions): AttachedIommu {
  const cpu = internalsOf(emulator);
  if (cpu.option_roms.some(({ name }) => name === FIRMWARE_NAME)) {
    throw new IommuError(
      "already-attached",
      "expected an emulator without a remapping unit, got one that has a DMAR table",
      { hint: "detach the other unit first" },
    );
  }
  return new V86Attachment(cpu, options);
}

class V86Attachment implements AttachedIommu {
  readonly unit: V86Unit;
  readonly memory: V86GuestMemory;
  readonly devices: readonly AttachedDevice[];
  readonly interrupts: MsiCounters;
  readonly #cpu: V86Cpu;
  readonly #onDma: DmaObserver | undefined;
  readonly #undo: (() => void)[] = [];
  readonly #plugged = new Set<SourceId>();

  constructor(cpu: V86Cpu, options: AttachIommuOptions) {
    const registerGpa = options.registerGpa ?? DEFAULT_REGISTER_GPA;
    this.#cpu = cpu;
    this.#onDma = options.onDma;
    // Everything that can be refused comes before anything that shows in the emulator.
    const found = dmaUsers(cpu);
    this.memory = new V86GuestMemory(cpu);
    // The guest waits for its interrupts: a microtask runs as soon as v86 returns to the event loop, a timer a millisecond later.
    const apic = localApicMsi(cpu, queueMicrotask);
    this.#undo.push(() => apic.close());
    this.interrupts = apic.counters;
    this.unit = createVtdUnit(options.unit ?? {}, {
      memory: this.memory,
      msi: apic.sink,
      scheduler: options.scheduler ?? timerScheduler,
    });
    checkPlace(cpu, registerGpa, this.unit.registers.byteLength);
    const table = buildDmar({
      hostAddressWidth: this.unit.iommu.config.hostAddressWidth,
      units: [{ registerGpa, includeAll: true }],
    });
    this.#undo.push(mapRegisters(cpu, registerGpa, watched(this.unit.registers, options.onRegisterWrite)));
    this.#resetWithMachine();
    this.#addFirmwareTable(table);
    const bypass = new Set(options.bypass ?? []);
    this.#offerAccessPlatform(new Set(options.withoutAccessPlatform ?? []));
    this.devices = found.flatMap(({ name, sourceId, users }) =>
      bypass.has(name) ? [] : [this.#putBehind(name, sourceId, users)],
    );
  }

  get pluggedFunctions(): readonly SourceId[] {
    return [...this.#plugged];
  }

  get pciFunctions(): readonly SourceId[] {
    return this.#cpu.devices.pci.devices.flatMap((device, sourceId) => (device === undefined ? [] : [sourceId]));
  }

  plug(identity: PciIdentity, makeRegisters: (slot: PciSlot) => RegisterBlock): () => void {
    const space = this.unit.iommu.addressSpace(identity.sourceId);
    const unplug = plugPciDevice(
      this.#cpu,
      identity,
      { dma: this.#memoryOf(space), msi: this.unit.msiOf(space) },
      makeRegisters,
    );
    const once = (): void => {
      const index = this.#undo.indexOf(once);
      if (index < 0) return;
      this.#undo.splice(index, 1);
      unplug();
      this.#plugged.delete(identity.sourceId);
      void space.unplug();
    };
    this.#undo.push(once);
    this.#plugged.add(identity.sourceId);
    return once;
  }

  detach(): void {
    for (const undo of [...this.#undo].reverse()) undo();
    this.#undo.length = 0;
    for (const { space } of this.devices) void space.unplug();
  }

  #memoryOf(space: AddressSpace): DeviceMemory {
    return this.#onDma === undefined ? space.dma : observed(space.dma, space.sourceId, this.#onDma);
  }

  /** A guest that resets the machine finds the unit reset as well: firmware and a new kernel would not expect translation to be on. */
  #resetWithMachine(): void {
    const cpu = this.#cpu;
    const reboot = cpu.reboot_internal.bind(cpu);
    cpu.reboot_internal = () => {
      reboot();
      void this.unit.iommu.reset();
    };
    // What is left then is v86's own, on its prototype.
    this.#undo.push(() => Reflect.deleteProperty(cpu, "reboot_internal"));
  }

  #addFirmwareTable(data: Uint8Array): void {
    const file = { name: FIRMWARE_NAME, data };
    this.#cpu.option_roms.push(file);
    this.#undo.push(() => this.#cpu.option_roms.splice(this.#cpu.option_roms.indexOf(file), 1));
  }

  #offerAccessPlatform(except: ReadonlySet<V86DeviceName>): void {
    for (const name of VIRTIO_NAMES) {
      const virtio = this.#cpu.devices[name]?.virtio;
      if (virtio === undefined || except.has(name)) continue;
      const words = [virtio.device_feature, virtio.driver_feature];
      for (const word of words) word[1] = (word[1] ?? 0) | ACCESS_PLATFORM;
      this.#undo.push(() => {
        for (const word of words) word[1] = (word[1] ?? 0) & ~ACCESS_PLATFORM;
      });
    }
  }

  #putBehind(name: V86DeviceName, sourceId: number, users: readonly V86DmaUser[]): AttachedDevice {
    const space = this.unit.iommu.addressSpace(sourceId);
    const counters = newCounters();
    this.#undo.push(
      redirect(users, translatedCpu(this.#cpu, this.#memoryOf(space), counters, name === "ide" ? 0xff : 0x00)),
    );
    return { name, space, counters };
  }
}

function checkPlace(cpu: V86Cpu, registerGpa: number, byteLength: number): void {
  const ramBytes = cpu.memory_size[0] ?? 0;
  if (registerGpa % byteLength === 0 && registerGpa >= ramBytes && registerGpa + byteLength <= 2 ** 32) return;
  throw new IommuError(
    "bad-option",
    `registerGpa: expected a multiple of 0x${byteLength.toString(16)} above RAM (0x${ramBytes.toString(16)}) and below 4 GiB, got 0x${registerGpa.toString(16)}`,
    { hint: "leave it out for 0xfed90000, where chipsets have it" },
  );
}

/** `registers` with an ear in front of them. */
function watched(registers: RegisterBlock, onWrite: AttachIommuOptions["onRegisterWrite"]): RegisterBlock {
  if (onWrite === undefined) return registers;
  return {
    byteLength: registers.byteLength,
    read32: (offsetBytes) => registers.read32(offsetBytes),
    write32: (offsetBytes, value) => {
      onWrite(offsetBytes, value);
      registers.write32(offsetBytes, value);
    },
  };
}

interface DmaUsers {
  readonly name: V86DeviceName;
  readonly sourceId: number;
  readonly users: readonly V86DmaUser[];
}

/** Every place in this emulator that does DMA. */
function dmaUsers(cpu: V86Cpu): readonly DmaUsers[] {
  const found: DmaUsers[] = [];
  const { ide } = cpu.devices;
  if (ide?.pci_id !== undefined) {
    const drives = [ide.primary?.master, ide.primary?.slave, ide.secondary?.master, ide.secondary?.slave];
    found.push({ name: "ide", sourceId: ide.pci_id, users: drives.filter((drive) => drive !== undefined) });
  }
  for (const name of VIRTIO_NAMES) {
    const device = cpu.devices[name];
    if (device === undefined) continue;
    checkVirtio(name, device);
    found.push({ name, sourceId: device.virtio.pci_id, users: device.virtio.queues });
  }
  return found;
}

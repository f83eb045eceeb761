/**
 * Gives a v86 emulator a VT-d unit: registers, the firmware table that announces them, DMA of its devices through the unit, and interrupts.
 *
 * Call it after the event "emulator-loaded" and before `run()`: firmware reads its tables once. Everything is kept per emulator; several emulators in
 * one process, each with a unit of its own, do not know of each other.
 */

import { type AddressSpace, type Iommu, IommuError, type MsiSink, type Scheduler, timerScheduler } from "@iommu-kit/iommu-core";
import { buildDmar } from "@iommu-kit/iommu-vtd/acpi";
import { type DmaCounters, newCounters, redirect, translatedCpu } from "./device-dma.js";
import { localApicMsi, type MsiCounters } from "./local-apic-msi.js";
import { mapRegisters, type RegisterBlock } from "./mmio-page.js";
import { type PciIdentity, type PciSlot, plugPciDevice } from "./pci-slot.js";
import { checkVirtio, internalsOf, type V86Cpu, type V86DmaUser, type V86Emulator } from "./v86-internals.js";
import { V86GuestMemory } from "./v86-guest-memory.js";

/** v86's own devices that do DMA, by the names v86 has for them. */
export type V86DeviceName = "ide" | "virtio_9p" | "virtio_net" | "virtio_console" | "virtio_balloon";

/** The unit as the adapter needs it. */
export interface V86Unit {
  readonly iommu: Iommu;
  readonly registers: RegisterBlock;
  /** Where a device behind the unit sends its messages. */
  msiOf(space: AddressSpace): MsiSink;
}

/** What the adapter supplies to a unit. */
export interface UnitPorts {
  readonly memory: V86GuestMemory;
  readonly msi: MsiSink;
  readonly scheduler: Scheduler;
}

/** How to attach. */
export interface AttachIommuOptions {
  /** Makes the unit. */
  readonly createUnit: (ports: UnitPorts) => V86Unit;
  /** Address of the registers, a multiple of 4096 in a 128 KiB block that nothing else of v86 uses. Default 0xFED90000, where chipsets have it. */
  readonly registerGpa?: number;
  /** Width of a physical address that the firmware table states, in bits. Default 36. */
  readonly hostAddressWidthBits?: number;
  /** Devices that go on reaching memory directly, as if the machine had forgotten to put them behind the unit. Default: none. */
  readonly bypass?: readonly V86DeviceName[];
  /** Virtio devices say that their DMA is subject to the platform's remapping (VIRTIO_F_ACCESS_PLATFORM): drivers then give them IOVAs. Default true. */
  readonly accessPlatform?: boolean;
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
 * @throws {IommuError} `not-supported` if this v86 lacks a part that the adapter needs, `already-attached` if the emulator has a unit, `bad-option`.
 */
export function attachIommu(emulator: V86Emulator, options: AttachIommuOptions): AttachedIommu {
  const cpu = internalsOf(emulator);
  if (cpu.option_roms.some(({ name }) => name === FIRMWARE_NAME)) {
    throw new IommuError("already-attached", "expected an emulator without a remapping unit, got one that has a DMAR table", { hint: "detach the other unit first" });
  }
  return new V86Attachment(cpu, options);
}

class V86Attachment implements AttachedIommu {
  readonly unit: V86Unit;
  readonly memory: V86GuestMemory;
  readonly devices: readonly AttachedDevice[];
  readonly interrupts: MsiCounters;
  readonly #cpu: V86Cpu;
  readonly #undo: (() => void)[] = [];

  constructor(cpu: V86Cpu, options: AttachIommuOptions) {
    const registerGpa = options.registerGpa ?? DEFAULT_REGISTER_GPA;
    this.#cpu = cpu;
    this.memory = new V86GuestMemory(cpu);
    // The guest waits for its interrupts: a microtask runs as soon as v86 returns to the event loop, a timer a millisecond later.
    const apic = localApicMsi(cpu, queueMicrotask);
    this.#undo.push(() => apic.close());
    this.interrupts = apic.counters;
    this.unit = options.createUnit({ memory: this.memory, msi: apic.sink, scheduler: options.scheduler ?? timerScheduler });
    this.#undo.push(mapRegisters(cpu, registerGpa, this.unit.registers));
    this.#addFirmwareTable(registerGpa, options.hostAddressWidthBits ?? 36);
    const bypass = new Set(options.bypass ?? []);
    if (options.accessPlatform !== false) this.#offerAccessPlatform();
    this.devices = dmaUsers(cpu).flatMap(({ name, sourceId, users }) => (bypass.has(name) ? [] : [this.#putBehind(name, sourceId, users)]));
  }

  plug(identity: PciIdentity, makeRegisters: (slot: PciSlot) => RegisterBlock): () => void {
    const space = this.unit.iommu.addressSpace(identity.sourceId);
    const unplug = plugPciDevice(this.#cpu, identity, { dma: space.dma, msi: this.unit.msiOf(space) }, makeRegisters);
    const once = (): void => {
      const index = this.#undo.indexOf(once);
      if (index < 0) return;
      this.#undo.splice(index, 1);
      unplug();
      void space.unplug();
    };
    this.#undo.push(once);
    return once;
  }

  detach(): void {
    for (const undo of [...this.#undo].reverse()) undo();
    this.#undo.length = 0;
    for (const { space } of this.devices) void space.unplug();
  }

  #addFirmwareTable(registerGpa: number, hostAddressWidthBits: number): void {
    const data = buildDmar({ hostAddressWidthBits, units: [{ registerGpa, includeAll: true }] });
    const file = { name: FIRMWARE_NAME, data };
    this.#cpu.option_roms.push(file);
    this.#undo.push(() => this.#cpu.option_roms.splice(this.#cpu.option_roms.indexOf(file), 1));
  }

  #offerAccessPlatform(): void {
    for (const name of VIRTIO_NAMES) {
      const virtio = this.#cpu.devices[name]?.virtio;
      if (virtio === undefined) continue;
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
    this.#undo.push(redirect(users, translatedCpu(this.#cpu, space.dma, counters)));
    return { name, space, counters };
  }
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

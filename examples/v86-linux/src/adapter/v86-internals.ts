/**
 * The inner parts of v86 that the adapter touches: their types, and a check at start that they are there.
 *
 * None of this is v86's public interface. It is what version 0.5.462 has; another version may differ, so the version is pinned exactly and
 * `internalsOf` names the first part that is missing instead of failing somewhere later.
 */

import { IommuError } from "@iommu-kit/iommu-core";

/** The version of v86 that these types describe. */
const V86_VERSION = "0.5.462";

/** Calls v86 makes for an MMIO access. Addresses may arrive negative (as int32); 64-bit accesses arrive as two of 32 bits, low half first. */
export type MmioRead = (address: number) => number;
/** As `MmioRead`. */
export type MmioWrite = (address: number, value: number) => void;

/** v86's port and memory-mapped I/O. */
export interface V86Io {
  /** Blocks of 128 KiB only: `address` and `byteLength` are multiples of 0x20000. */
  mmap_register(
    address: number,
    byteLength: number,
    read8: MmioRead,
    write8: MmioWrite,
    read32?: MmioRead,
    write32?: MmioWrite,
  ): void;
}

/** A PCI function as v86 keeps it. */
export interface V86PciFunction {
  readonly pci_id: number;
  readonly pci_space: readonly number[];
  readonly pci_bars: readonly ({ readonly size: number } | undefined)[];
  readonly name: string;
}

/** v86's PCI bus: one bus, 256 functions. */
export interface V86Pci {
  readonly devices: (V86PciFunction | undefined)[];
  readonly device_spaces: (Int32Array | undefined)[];
  /** Answers the configuration space that the guest reads and writes from now on. */
  register_device(device: V86PciFunction): Int32Array;
  raise_irq(pciId: number): void;
  lower_irq(pciId: number): void;
}

/** Whatever does DMA in v86 does it through its `cpu` field. */
export interface V86DmaUser {
  cpu: V86Cpu;
}

/** One IDE channel; a missing drive is still an object. */
export interface V86IdeChannel {
  readonly master?: V86DmaUser;
  readonly slave?: V86DmaUser;
}

/** The IDE controller. */
export interface V86Ide {
  readonly pci_id?: number;
  readonly primary?: V86IdeChannel;
  readonly secondary?: V86IdeChannel;
}

/** The transport of a virtio device. Feature words are 32 bits each: word 1 has bits 32 to 63. */
export interface V86Virtio {
  readonly pci_id: number;
  readonly device_feature: Uint32Array;
  readonly driver_feature: Uint32Array;
  readonly queues: readonly V86DmaUser[];
}

/** A virtio device. */
export interface V86VirtioDevice {
  readonly virtio: V86Virtio;
}

/** The devices that can reach memory. Which exist depends on the options of the emulator. */
export interface V86Devices {
  readonly pci: V86Pci;
  readonly ide?: V86Ide;
  readonly virtio_9p?: V86VirtioDevice;
  readonly virtio_net?: V86VirtioDevice;
  readonly virtio_console?: V86VirtioDevice;
  readonly virtio_balloon?: V86VirtioDevice;
}

/** A file that SeaBIOS finds through the firmware configuration device; names that begin with "acpi/" become ACPI tables. */
export interface V86FirmwareFile {
  readonly name: string;
  readonly data: Uint8Array;
}

/** The processor, which in v86 is also the machine. Physical addresses are bytes. */
export interface V86Cpu {
  readonly io: V86Io;
  readonly devices: V86Devices;
  readonly option_roms: V86FirmwareFile[];
  readonly memory_size: ArrayLike<number>;
  /** RAM as bytes. A proxy in v86: every access makes a new view, so it is used for its place in `wasm_memory` only. */
  readonly mem8: {
    readonly byteOffset: number;
    readonly length: number;
    subarray(begin: number, end: number): Uint8Array;
  };
  readonly wasm_memory: { readonly buffer: ArrayBuffer };
  readonly memory_map_read8: (MmioRead | undefined)[];
  readonly memory_map_write8: (MmioWrite | undefined)[];
  readonly memory_map_read32: (MmioRead | undefined)[];
  readonly memory_map_write32: (MmioWrite | undefined)[];
  read8(address: number): number;
  read16(address: number): number;
  read32s(address: number): number;
  write8(address: number, value: number): void;
  write16(address: number, value: number): void;
  write32(address: number, value: number): void;
  read_blob(address: number, byteLength: number): Uint8Array;
  write_blob(bytes: Uint8Array, address: number): void;
  /** Forgets code compiled from these bytes. */
  jit_dirty_cache(firstByte: number, endByte: number): void;
  /** Takes a pending interrupt if the processor can. Never from inside an MMIO callback: v86 crashes. */
  handle_irqs(): void;
  /** What v86 does when the guest resets the machine. */
  reboot_internal(): void;
  /** Where the local APIC's state is in `wasm_memory`. */
  get_apic_addr(): number;
}

/** What the adapter needs of a `V86` object: nothing that is typed in v86's own declarations. */
export type V86Emulator = object;

const FUNCTIONS_OF_CPU = [
  "read8",
  "read16",
  "read32s",
  "write8",
  "write16",
  "write32",
  "read_blob",
  "write_blob",
  "jit_dirty_cache",
  "handle_irqs",
  "reboot_internal",
  "get_apic_addr",
] as const;
const FUNCTIONS_OF_PCI = ["register_device", "raise_irq", "lower_irq"] as const;
const MAPS_OF_CPU = ["memory_map_read8", "memory_map_write8", "memory_map_read32", "memory_map_write32"] as const;

/**
 * The processor of an emulator, after a check that everything the adapter needs is there.
 * @throws {IommuError} `not-supported`, naming the part that is missing; also if the emulator has not loaded yet.
 */
export function internalsOf(emulator: V86Emulator): V86Cpu {
  const machine = part(emulator, "v86");
  if (machine === undefined)
    throw missing("emulator.v86", "an object", machine, 'wait for the event "emulator-loaded" and attach before run()');
  const cpu = part(machine, "cpu");
  const checks: [path: string, wanted: string, value: unknown][] = [
    ["cpu", "object", cpu],
    ...FUNCTIONS_OF_CPU.map((name): [string, string, unknown] => [`cpu.${name}`, "function", part(cpu, name)]),
    ["cpu.io", "object", part(cpu, "io")],
    ["cpu.io.mmap_register", "function", part(part(cpu, "io"), "mmap_register")],
    ["cpu.devices", "object", part(cpu, "devices")],
    ["cpu.devices.pci", "object", part(part(cpu, "devices"), "pci")],
    ...FUNCTIONS_OF_PCI.map((name): [string, string, unknown] => [
      `cpu.devices.pci.${name}`,
      "function",
      part(part(part(cpu, "devices"), "pci"), name),
    ]),
    ["cpu.option_roms", "array", part(cpu, "option_roms")],
    ["cpu.memory_size[0]", "number", part(part(cpu, "memory_size"), "0")],
    ["cpu.mem8.byteOffset", "number", part(part(cpu, "mem8"), "byteOffset")],
    ["cpu.wasm_memory.buffer", "object", part(part(cpu, "wasm_memory"), "buffer")],
    ...MAPS_OF_CPU.map((name): [string, string, unknown] => [`cpu.${name}`, "array", part(cpu, name)]),
  ];
  for (const [path, wanted, value] of checks) {
    const kind = Array.isArray(value) ? "array" : typeof value;
    if (kind !== wanted || value === null)
      throw missing(
        path,
        wanted,
        value,
        `this adapter is written for v86 ${V86_VERSION}: install exactly that version`,
      );
  }
  return cpu as V86Cpu;
}

/**
 * Checks what is needed of one of v86's devices before it is put behind the unit.
 * @throws {IommuError} `not-supported`, naming the part that is missing.
 */
export function checkVirtio(name: string, device: V86VirtioDevice): void {
  const virtio = part(device, "virtio");
  const queues = part(virtio, "queues");
  const hint = `this adapter is written for v86 ${V86_VERSION}: install exactly that version`;
  if (typeof part(virtio, "pci_id") !== "number")
    throw missing(`cpu.devices.${name}.virtio.pci_id`, "number", part(virtio, "pci_id"), hint);
  if (!Array.isArray(queues) || queues.some((queue) => typeof part(queue, "cpu") !== "object"))
    throw missing(`cpu.devices.${name}.virtio.queues[].cpu`, "object", queues, hint);
  for (const words of ["device_feature", "driver_feature"])
    if (!(part(virtio, words) instanceof Uint32Array))
      throw missing(`cpu.devices.${name}.virtio.${words}`, "Uint32Array", part(virtio, words), hint);
}

function part(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? (value as Readonly<Record<string, unknown>>)[name] : undefined;
}

function missing(path: string, wanted: string, value: unknown, hint: string): IommuError {
  return new IommuError(
    "not-supported",
    `v86 internal ${path}: expected ${wanted}, got ${value === null ? "null" : typeof value}`,
    { hint },
  );
}

import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { Access, PAGE_BYTES } from "@iommu-kit/iommu-core";
import { afterEach, describe, expect, it, vi } from "vitest";
import { V86, type V86Options } from "v86";
import { attachIommu, type AttachIommuOptions } from "../src/adapter/attach-iommu.js";
import { observed, newCounters, translatedCpu } from "../src/adapter/device-dma.js";
import { localApicMsi } from "../src/adapter/local-apic-msi.js";
import { internalsOf, type V86Cpu, type V86VirtioDevice } from "../src/adapter/v86-internals.js";
import { V86GuestMemory } from "../src/adapter/v86-guest-memory.js";
import { DMA_ENGINE, DmaEngine } from "../src/devices/dma-engine.js";

const MEGABYTE = 1024 * 1024;
// A v86 takes a second to load on a busy machine.
vi.setConfig({ testTimeout: 60_000 });

const emulators: V86[] = [];

/** A real v86, loaded and never run: a processor, memory, a bus, a disk and virtio devices. */
async function loaded(options: Partial<V86Options> = {}): Promise<V86> {
  const emulator = new V86({
    wasm_path: join(dirname(createRequire(import.meta.url).resolve("v86")), "v86.wasm"),
    memory_size: 16 * MEGABYTE,
    vga_memory_size: 2 * MEGABYTE,
    acpi: true,
    autostart: false,
    disable_speaker: true,
    hda: { buffer: new ArrayBuffer(MEGABYTE) },
    filesystem: {},
    ...options,
  });
  emulators.push(emulator);
  await new Promise<void>((resolve) => emulator.add_listener("emulator-loaded", () => resolve()));
  return emulator;
}

afterEach(async () => {
  for (const emulator of emulators.splice(0)) await emulator.destroy();
});

const UNIT_GPA = 0xfed90000;

function readRegister(cpu: V86Cpu, offsetBytes: number): number {
  const read = cpu.memory_map_read32[UNIT_GPA >>> 17];
  return (read?.((UNIT_GPA + offsetBytes) | 0) ?? 0) >>> 0;
}

function writeRegister(cpu: V86Cpu, offsetBytes: number, value: number): void {
  cpu.memory_map_write32[UNIT_GPA >>> 17]?.(UNIT_GPA + offsetBytes, value | 0);
}

/** Tables for the IDE controller: IOVA frame `iovaPfn` goes to `gpaPfn`. */
function mapForDisk(cpu: V86Cpu, memory: V86GuestMemory, iovaPfn: number, gpaPfn: number): void {
  memory.writeWord(0x100000, 0x101000 | 1);
  memory.writeWord(0x101000 + 0xf0 * 16, 0x102000 | 1);
  memory.writeWord(0x101000 + 0xf0 * 16 + 8, 0x101);
  memory.writeWord(0x102000, 0x103000 | 3);
  memory.writeWord(0x103000, 0x104000 | 3);
  memory.writeWord(0x104000 + iovaPfn * 8, gpaPfn * PAGE_BYTES + Access.readWrite);
  writeRegister(cpu, 0x20, 0x100000);
  writeRegister(cpu, 0x18, 0x40000000);
  writeRegister(cpu, 0x18, 0x80000000);
}

describe("internalsOf", () => {
  it("accepts the pinned v86", async () => {
    expect(internalsOf(await loaded())).toBeDefined();
  });

  it("names the part that is missing, and the version that has it", async () => {
    const cpu = internalsOf(await loaded());
    const without = Object.create(cpu, { handle_irqs: { value: undefined } }) as V86Cpu;
    expect(() => internalsOf({ v86: { cpu: without } })).toThrow(
      /cpu\.handle_irqs: expected function, got undefined .*v86 0\.5\.462/,
    );
  });

  it("says that the emulator has not loaded yet", () => {
    expect(() => internalsOf({})).toThrow(/emulator-loaded/);
  });
});

describe("V86GuestMemory", () => {
  it("reads and writes RAM and refuses everything else", async () => {
    const memory = new V86GuestMemory(internalsOf(await loaded()));
    const bytes = Uint8Array.of(1, 2, 3, 4);
    const into = new Uint8Array(4);
    expect(memory.write(0x9ffff - 3, bytes)).toBe(true);
    expect(memory.read(0x9ffff - 3, into)).toBe(true);
    expect(into).toEqual(bytes);
    expect(memory.write(0x9fffe, bytes)).toBe(false);
    expect(memory.read(0xa0000, into)).toBe(false);
    expect(memory.read(16 * MEGABYTE - 2, into)).toBe(false);
    expect(memory.ram.reduce((sum, range) => sum + range.pageCount, 0)).toBe(4096 - 32);
  });

  it("exchanges a word only if it is the expected one, and its window shows the change", async () => {
    const memory = new V86GuestMemory(internalsOf(await loaded()));
    expect(memory.writeWord(0x200000, -2)).toBe(true);
    expect(memory.compareExchange(0x200000, 5, 7)).toBe(false);
    expect(memory.compareExchange(0x200000, 0xfffffffe, 7)).toBe(true);
    const window = memory.window(0x200);
    expect(window?.words[((0x200 - (window.firstPfn ?? 0)) * PAGE_BYTES) / 4]).toBe(7);
    expect(memory.window(0xa0)).toBeUndefined();
  });
});

/** What attaching changes in an emulator. */
function traces(cpu: V86Cpu, features: Uint32Array): unknown {
  const block = UNIT_GPA >>> 17;
  const maps = [cpu.memory_map_read8, cpu.memory_map_write8, cpu.memory_map_read32, cpu.memory_map_write32].map(
    (map) => map[block],
  );
  return [...maps, ...features, cpu.option_roms.length, Object.hasOwn(cpu, "reboot_internal")];
}

describe("translatedCpu", () => {
  it("gives the chosen byte, and no bytes of a range, for what is refused", async () => {
    const cpu = internalsOf(await loaded());
    const counters = newCounters();
    const nothing = { read: () => false, write: () => false };
    const ones = translatedCpu(cpu, nothing, counters, 0xff);
    expect([ones.read8(0), ones.read16(0), ones.read32s(0)]).toEqual([0xff, 0xffff, -1]);
    expect(translatedCpu(cpu, nothing, counters, 0x00).read32s(0)).toBe(0);
    expect(ones.read_blob(0, 100).length).toBe(0);
    expect(ones.mem8.subarray(0, 100).length).toBe(0);
    ones.write32(0, 1);
    expect(counters).toMatchObject({ reads: 6, writes: 1, refused: 7 });
  });

  it("is the real processor in everything else", async () => {
    const cpu = internalsOf(await loaded());
    const stand = translatedCpu(cpu, { read: () => true, write: () => true }, newCounters(), 0xff);
    expect(stand.io).toBe(cpu.io);
    expect(stand.devices).toBe(cpu.devices);
  });

  it("lets an observer hear of every access before it is made", () => {
    const heard: number[][] = [];
    const memory = observed({ read: () => heard.length === 1, write: () => heard.length === 2 }, 0x18, (...access) =>
      heard.push(access),
    );
    expect(memory.read(0x1000, new Uint8Array(8))).toBe(true);
    expect(memory.write(0x2000, new Uint8Array(3))).toBe(true);
    expect(heard).toEqual([
      [0x18, 0x1000, 8],
      [0x18, 0x2000, 3],
    ]);
  });
});

describe("attachIommu", () => {
  it("leaves no trace when it refuses, and attaches once the mistake is mended", async () => {
    const emulator = await loaded();
    const cpu = internalsOf(emulator);
    const device = cpu.devices.virtio_9p;
    if (device === undefined) throw new Error("the emulator has no virtio_9p");
    const { virtio } = device;
    const before = traces(cpu, virtio.device_feature);
    const without = (name: string): V86VirtioDevice["virtio"] =>
      Object.create(virtio, { [name]: { value: undefined } }) as V86VirtioDevice["virtio"];
    const refused = (code: string, words: RegExp, options: AttachIommuOptions = {}): void => {
      expect(() => attachIommu(emulator, options), String(words)).toThrow(
        expect.objectContaining({ code, message: expect.stringMatching(words) as string }),
      );
      expect(traces(cpu, virtio.device_feature), String(words)).toEqual(before);
    };
    for (const name of ["queues", "device_feature", "driver_feature"]) {
      Object.assign(device, { virtio: without(name) });
      refused("not-supported", new RegExp(`virtio_9p\\.virtio\\.${name}.*expected`));
      Object.assign(device, { virtio });
    }
    for (const registerGpa of [0xfed9_0800, -4096, 2 ** 32, 0x10_0000, Number.NaN])
      refused("bad-option", /registerGpa: expected a multiple of 0x1000 .* got/, { registerGpa });
    refused("bad-option", /addressWidths/, { unit: { addressWidths: [40 as 39] } });
    expect(() => attachIommu(emulator, {})).not.toThrow();
  });

  it("states the unit's own address width in the firmware table", async () => {
    for (const [unit, width] of [
      [{}, 36],
      [{ hostAddressWidth: 39 }, 39],
    ] as const) {
      const emulator = await loaded();
      attachIommu(emulator, { unit });
      const table = internalsOf(emulator).option_roms.find(({ name }) => name === "acpi/dmar");
      expect(table?.data[36]).toBe(width - 1);
    }
  });

  it("answers at the register block and nowhere else in its 128 KiB", async () => {
    const emulator = await loaded();
    attachIommu(emulator, {});
    const cpu = internalsOf(emulator);
    expect(readRegister(cpu, 0)).toBe(0x10);
    expect(readRegister(cpu, 0x1000)).toBe(0xffffffff);
    expect(cpu.memory_map_read8[UNIT_GPA >>> 17]?.(UNIT_GPA + 0x100000)).toBe(0xff);
    expect(cpu.option_roms.map(({ name }) => name)).toContain("acpi/dmar");
  });

  it("takes the disk's DMA to where the guest's tables say, and counts what they refuse", async () => {
    const emulator = await loaded();
    const { memory, devices } = attachIommu(emulator, { unit: { addressWidths: [39] } });
    const cpu = internalsOf(emulator);
    mapForDisk(cpu, memory, 7, 0x300);
    const disk = cpu.devices.ide?.primary?.master?.cpu;
    disk?.write32(7 * PAGE_BYTES + 8, 0x12345678);
    const word = new Int32Array(1);
    memory.fetch(0x300 * PAGE_BYTES + 8, word);
    expect(word[0]).toBe(0x12345678);
    expect(disk?.read32s(7 * PAGE_BYTES + 8)).toBe(0x12345678);
    expect(disk?.read32s(8 * PAGE_BYTES)).toBe(-1);
    expect(devices.find(({ name }) => name === "ide")?.counters.refused).toBe(1);
  });

  it("offers ACCESS_PLATFORM on virtio devices, except where it is told not to", async () => {
    const offered = async (withoutAccessPlatform: "virtio_9p"[]): Promise<number> => {
      const emulator = await loaded();
      attachIommu(emulator, { withoutAccessPlatform });
      return (internalsOf(emulator).devices.virtio_9p?.virtio.device_feature[1] ?? 0) & 2;
    };
    expect(await offered([])).toBe(2);
    expect(await offered(["virtio_9p"])).toBe(0);
  });

  it("leaves devices in front of the unit that it is told to leave there", async () => {
    const emulator = await loaded();
    const cpu = internalsOf(emulator);
    const { devices } = attachIommu(emulator, { bypass: ["ide"] });
    expect(devices.map(({ name }) => name)).toEqual(["virtio_9p"]);
    expect(cpu.devices.ide?.primary?.master?.cpu).toBe(cpu);
  });

  it("is reset with the machine: translation is off afterwards", async () => {
    const emulator = await loaded();
    const { memory } = attachIommu(emulator, { unit: { addressWidths: [39] } });
    const cpu = internalsOf(emulator);
    mapForDisk(cpu, memory, 7, 0x300);
    expect(readRegister(cpu, 0x1c) >>> 31).toBe(1);
    cpu.reboot_internal();
    expect(readRegister(cpu, 0x1c)).toBe(0);
    cpu.devices.ide?.primary?.master?.cpu.write32(7 * PAGE_BYTES, 5);
    const word = new Int32Array(1);
    memory.fetch(7 * PAGE_BYTES, word);
    expect(word[0]).toBe(5);
  });

  it("refuses a second unit on the same emulator", async () => {
    const emulator = await loaded();
    attachIommu(emulator, {});
    expect(() => attachIommu(emulator, {})).toThrow(/detach the other unit first/);
  });

  it("leaves everything as it was when it is detached", async () => {
    const emulator = await loaded();
    const cpu = internalsOf(emulator);
    const before = {
      read: cpu.memory_map_read32[UNIT_GPA >>> 17],
      disk: cpu.devices.ide?.primary?.master?.cpu,
      files: cpu.option_roms.length,
    };
    const attached = attachIommu(emulator, {});
    attached.plug(DMA_ENGINE, (slot) => new DmaEngine(slot, queueMicrotask));
    attached.detach();
    expect(cpu.memory_map_read32[UNIT_GPA >>> 17]).toBe(before.read);
    expect(cpu.devices.ide?.primary?.master?.cpu).toBe(before.disk);
    expect(cpu.option_roms.length).toBe(before.files);
    expect(cpu.devices.pci.devices[DMA_ENGINE.sourceId]).toBeUndefined();
    expect((cpu.devices.virtio_9p?.virtio.device_feature[1] ?? 0) & 2).toBe(0);
    expect(() => attachIommu(emulator, {})).not.toThrow();
  });

  it("keeps two emulators in one process apart", async () => {
    const emulatorOne = await loaded();
    const emulatorTwo = await loaded();
    const one = attachIommu(emulatorOne, { unit: { addressWidths: [39] } });
    const two = attachIommu(emulatorTwo, { unit: { addressWidths: [39] } });
    const cpuOne = internalsOf(emulatorOne);
    const cpuTwo = internalsOf(emulatorTwo);
    mapForDisk(cpuOne, one.memory, 7, 0x300);
    cpuOne.devices.ide?.primary?.master?.cpu.write32(7 * PAGE_BYTES, 1);
    cpuTwo.devices.ide?.primary?.master?.cpu.write32(7 * PAGE_BYTES, 2);
    const wordOf = (memory: V86GuestMemory, gpa: number): number => {
      const word = new Int32Array(1);
      memory.fetch(gpa, word);
      return word[0] ?? 0;
    };
    expect([wordOf(one.memory, 0x300000), wordOf(one.memory, 0x7000)]).toEqual([1, 0]);
    expect([wordOf(two.memory, 0x300000), wordOf(two.memory, 0x7000)]).toEqual([0, 2]);
  });
});

describe("local APIC messages", () => {
  it("sets the request bit of the vector after the call, and asks the processor to look", async () => {
    const real = internalsOf(await loaded());
    const handle_irqs = vi.fn();
    const cpu = Object.create(real, { handle_irqs: { value: handle_irqs } }) as V86Cpu;
    const later: (() => void)[] = [];
    const { sink, counters } = localApicMsi(cpu, (task) => later.push(task));
    const requests = (): number => new Int32Array(real.wasm_memory.buffer, real.get_apic_addr(), 46)[16 + 1] ?? 0;
    sink({ address: 0xfee00000, addressHigh: 0, data: 0x24 });
    expect(requests()).toBe(0);
    for (const task of later) task();
    expect(requests()).toBe(1 << 4);
    expect(handle_irqs).toHaveBeenCalledTimes(1);
    sink({ address: 0xfee00000, addressHigh: 0, data: 0x424 });
    expect(counters).toEqual({ delivered: 1, dropped: 1 });
  });

  it("delivers nothing after close", async () => {
    const real = internalsOf(await loaded());
    const later: (() => void)[] = [];
    const { sink, close, counters } = localApicMsi(real, (task) => later.push(task));
    sink({ address: 0xfee00000, addressHigh: 0, data: 0x24 });
    close();
    for (const task of later) task();
    expect(counters.delivered).toBe(0);
  });
});

describe("the DMA engine in its slot", () => {
  const Register = { address: 0x04, length: 0x0c, command: 0x14, status: 0x18 } as const;

  it("copies by IOVA once it is a bus master, and reports what is refused", async () => {
    const emulator = await loaded();
    const attached = attachIommu(emulator, {});
    const later: (() => void)[] = [];
    let engine: DmaEngine | undefined;
    attached.plug(DMA_ENGINE, (slot) => (engine = new DmaEngine(slot, (task) => later.push(task))));
    const run = (address: number, length: number, command: number): number => {
      engine?.write32(Register.address, address);
      engine?.write32(Register.length, length);
      engine?.write32(Register.command, command);
      expect(engine?.read32(Register.status)).toBe(0);
      for (const task of later.splice(0)) task();
      return engine?.read32(Register.status) ?? 0;
    };
    expect(run(0x1000, 4, 1)).toBe(3);
    const config = internalsOf(emulator).devices.pci.device_spaces[DMA_ENGINE.sourceId];
    if (config !== undefined) config[1] = 6;
    attached.memory.write(0x1000, Uint8Array.of(1, 2, 3, 4));
    expect(run(0x1000, 4, 1)).toBe(1);
    expect(run(0x2000, 4, 2)).toBe(1);
    const copy = new Uint8Array(4);
    attached.memory.read(0x2000, copy);
    expect(copy).toEqual(Uint8Array.of(1, 2, 3, 4));
    expect(run(0x40000000, 4, 1)).toBe(2);
    expect(run(0x1000, 0x10001, 1)).toBe(4);
  });

  it("refuses a slot that is taken", async () => {
    const attached = attachIommu(await loaded(), {});
    attached.plug(DMA_ENGINE, (slot) => new DmaEngine(slot, queueMicrotask));
    expect(() => attached.plug(DMA_ENGINE, (slot) => new DmaEngine(slot, queueMicrotask))).toThrow(
      /expected a free slot/,
    );
  });
});

/**
 * A v86 machine that boots the guest from files: built, loaded, not yet running.
 */

import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { V86, type V86Options } from "v86";
import { GuestConsole } from "./guest-console.js";
import type { GuestFiles } from "./guest/guest-files.js";

/** What the machine has and what its guest is told to do. */
export interface MachineOptions {
  readonly files: GuestFiles;
  /** Tasks of guest/tasks, in order. */
  readonly tasks: readonly string[];
  /** Added to the kernel's command line. */
  readonly commandLine: string;
  /** Every line of the console. */
  readonly onLine: (line: string) => void;
}

/** A machine before its first instruction. */
export interface Machine {
  readonly emulator: V86;
  readonly console: GuestConsole;
  /** Bytes that the guest sent to the virtio console. */
  readonly virtioConsole: () => string;
}

const MEMORY_BYTES = 128 * 1024 * 1024;

/** Resolves when v86 has loaded everything; the caller attaches what it wants to attach, then calls `emulator.run()`. */
export async function createMachine(options: MachineOptions): Promise<Machine> {
  const { files } = options;
  const [bios, kernel, initrd, disk] = await Promise.all(
    [files.bios, files.kernel.file, files.initrd, files.disk].map(arrayBufferOf),
  );
  if (bios === undefined || kernel === undefined || initrd === undefined || disk === undefined)
    throw new TypeError("unreachable: four files were read");
  const settings: V86Options = {
    wasm_path: join(dirname(createRequire(import.meta.url).resolve("v86")), "v86.wasm"),
    memory_size: MEMORY_BYTES,
    vga_memory_size: 2 * 1024 * 1024,
    acpi: true,
    autostart: false,
    disable_keyboard: true,
    disable_mouse: true,
    disable_speaker: true,
    bios: { buffer: bios },
    bzimage: { buffer: kernel },
    initrd: { buffer: initrd },
    hda: { buffer: disk },
    filesystem: {},
    virtio_console: { type: "none" },
    // v86's own router, in this process: it answers ARP and ping at 192.168.86.1 and needs no network for that.
    net_device: { type: "virtio", relay_url: "fetch" },
    cmdline: `console=ttyS0 tsc=reliable mitigations=off tasks=${options.tasks.join(",")} ${options.commandLine}`,
  };
  const emulator = new V86(settings);
  const console = new GuestConsole(options.onLine);
  let virtioText = "";
  emulator.add_listener("serial0-output-byte", (byte) => console.take(byte));
  emulator.add_listener("virtio-console0-output-bytes", (bytes) => {
    virtioText += new TextDecoder().decode(bytes);
  });
  await new Promise<void>((resolve) => emulator.add_listener("emulator-loaded", () => resolve()));
  return { emulator, console, virtioConsole: () => virtioText };
}

/** The bytes of a file in a buffer of their own: v86 writes to the disk's. */
export async function arrayBufferOf(file: string): Promise<ArrayBuffer> {
  const bytes = await readFile(file);
  const copy = new ArrayBuffer(bytes.byteLength);
  new Uint8Array(copy).set(bytes);
  return copy;
}

/**
 * Looks at a kernel file before v86 does: v86 boots 32-bit bzImages and says little about anything else.
 *
 * The header is the Linux/x86 boot protocol's; only the fields that decide whether v86 can boot the file are read.
 */

import { readFile } from "node:fs/promises";
import { BuildProblem } from "./build-problem.js";

const BOOT_FLAG_OFFSET = 0x1fe;
const HEADER_MAGIC_OFFSET = 0x202;
const VERSION_TEXT_OFFSET = 0x20e;
const EXTENDED_FLAGS_OFFSET = 0x236;
const KERNEL_IS_64_BIT = 1;

/** What the header says. */
export interface KernelImage {
  readonly file: string;
  /** For people: `"6.1.192-iommu-kit (...) #1 ..."`. */
  readonly version: string;
}

/**
 * Reads and checks the header.
 * @throws {BuildProblem} `wrong-kernel`, saying what the file is instead.
 */
export async function inspectKernel(file: string): Promise<KernelImage> {
  const wrong = (what: string): BuildProblem =>
    new BuildProblem(
      "wrong-kernel",
      `${file} ${what}: give a 32-bit x86 bzImage with CONFIG_INTEL_IOMMU=y (arch/x86/boot/bzImage after \`make ARCH=i386 bzImage\`), or leave --kernel out to have one built.`,
    );
  const bytes = await readFile(file).catch((error: unknown) => {
    throw new BuildProblem(
      "wrong-kernel",
      `${file} cannot be read: check the path that was given with --kernel.`,
      error,
    );
  });
  if (bytes.length >= 4 && bytes.readUInt32BE(0) === 0x7f454c46)
    throw wrong("is an ELF file (a vmlinux, perhaps) and not a bzImage");
  if (
    bytes.length < 0x400 ||
    bytes.readUInt16LE(BOOT_FLAG_OFFSET) !== 0xaa55 ||
    bytes.toString("latin1", HEADER_MAGIC_OFFSET, HEADER_MAGIC_OFFSET + 4) !== "HdrS"
  ) {
    throw wrong("is not a Linux kernel image");
  }
  if ((bytes.readUInt16LE(EXTENDED_FLAGS_OFFSET) & KERNEL_IS_64_BIT) !== 0)
    throw wrong("is a 64-bit kernel, and v86 is a 32-bit machine");
  const start = 0x200 + bytes.readUInt16LE(VERSION_TEXT_OFFSET);
  const end = bytes.indexOf(0, start);
  return { file, version: bytes.toString("latin1", start, end < 0 ? start : Math.min(end, start + 200)) };
}

/**
 * Builds the guest's first root file system: busybox (Debian's, 32-bit), the scripts of guest/, and the VFIO program compiled from guest/.
 */

import { mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { recipeHash } from "./build-cache.js";
import { cpioArchive, type CpioEntry } from "./cpio-archive.js";
import type { DebianPackages } from "./debian-packages.js";
import type { Recipe } from "./recipe.js";
import { runCommand } from "./run-command.js";

const BUSYBOX_PACKAGE = "busybox-static";
const COMPILER_OPTIONS = [
  ...[
    "-m32",
    "-march=i686",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-static",
    "-nostdlib",
    "-ffreestanding",
    "-fno-pic",
    "-no-pie",
  ],
  ...["-fno-asynchronous-unwind-tables", "-fno-stack-protector", "-Wl,--build-id=none"],
];

/** The initrd, as `initrd.gz`: takes a second. `guestDirectory` is this package's `guest/`. */
export async function initrdRecipe(
  guestDirectory: string,
  packages: DebianPackages,
  progress: (line: string) => void,
): Promise<Recipe> {
  const files = await guestFiles(guestDirectory);
  const version = await packages.candidateVersion(BUSYBOX_PACKAGE);
  const entry = `initrd-${recipeHash([BUSYBOX_PACKAGE, version, ...COMPILER_OPTIONS, ...files.flatMap((file) => [file.path, file.text])])}`;
  const build = async (draft: string): Promise<void> => {
    progress(`initrd: building (${BUSYBOX_PACKAGE} ${version}, ${files.length} files of guest/)`);
    const busybox = await readFile(join(await packages.unpacked(BUSYBOX_PACKAGE), "bin/busybox"));
    const program = await compileProgram(join(guestDirectory, "vfio-exercise.c"));
    const archive = cpioArchive(rootFileSystem(busybox, program, files));
    await writeFile(join(draft, "initrd.gz"), gzipSync(archive, { level: 6 }));
  };
  return { entry, tools: { gcc: "gcc", "/usr/include/linux/vfio.h": "linux-libc-dev" }, build };
}

interface GuestFile {
  /** Below `guest/`, with forward slashes. */
  readonly path: string;
  readonly text: string;
}

async function guestFiles(guestDirectory: string): Promise<readonly GuestFile[]> {
  const tasks = (await readdir(join(guestDirectory, "tasks"))).filter((name) => name.endsWith(".sh")).sort();
  const paths = ["init", "vfio-exercise.c", "system-calls.h", ...tasks.map((name) => `tasks/${name}`)];
  return Promise.all(paths.map(async (path) => ({ path, text: await readFile(join(guestDirectory, path), "utf8") })));
}

async function compileProgram(source: string): Promise<Uint8Array> {
  const directory = await mkdtemp(join(tmpdir(), "iommu-kit-"));
  try {
    // A compiler without its 32-bit libraries does not look where the headers of the (common) x86 architecture are.
    const { output: triplet } = await runCommand("gcc", ["-print-multiarch"]);
    const program = join(directory, "vfio-exercise");
    await runCommand("gcc", [...COMPILER_OPTIONS, "-isystem", `/usr/include/${triplet.trim()}`, source, "-o", program]);
    await runCommand("strip", [program]);
    return await readFile(program);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function rootFileSystem(busybox: Uint8Array, program: Uint8Array, files: readonly GuestFile[]): readonly CpioEntry[] {
  const encoder = new TextEncoder();
  const scripts = files.filter((file) => file.path === "init" || file.path.endsWith(".sh"));
  return [
    ...["bin", "dev", "tasks"].map((path): CpioEntry => ({ kind: "directory", path })),
    { kind: "console", path: "dev/console" },
    { kind: "file", path: "bin/busybox", bytes: busybox, executable: true },
    { kind: "link", path: "bin/sh", target: "busybox" },
    { kind: "file", path: "bin/vfio-exercise", bytes: program, executable: true },
    ...scripts.map((file): CpioEntry => ({
      kind: "file",
      path: file.path,
      bytes: encoder.encode(file.text),
      executable: true,
    })),
  ];
}

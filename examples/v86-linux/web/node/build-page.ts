/**
 * Builds the page of `web/` into a directory that any static server can serve: Vite's output, and the guest's files beside it.
 */

import { copyFile, mkdir } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "vite";
import type { GuestFiles } from "../../dist/guest/guest-files.js";

const WEB = fileURLToPath(new URL("../../web/", import.meta.url));

/** Builds into `directory`, which is emptied first. */
export async function buildPage(directory: string, files: GuestFiles): Promise<void> {
  await build({
    root: WEB,
    // Relative links: the page works below any path.
    base: "./",
    configFile: false,
    // v86 asks for Node's modules where there are some; Vite says so five times, and it is right.
    logLevel: "error",
    build: { outDir: directory, emptyOutDir: true, target: "es2022", chunkSizeWarningLimit: 1_000 },
  });
  const guest = join(directory, "guest");
  await mkdir(guest, { recursive: true });
  await copyFile(join(dirname(createRequire(import.meta.url).resolve("v86")), "v86.wasm"), join(guest, "v86.wasm"));
  await copyFile(files.kernel.file, join(guest, "bzimage.bin"));
  // Not ".gz": servers would send it with a content encoding, and the guest unpacks it itself.
  await copyFile(files.initrd, join(guest, "initrd.bin"));
  await copyFile(files.bios, join(guest, "bios.bin"));
  await copyFile(files.disk, join(guest, "disk.img"));
}

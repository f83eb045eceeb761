/**
 * Builds the guest's disk: an ext2 file system with one file of pseudo-random bytes (the same ones always, so that a run can be repeated).
 */

import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { recipeHash } from "./build-cache.js";
import type { Recipe } from "./recipe.js";
import { runCommand } from "./run-command.js";

const DISK_MEGABYTES = 24;
/** Bytes of `original.bin`. */
const ORIGINAL_BYTES = 3 * 1024 * 1024;

/** The disk image, as `disk.img`. */
export function diskRecipe(progress: (line: string) => void): Recipe {
  const entry = `disk-${recipeHash(["ext2", String(DISK_MEGABYTES), String(ORIGINAL_BYTES), "xorshift32 seed 0x1b0b5"])}`;
  const build = async (draft: string): Promise<void> => {
    progress(`disk: building an ext2 image of ${DISK_MEGABYTES} MB`);
    const root = join(draft, "root");
    await mkdir(root);
    await writeFile(join(root, "original.bin"), pseudoRandomBytes(ORIGINAL_BYTES));
    await runCommand("mke2fs", [
      "-q",
      "-t",
      "ext2",
      "-L",
      "iommu-kit",
      "-d",
      root,
      join(draft, "disk.img"),
      `${DISK_MEGABYTES}M`,
    ]);
    await rm(root, { recursive: true });
  };
  return { entry, tools: { mke2fs: "e2fsprogs" }, build };
}

function pseudoRandomBytes(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let state = 0x1b0b5;
  for (let i = 0; i < length; i += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[i] = state;
  }
  return bytes;
}

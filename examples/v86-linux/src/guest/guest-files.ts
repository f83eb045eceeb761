/**
 * Everything the machine boots from, found in the cache or built into it.
 *
 * What a recipe names by package version is looked up once and remembered in `latest.json`: a second run needs no network and asks apt nothing.
 */

import { existsSync } from "node:fs";
import { readFile, readdir, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { cacheRoot, recipeHash } from "./build-cache.js";
import { DebianPackages } from "./debian-packages.js";
import { diskRecipe } from "./disk-image.js";
import { initrdRecipe } from "./initrd.js";
import { kernelRecipe } from "./kernel.js";
import { fromCache } from "./recipe.js";
import { inspectKernel, type KernelImage } from "./kernel-image.js";

/** Paths of files that are complete and checked. */
export interface GuestFiles {
  readonly kernel: KernelImage;
  readonly initrd: string;
  readonly bios: string;
  readonly disk: string;
}

/** What the caller may choose. */
export interface GuestFileOptions {
  /** Boot this bzImage instead of building one. */
  readonly kernel?: string;
  /** Ask apt for newer packages even if the cache has what is needed. */
  readonly refresh?: boolean;
  /** One line per step; nothing is said when all is in the cache. */
  readonly progress: (line: string) => void;
}

const GUEST_DIRECTORY = fileURLToPath(new URL("../../guest/", import.meta.url));

/**
 * Finds or builds all of them.
 * @throws {BuildProblem} with one sentence that says what is missing and what to do.
 */
export async function guestFiles(options: GuestFileOptions): Promise<GuestFiles> {
  const kernelOption = options.kernel === undefined ? undefined : await inspectKernel(options.kernel);
  const recipe = await recipeOfSources();
  const known = options.refresh === true ? undefined : await recall(recipe);
  const built = known ?? (await buildAll(kernelOption === undefined, recipe, options.progress));
  return { ...built, kernel: kernelOption ?? (await inspectKernel(built.kernel)) };
}

interface BuiltFiles {
  readonly kernel: string;
  readonly initrd: string;
  readonly bios: string;
  readonly disk: string;
}

async function buildAll(withKernel: boolean, recipe: string, progress: (line: string) => void): Promise<BuiltFiles> {
  const native = new DebianPackages("native");
  const i386 = new DebianPackages("i386");
  const bios = join(await native.unpacked("seabios"), "usr/share/seabios/bios.bin");
  const recipes = [await initrdRecipe(GUEST_DIRECTORY, i386, progress), diskRecipe(progress)];
  if (withKernel) recipes.push(await kernelRecipe(join(GUEST_DIRECTORY, "kernel.config"), native, progress));
  const [initrd = "", disk = "", kernel] = await fromCache(recipes);
  const built: BuiltFiles = {
    kernel: kernel === undefined ? "" : join(kernel, "bzImage"),
    initrd: join(initrd, "initrd.gz"),
    bios,
    disk: join(disk, "disk.img"),
  };
  if (withKernel) await remember(recipe, built);
  return built;
}

/** Hash of all files of this package that decide what is built. A change of any of them asks apt again. */
async function recipeOfSources(): Promise<string> {
  const builders = ["kernel.js", "initrd.js", "disk-image.js", "cpio-archive.js"].map((name) =>
    fileURLToPath(new URL(name, import.meta.url)),
  );
  const guest = ["kernel.config", "init", "vfio-exercise.c", "system-calls.h"].map((name) =>
    join(GUEST_DIRECTORY, name),
  );
  const tasks = (await readdir(join(GUEST_DIRECTORY, "tasks")))
    .sort()
    .map((name) => join(GUEST_DIRECTORY, "tasks", name));
  return recipeHash(await Promise.all([...builders, ...guest, ...tasks].map((file) => readFile(file, "utf8"))));
}

/** By one rename: whoever reads meanwhile, or after this process was killed, finds a whole file. */
async function remember(recipe: string, built: BuiltFiles): Promise<void> {
  const file = join(cacheRoot(), "latest.json");
  const draft = `${file}.${process.pid}`;
  await writeFile(draft, `${JSON.stringify({ recipe, ...built }, undefined, 2)}\n`);
  await rename(draft, file);
}

async function recall(recipe: string): Promise<BuiltFiles | undefined> {
  const file = join(cacheRoot(), "latest.json");
  if (!existsSync(file)) return undefined;
  const latest = JSON.parse(await readFile(file, "utf8")) as BuiltFiles & { readonly recipe: string };
  const { kernel, initrd, bios, disk } = latest;
  return latest.recipe === recipe && [kernel, initrd, bios, disk].every((path) => existsSync(path))
    ? { kernel, initrd, bios, disk }
    : undefined;
}

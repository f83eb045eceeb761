/**
 * Where built files are kept: outside the repository, one directory per recipe.
 *
 * A recipe is everything that decides what comes out (versions, configuration, edits, scripts). Its hash names the directory, so that an entry
 * is never wrong, only absent. An entry appears by one rename when it is complete: a build that was interrupted leaves nothing behind that counts.
 */

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rename, rm, statfs } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { BuildProblem } from "./build-problem.js";

const DRAFT_PREFIX = ".building-";

/** The directory of all entries: `$IOMMU_KIT_CACHE`, or `iommu-kit` in the user's cache directory. */
export function cacheRoot(): string {
  const { IOMMU_KIT_CACHE: own, XDG_CACHE_HOME: users } = process.env;
  if (own !== undefined && own !== "") return own;
  return join(users !== undefined && users !== "" ? users : join(homedir(), ".cache"), "iommu-kit");
}

/** The name of a recipe: 16 hexadecimal digits that change with any of its ingredients. */
export function recipeHash(ingredients: readonly string[]): string {
  const hash = createHash("sha256");
  for (const ingredient of ingredients) hash.update(`${ingredient.length}:${ingredient}`);
  return hash.digest("hex").slice(0, 16);
}

/** The directory of entry `name`; building it with `build` if it is not there. `build` gets an empty directory to fill. */
export async function cached(name: string, build: (directory: string) => Promise<void>): Promise<string> {
  const root = cacheRoot();
  const entry = join(root, name);
  if (existsSync(entry)) return entry;
  await mkdir(root, { recursive: true });
  await removeAbandoned(root);
  const draft = await mkdtemp(join(root, `${DRAFT_PREFIX}${process.pid}-`));
  try {
    await build(draft).catch((error: unknown) => {
      throw isFullDisk(error) ? noSpace(`The disk is full where ${root} is`, error) : error;
    });
    await rename(draft, entry).catch((error: unknown) => {
      // Somebody else finished the same entry first: theirs is as good.
      if (!existsSync(entry)) throw error;
    });
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
  return entry;
}

/** Drafts of processes that are gone: a build that was killed leaves up to 2 GB behind. */
async function removeAbandoned(root: string): Promise<void> {
  for (const name of await readdir(root)) {
    if (!name.startsWith(DRAFT_PREFIX)) continue;
    if (isRunning(Number.parseInt(name.slice(DRAFT_PREFIX.length), 10))) continue;
    await rm(join(root, name), { recursive: true, force: true });
  }
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    // Somebody else's process runs, too.
    return error instanceof Error && "code" in error && error.code === "EPERM";
  }
}

/** @throws {BuildProblem} `no-space` if fewer than `byteCount` bytes are free where the cache is. */
export async function requireSpace(byteCount: number): Promise<void> {
  const root = cacheRoot();
  await mkdir(root, { recursive: true });
  const { bavail, bsize } = await statfs(root);
  if (bavail * bsize >= byteCount) return;
  throw noSpace(`${root} has ${amount(bavail * bsize)} free and the build needs ${amount(byteCount)}`);
}

function noSpace(what: string, cause?: unknown): BuildProblem {
  return new BuildProblem(
    "no-space",
    `${what}: free some, or set IOMMU_KIT_CACHE to a directory on a larger disk.`,
    cause,
  );
}

function isFullDisk(error: unknown): boolean {
  return error instanceof Error && "code" in error && (error.code === "ENOSPC" || error.code === "EDQUOT");
}

function amount(byteCount: number): string {
  return byteCount < 1e9 ? `${(byteCount / 1e6).toFixed(0)} MB` : `${(byteCount / 1e9).toFixed(1)} GB`;
}

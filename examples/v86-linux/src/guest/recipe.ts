/**
 * What is built into the cache, as values: the names are known, and all tools can be asked for, before anything is built.
 */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { cached, cacheRoot } from "./build-cache.js";
import { requireTools } from "./debian-packages.js";

/** One directory of the cache, and how to fill it. */
export interface Recipe {
  /** Name of the directory; changes with everything that decides what comes out. */
  readonly entry: string;
  /** Programs (or files, with a leading slash) the build needs, and the Debian package that has each. */
  readonly tools: Readonly<Record<string, string>>;
  /** Fills an empty directory. */
  readonly build: (directory: string) => Promise<void>;
}

/**
 * The directories of `recipes`, in their order; what is not in the cache is built.
 * @throws {BuildProblem} `missing-tool` before anything is built, with the packages that are missing for all of them; or what a build throws.
 */
export async function fromCache(recipes: readonly Recipe[]): Promise<readonly string[]> {
  const absent = recipes.filter(({ entry }) => !existsSync(join(cacheRoot(), entry)));
  await requireTools(Object.assign({}, ...absent.map(({ tools }) => tools)) as Recipe["tools"]);
  const directories: string[] = [];
  for (const { entry, build } of recipes) directories.push(await cached(entry, build));
  return directories;
}

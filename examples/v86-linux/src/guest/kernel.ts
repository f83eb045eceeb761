/**
 * Builds the guest's kernel from Debian's source package: the driver in it is Debian's, unmodified.
 *
 * One condition outside the driver is changed by `SOURCE_EDITS`: 6.1 flushes cache lines with an instruction that v86 does not have, without asking
 * whether the processor has it. The edit makes it ask.
 */

import { readFile, rm, writeFile, copyFile, mkdir } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { recipeHash, requireSpace } from "./build-cache.js";
import { BuildProblem } from "./build-problem.js";
import type { DebianPackages } from "./debian-packages.js";
import type { Recipe } from "./recipe.js";
import { runCommand } from "./run-command.js";

const SOURCE_PACKAGE = "linux-source-6.1";
const SOURCE_TREE = "linux-source-6.1";
const BUILD_BYTES = 2.6e9;

/** Tools of the build, and the Debian package that has each. */
const TOOLS = {
  gcc: "gcc",
  make: "make",
  flex: "flex",
  bison: "bison",
  bc: "bc",
  xz: "xz-utils",
  tar: "tar",
  perl: "perl",
  "/usr/include/stdio.h": "libc6-dev",
} as const;

interface SourceEdit {
  readonly file: string;
  readonly why: string;
  readonly find: string;
  readonly replace: string;
}

/** Each `find` must occur exactly once, or the build stops: an edit that silently does nothing would be found out by a crash in the guest. */
const SOURCE_EDITS: readonly SourceEdit[] = [
  {
    file: "arch/x86/mm/pat/set_memory.c",
    why: "v86 has no CLFLUSH and says so in CPUID; its memory is coherent",
    find: "\tif (p >= vend)\n\t\treturn;\n\n\tfor (; p < vend; p += clflush_size)\n\t\tclflushopt(p);",
    replace:
      "\tif (p >= vend || !boot_cpu_has(X86_FEATURE_CLFLUSH))\n\t\treturn;\n\n\tfor (; p < vend; p += clflush_size)\n\t\tclflushopt(p);",
  },
];

/** The kernel, as `bzImage` with its `config`: takes about ten minutes. `progress` gets one line per step. */
export async function kernelRecipe(
  configFile: string,
  packages: DebianPackages,
  progress: (line: string) => void,
): Promise<Recipe> {
  const fragment = await readFile(configFile, "utf8");
  const version = await packages.candidateVersion(SOURCE_PACKAGE);
  const entry = `kernel-${recipeHash([SOURCE_PACKAGE, version, fragment, JSON.stringify(SOURCE_EDITS)])}`;
  const build = async (draft: string): Promise<void> => {
    progress(`kernel: building ${SOURCE_PACKAGE} ${version} (once; about ten minutes)`);
    await requireSpace(BUILD_BYTES);
    const source = await unpackSource(packages, draft, progress);
    await applyEdits(source, progress);
    const objects = await configure(source, draft, configFile, fragment, progress);
    await compile(source, objects, progress);
    await copyFile(join(objects, "arch/x86/boot/bzImage"), join(draft, "bzImage"));
    await copyFile(join(objects, ".config"), join(draft, "config"));
    await writeFile(
      join(draft, "recipe.txt"),
      `${SOURCE_PACKAGE} ${version}\n${SOURCE_EDITS.map((edit) => `${edit.file}: ${edit.why}`).join("\n")}\n`,
    );
    await rm(source, { recursive: true });
    await rm(objects, { recursive: true });
  };
  return { entry, tools: TOOLS, build };
}

async function unpackSource(
  packages: DebianPackages,
  draft: string,
  progress: (line: string) => void,
): Promise<string> {
  progress(`kernel: downloading ${SOURCE_PACKAGE} (140 MB)`);
  const unpacked = await packages.unpacked(SOURCE_PACKAGE);
  progress("kernel: unpacking the source (1.5 GB)");
  await runCommand("tar", ["-xf", join(unpacked, `usr/src/${SOURCE_TREE}.tar.xz`), "-C", draft]);
  return join(draft, SOURCE_TREE);
}

async function applyEdits(source: string, progress: (line: string) => void): Promise<void> {
  for (const edit of SOURCE_EDITS) {
    progress(`kernel: one edit in ${edit.file}: ${edit.why}`);
    const file = join(source, edit.file);
    const text = await readFile(file, "utf8");
    if (text.split(edit.find).length !== 2) {
      throw new BuildProblem(
        "command-failed",
        `${edit.file} of this kernel does not look as expected: give a kernel with --kernel FILE, or adapt SOURCE_EDITS in src/guest/kernel.ts to it.`,
      );
    }
    await writeFile(file, text.replace(edit.find, edit.replace));
  }
}

/** Configures into `draft/build` and checks that every line of the fragment survived: options that do not exist any more vanish without a word. */
async function configure(
  source: string,
  draft: string,
  configFile: string,
  fragment: string,
  progress: (line: string) => void,
): Promise<string> {
  progress("kernel: configuring");
  const build = join(draft, "build");
  await mkdir(build);
  const make = ["-s", "-C", source, "ARCH=i386", `O=${build}`];
  await runCommand("make", [...make, "tinyconfig"]);
  await runCommand(
    join(source, "scripts/kconfig/merge_config.sh"),
    ["-m", "-O", build, join(build, ".config"), configFile],
    { cwd: build },
  );
  await runCommand("make", [...make, "olddefconfig"]);
  const config = new Set((await readFile(join(build, ".config"), "utf8")).split("\n"));
  const lost = fragment.split("\n").filter((line) => /^(# )?CONFIG_/.test(line) && !config.has(line));
  if (lost.length > 0)
    throw new BuildProblem(
      "command-failed",
      `This kernel did not take ${lost.join(", ")}: mend guest/kernel.config for it, or give a kernel with --kernel FILE.`,
    );
  return build;
}

async function compile(source: string, build: string, progress: (line: string) => void): Promise<void> {
  const jobs = Math.max(2, availableParallelism());
  progress(`kernel: compiling with ${jobs} jobs`);
  let files = 0;
  const onLine = (line: string): void => {
    if (!/^\s+(CC|AS|LD|AR)\s/.test(line)) return;
    files += 1;
    if (files % 250 === 0) progress(`kernel: ${files} of about 1,600 files`);
  };
  await runCommand("nice", ["-n", "10", "make", `-j${jobs}`, "-C", source, "ARCH=i386", `O=${build}`, "bzImage"], {
    onLine,
  });
  progress(`kernel: ${files} files compiled`);
}

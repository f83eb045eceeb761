/**
 * Debian packages, downloaded and unpacked into the cache: nothing is installed, no root is needed, the system's own apt lists stay as they are.
 *
 * Each architecture gets an apt state of its own (lists and downloads in the cache), with the system's sources and keys: signatures are checked
 * as always. A list that cannot be refreshed is not fatal as long as the package is found in those that can.
 */

import { existsSync } from "node:fs";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { cacheRoot, cached, requireSpace } from "./build-cache.js";
import { BuildProblem, recogniseProblem } from "./build-problem.js";
import { hasCommand, runCommand } from "./run-command.js";

/** Architectures that packages are wanted for: the machine's own and the guest's. */
export type PackageArchitecture = "native" | "i386";

/** Lists of packages of one architecture, with what apt makes of them meanwhile. */
const APT_BYTES = 150e6;

/** Downloads packages of one architecture. */
export class DebianPackages {
  readonly #architecture: PackageArchitecture;
  #refreshed: Promise<string> | undefined;

  constructor(architecture: PackageArchitecture) {
    this.#architecture = architecture;
  }

  /**
   * The version that would be downloaded now.
   * @throws {BuildProblem} `no-apt`, `no-network` or `unknown-package`.
   */
  async candidateVersion(name: string): Promise<string> {
    const refreshOutput = await this.#refresh();
    const { output } = await runCommand("apt-cache", [...this.#options(), "policy", name]);
    const version = /^\s*Candidate: (\S+)/m.exec(output)?.[1];
    if (version !== undefined && version !== "(none)") return version;
    throw (
      recogniseProblem(refreshOutput, cacheRoot()) ??
      new BuildProblem(
        "unknown-package",
        `apt knows no package ${name}: add Debian 12 (bookworm, main) to the apt sources of this machine, or give a kernel of your own with --kernel FILE.`,
      )
    );
  }

  /** The directory of the unpacked package `name`, in its candidate version. */
  async unpacked(name: string): Promise<string> {
    const version = await this.candidateVersion(name);
    const entry = `package-${name}-${this.#architecture}-${version.replaceAll(/[^\w.+~-]/g, "_")}`;
    return cached(entry, async (directory) => {
      const download = [...this.#options(), "download", `${name}=${version}`];
      await runCommand("apt-get", download, { cwd: directory }).catch(async (error: unknown) => {
        throw recogniseProblem(await this.#refresh(), cacheRoot()) ?? error;
      });
      const archive = (await readdir(directory)).find((file) => file.endsWith(".deb"));
      if (archive === undefined)
        throw new BuildProblem(
          "command-failed",
          `apt-get downloaded no file for ${name} ${version}: try again, the mirror may be in the middle of an update.`,
        );
      await runCommand("dpkg-deb", ["-x", archive, "."], { cwd: directory });
      await runCommand("rm", ["--", archive], { cwd: directory });
    });
  }

  #options(): string[] {
    const state = join(cacheRoot(), `apt-${this.#architecture}`);
    const own = [
      "-o",
      `Dir::State::Lists=${state}/lists`,
      "-o",
      `Dir::Cache=${state}/cache`,
      "-o",
      "APT::Sandbox::User=root",
      "-o",
      "Debug::NoLocking=1",
    ];
    if (this.#architecture === "native") return own;
    return [...own, "-o", `APT::Architecture=${this.#architecture}`, "-o", `APT::Architectures=${this.#architecture}`];
  }

  #refresh(): Promise<string> {
    this.#refreshed ??= this.#update();
    return this.#refreshed;
  }

  async #update(): Promise<string> {
    if (!(await hasCommand("apt-get")) || !(await hasCommand("dpkg-deb"))) {
      throw new BuildProblem(
        "no-apt",
        "There is no apt-get here, and the guest is built from Debian packages: run this on Debian 12 (a container will do), or set IOMMU_KIT_CACHE to a cache that was filled there.",
      );
    }
    // apt calls its own files corrupted when the disk is full.
    await requireSpace(APT_BYTES);
    const state = join(cacheRoot(), `apt-${this.#architecture}`);
    await mkdir(join(state, "lists", "partial"), { recursive: true });
    await mkdir(join(state, "cache", "archives", "partial"), { recursive: true });
    // Its status is not asked: whether what it could not refresh matters is known when a package is not found.
    const { output } = await runCommand("apt-get", [...this.#options(), "update"], { mayFail: true });
    return output;
  }
}

/**
 * @throws {BuildProblem} `missing-tool`, naming every Debian package that is missing and the command that installs them all.
 */
export async function requireTools(tools: Readonly<Record<string, string>>): Promise<void> {
  const missing = new Set<string>();
  for (const [tool, debianPackage] of Object.entries(tools)) {
    const found = tool.startsWith("/") ? existsSync(tool) : await hasCommand(tool);
    if (!found) missing.add(debianPackage);
  }
  if (missing.size === 0) return;
  const names = [...missing].join(" ");
  throw new BuildProblem(
    "missing-tool",
    `The guest cannot be built without ${names}: run \`sudo apt-get install --no-install-recommends ${names}\` and start again.`,
  );
}

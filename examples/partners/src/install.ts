/**
 * The partners' programs: whether they are there, and, if asked, getting them from Debian.
 */
import { spawnSync } from "node:child_process";

/** Programs and the Debian packages that bring them. */
export const PROGRAMS = {
  "dpdk-testpmd": ["dpdk", "dpdk-dev"],
  "qemu-system-x86_64": ["qemu-system-x86"],
} as const;

/** A program by name. */
export type Program = keyof typeof PROGRAMS;

/** Whether a program is on the path. */
export function isInstalled(program: Program): boolean {
  return spawnSync("sh", ["-c", `command -v ${program}`], { stdio: "ignore" }).status === 0;
}

/** Installs what is missing. @throws {Error} where apt-get is not there or fails. */
export function install(programs: readonly Program[]): void {
  const packages = programs.filter((program) => !isInstalled(program)).flatMap((program) => PROGRAMS[program]);
  if (packages.length === 0) return;
  console.log(`installing ${packages.join(" ")} ...`);
  const isRoot = process.getuid?.() === 0;
  for (const args of [
    ["update", "-qq"],
    ["install", "-y", "-qq", "--no-install-recommends", ...packages],
  ]) {
    const [command = "", ...rest] = isRoot ? ["apt-get", ...args] : ["sudo", "apt-get", ...args];
    const { status } = spawnSync(command, rest, {
      stdio: ["ignore", "ignore", "inherit"],
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    });
    if (status !== 0)
      throw new Error(
        `${command} ${rest.join(" ")} failed: the packages are Debian's; elsewhere install ${packages.join(", ")} by hand`,
      );
  }
}

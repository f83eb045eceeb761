/**
 * What stops the guest from being built, in one sentence that says what to do about it.
 *
 * Everything that can go wrong on somebody else's machine ends here: a package that is missing, an apt that is not there, no network, no room
 * on the disk, a file that is not a kernel v86 can boot.
 */

/** Stable names of the causes, for `--json`. */
export type BuildProblemCode =
  | "missing-tool"
  | "no-apt"
  | "unknown-package"
  | "no-network"
  | "no-space"
  | "wrong-kernel"
  | "command-failed"
  | "bad-option";

/** A build that cannot go on. `message` is one sentence with the cause and the remedy. */
export class BuildProblem extends Error {
  override readonly name = "BuildProblem";
  readonly code: BuildProblemCode;

  constructor(code: BuildProblemCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
  }
}

/** Reads the output of a failed tool for a cause that has a remedy of its own; `undefined` if it names none. */
export function recogniseProblem(output: string, where: string): BuildProblem | undefined {
  if (/No space left on device|Disk quota exceeded/i.test(output)) {
    return new BuildProblem(
      "no-space",
      `The disk is full: free about 3 GB under ${where}, or set IOMMU_KIT_CACHE to a directory on a larger disk.`,
    );
  }
  if (
    /Temporary failure resolving|Could not resolve|Could not connect|Network is unreachable|Connection (timed out|refused|failed)/i.test(
      output,
    )
  ) {
    return new BuildProblem(
      "no-network",
      "There is no network to Debian's archive: connect this machine, or point apt at a mirror, and start again; what is already in the cache is kept.",
    );
  }
  return undefined;
}

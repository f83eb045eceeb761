/**
 * Runs a tool to its end. Its output is kept, not shown: a failure carries the last lines, a success costs one line of progress elsewhere.
 */

import { spawn } from "node:child_process";
import { BuildProblem, recogniseProblem } from "./build-problem.js";

/** How a command is run. */
export interface CommandOptions {
  readonly cwd?: string;
  /** Added to the environment; messages of tools are always in English, because they are read. */
  readonly env?: Readonly<Record<string, string>>;
  /** Called with every complete line of output. */
  readonly onLine?: (line: string) => void;
  /** Answer the output even if the command fails. */
  readonly mayFail?: boolean;
}

/** What a command said, and how it ended. */
export interface CommandResult {
  readonly status: number;
  readonly output: string;
}

/**
 * Runs `command` with `args` and answers its output (stdout and stderr, in the order they came).
 * @throws {BuildProblem} `missing-tool` if there is no such program; a recognised cause, or `command-failed`, if it fails and `mayFail` is not set.
 */
export async function runCommand(
  command: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const result = await collect(command, args, options);
  if (result.status === 0 || options.mayFail === true) return result;
  const tail = result.output.trimEnd().split("\n").slice(-12).join("\n");
  throw (
    recogniseProblem(result.output, options.cwd ?? process.cwd()) ??
    new BuildProblem(
      "command-failed",
      `\`${command} ${args.slice(0, 4).join(" ")} ...\` ended with status ${result.status}; its last lines were:\n${tail}`,
    )
  );
}

/** Whether a program of this name can be started. */
export async function hasCommand(command: string): Promise<boolean> {
  const { status } = await collect("sh", ["-c", `command -v ${command}`], {});
  return status === 0;
}

function collect(command: string, args: readonly string[], options: CommandOptions): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: { ...process.env, LC_ALL: "C", ...options.env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    let line = "";
    const take = (chunk: string): void => {
      output += chunk;
      if (options.onLine === undefined) return;
      const lines = (line + chunk).split("\n");
      line = lines.pop() ?? "";
      for (const complete of lines) options.onLine(complete);
    };
    child.stdout.setEncoding("utf8").on("data", take);
    child.stderr.setEncoding("utf8").on("data", take);
    child.on("error", (error) => {
      reject(
        new BuildProblem(
          "missing-tool",
          `There is no program "${command}": install the Debian package that has it, and start again.`,
          error,
        ),
      );
    });
    child.on("close", (code, signal) => resolve({ status: code ?? (signal === null ? 1 : 128), output }));
  });
}

/** `pnpm guest [--kernel FILE] [--refresh]`: builds what the machine boots from, without booting it. Prints the paths as JSON. */

import { parseArgs } from "node:util";
import { BuildProblem } from "./build-problem.js";
import { guestFiles } from "./guest-files.js";

try {
  const { values } = options();
  const files = await guestFiles({
    refresh: values.refresh,
    progress: (line) => console.error(line),
    ...(values.kernel === undefined ? {} : { kernel: values.kernel }),
  });
  console.log(JSON.stringify(files, undefined, 2));
} catch (error) {
  if (!(error instanceof BuildProblem)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}

function options() {
  try {
    return parseArgs({ options: { kernel: { type: "string" }, refresh: { type: "boolean", default: false } } });
  } catch (cause) {
    const what = cause instanceof Error ? cause.message.split(". ")[0] : String(cause);
    throw new BuildProblem("bad-option", `${what}: the options are --kernel FILE and --refresh.`, cause);
  }
}

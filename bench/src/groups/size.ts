/** What a browser downloads, minified and gzipped: the numbers of `pnpm run size`, against the goals of this bench and the budgets. */

import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Group } from "../group.js";
import { atMost } from "../row.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const CORE = "@iommu-kit/iommu-core";
const TOGETHER = "core and vtd, main entries together";
/** What is wanted of the main entries, in kB. Everything else has its budget as its goal. */
const WANTED: Readonly<Record<string, number>> = { [CORE]: 6, [TOGETHER]: 20 };
/** Not asked for by itself: it counts together with core. */
const NO_GOAL = "@iommu-kit/iommu-vtd";

interface Entry {
  readonly name: string;
  readonly size: number;
  readonly sizeLimit: number;
}

/** See the file's header. */
export const sizeGroup: Group = {
  name: "size",
  measure(_size, report) {
    const output = sizes();
    for (const { name, size, sizeLimit } of JSON.parse(output) as readonly Entry[]) {
      const goal = WANTED[name] ?? sizeLimit / 1000;
      report({
        what: `size of ${name}`,
        against: "minified and gzipped",
        unit: "kB",
        result: size / 1000,
        ...(name === NO_GOAL ? {} : { goal: atMost(goal) }),
      });
    }
  },
};

/** The report of size-limit. It fails when a budget is exceeded, and reports all the same. */
function sizes(): string {
  const options = ["exec", "size-limit", "--config", ".ci/size-limit.mjs", "--json"];
  try {
    return execFileSync("node_modules/.bin/size-limit", options.slice(2), { cwd: root, encoding: "utf8" });
  } catch (error) {
    const { stdout } = error as { readonly stdout?: string };
    if (stdout?.startsWith("[") === true) return stdout;
    throw error;
  }
}

/**
 * Keeps what a run finds out as soon as a file is finished: a run that is broken off has judged the files before that.
 */
import { readFileSync } from "node:fs";
import { relative } from "node:path";
import { PluginKind, declareClassPlugin } from "@stryker-mutator/api/plugin";
import { readResults, resultOf, writeResults } from "./results.mjs";
import { writeSummary } from "./summary.mjs";

/** @import { MutantResult } from "@stryker-mutator/api/core" */
/** @import { MutationTestingPlanReadyEvent } from "@stryker-mutator/api/report" */

class FinishedFiles {
  /** @readonly @type {Map<string, { source: string, left: number, mutants: MutantResult[] }>} */
  #files = new Map();

  /** @param {MutationTestingPlanReadyEvent} event */
  onMutationTestingPlanReady({ mutantPlans }) {
    for (const { mutant } of mutantPlans) {
      const known = this.#files.get(mutant.fileName);
      if (known === undefined)
        this.#files.set(mutant.fileName, { source: readFileSync(mutant.fileName, "utf8"), left: 1, mutants: [] });
      else known.left += 1;
    }
  }

  /** @param {Readonly<MutantResult>} result */
  onMutantTested(result) {
    const file = this.#files.get(result.fileName);
    if (file === undefined) throw new Error(`expected a file of the plan, got ${result.fileName}`);
    file.mutants.push(result);
    file.left -= 1;
    if (file.left > 0) return;
    const path = relative(process.cwd(), result.fileName);
    const results = { ...readResults(), [path]: resultOf(path, file.source, file.mutants) };
    writeResults(results);
    writeSummary(results);
  }
}

export const strykerPlugins = [declareClassPlugin(PluginKind.Reporter, "finished-files", FinishedFiles)];

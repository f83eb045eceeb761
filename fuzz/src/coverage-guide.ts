/**
 * Tells whether a round reached code of the packages that no round before it reached, by V8's precise coverage.
 */

import { Session } from "node:inspector/promises";
import type { Profiler } from "node:inspector";

/** See the file's header. */
export class CoverageGuide {
  readonly #session = new Session();
  /** Blocks that were reached: script, function and block, with the magnitude of the count. */
  readonly #seen = new Set<string>();

  private constructor() {
    this.#session.connect();
  }

  /** Begins to count. */
  static async start(): Promise<CoverageGuide> {
    const guide = new CoverageGuide();
    await guide.#session.post("Profiler.enable");
    await guide.#session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true });
    await guide.isNew();
    return guide;
  }

  /** Whether anything was reached for the first time since the last call. */
  async isNew(): Promise<boolean> {
    const { result } = await this.#session.post("Profiler.takePreciseCoverage");
    const before = this.#seen.size;
    for (const script of result) {
      if (!/packages\/(iommu-core|iommu-vtd)\/(src|dist)\//.test(script.url) || script.url.includes("/testing/"))
        continue;
      for (const one of script.functions) this.#note(script.scriptId, one);
    }
    return this.#seen.size > before;
  }

  /** Ends counting. */
  async stop(): Promise<void> {
    await this.#session.post("Profiler.stopPreciseCoverage");
    this.#session.disconnect();
  }

  #note(scriptId: string, one: Profiler.FunctionCoverage): void {
    for (const { startOffset, endOffset, count } of one.ranges) {
      if (count === 0) continue;
      // Once, a few times, often: reaching a block in another order of magnitude is news as well.
      const magnitude = count < 2 ? 0 : count < 64 ? 1 : 2;
      this.#seen.add(`${scriptId}/${startOffset}/${endOffset}/${magnitude}`);
    }
  }
}

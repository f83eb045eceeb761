/**
 * An UNMAP-only notifier on every device: it keeps what the device was last answered, and drops what it is told to.
 *
 * What it still holds when the same page is asked for again must be the answer: an invalidation that was not announced would show as an old one.
 */

import type { UnmapNotifier } from "@iommu-kit/iommu-core";
import type { Machine } from "../machine/machine.js";
import { PageView } from "./page-view.js";

/** See the file's header. */
export class CachedAnswers {
  readonly #views = new Map<number, PageView>();

  constructor(machine: Machine, sourceIds: readonly number[]) {
    for (const sourceId of sourceIds) {
      const view = new PageView();
      const notifier: UnmapNotifier = {
        kind: "unmap",
        unmap: (iovaPfn, pageCount) => view.clear(iovaPfn, pageCount),
      };
      machine.space(sourceId).attach(notifier);
      this.#views.set(sourceId, view);
    }
  }

  /** Takes an answer. `stale`: another one was still held, which nobody had invalidated; `kept`: the same. */
  take(
    sourceId: number,
    iovaPfn: number,
    answer: { readonly gpaPfn: number; readonly access: number },
  ): "new" | "kept" | "stale" {
    const view = this.#views.get(sourceId);
    const held = view?.at(iovaPfn) ?? 0;
    const now = answer.gpaPfn * 4 + answer.access;
    view?.set(iovaPfn, 1, answer.gpaPfn, answer.access);
    if (held === 0) return "new";
    return held === now ? "kept" : "stale";
  }
}

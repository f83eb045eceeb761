/** The lists of runs: IOVA tree, shadow, cache; and remarks where a holder and the tables say different things. */

import { formatAccess, type Access } from "@iommu-kit/iommu-core";
import type { TableLeaf } from "../../dist/tables/table-tree.js";
import { count, hex, make } from "./dom.js";
import { type HeldRun, type Holders, isCurrent } from "./holders.js";
import type { Stage } from "./stage.js";

/** More are of no use to a reader. */
const MOST_RUNS = 60;

/** The three lists. */
export interface Panes {
  readonly tree: HTMLElement;
  readonly shadow: HTMLElement;
  readonly cache: HTMLElement;
}

/** Right: nobody has to drop it before the guest says so. */
const STALE = "stale until the guest flushes";

/** Draws all three. */
export function drawPanes(panes: Panes, stage: Stage, holders: Holders): void {
  const noTree =
    stage.strategy === "old"
      ? "The old strategy has none: with nothing to compare with, it starts from nothing."
      : "No MAP notifier is attached.";
  list(panes.tree, holders.tree, noTree, () => undefined);
  list(panes.shadow, holders.shadow, "No MAP notifier is attached.", (run) =>
    stage.moment !== undefined || isCurrent(stage, run) ? undefined : STALE,
  );
  list(panes.cache, holders.cache, "No cache is attached.", (run) => (isCurrent(stage, run) ? undefined : STALE));
}

/** What to say of a leaf of the tables that the shadow does not have so. */
export function remarkOn(stage: Stage, leaf: TableLeaf): string | undefined {
  const lab = stage.playground?.machines[stage.strategy].device;
  if (lab?.isAttached("map") === false) return undefined;
  return stage.followed().recorder.holds(leaf) ? undefined : "not announced";
}

function list(
  element: HTMLElement,
  runs: readonly HeldRun[] | undefined,
  without: string,
  remark: (run: HeldRun) => string | undefined,
): void {
  const { scrollTop } = element;
  const shown = (runs ?? []).slice(0, MOST_RUNS).map((run) => item(run, remark(run)));
  const more = (runs?.length ?? 0) - shown.length;
  if (more > 0) shown.push(make("li", { class: "quiet" }, `and ${count(more)} more runs`));
  if (runs === undefined) shown.push(make("li", { class: "quiet" }, without));
  else if (runs.length === 0) shown.push(make("li", { class: "quiet" }, "Nothing."));
  element.replaceChildren(...shown);
  element.scrollTop = scrollTop;
}

function item({ iovaPfn, pageCount, gpaPfn, access }: HeldRun, remark: string | undefined): HTMLLIElement {
  const where = pageCount === 1 ? hex(iovaPfn) : `${hex(iovaPfn)} to ${hex(iovaPfn + pageCount - 1)}`;
  return make(
    "li",
    {},
    make("span", { class: "label" }, where),
    " ",
    make("span", { class: "detail" }, `→ ${hex(gpaPfn)} ${formatAccess(access as Access)}`),
    ...(remark === undefined ? [] : [" ", make("span", { class: "remark" }, remark)]),
  );
}

/** The map: the same pages in every holder, a row each. What the guest never took away and is missing all the same is red. */

import { type Cell, cellsOf, coverage, type Span } from "../../dist/tables/page-map.js";
import { type HeldRun, type Holders, isCurrent } from "./holders.js";
import { count, hex, make } from "./dom.js";
import type { Stage } from "./stage.js";

const MOST_CELLS = 80;
/** Few pages do not become slabs. */
const WIDEST_CELL_PIXELS = 34;

/** Draws all rows into `element`. */
export function drawMap(element: HTMLElement, stage: Stage, holders: Holders): void {
  const { last } = stage.followed().recorder;
  const vanished = last?.vanished ?? [];
  const cells = cellsOf(
    [...[holders.tables, holders.shadow ?? [], holders.cache ?? []].flatMap((runs) => runs.map(spanOf)), ...vanished],
    MOST_CELLS,
  );
  const staleOf = (runs: readonly HeldRun[] | undefined): readonly Span[] =>
    stage.moment === undefined ? (runs ?? []).filter((run) => !isCurrent(stage, run)).map(spanOf) : [];
  const noTree = stage.strategy === "old" ? "none: the old strategy remembers nothing" : "no notifier attached";
  const rows = [
    rowOf({ name: "Guest's tables", runs: holders.tables, cells }),
    rowOf({ name: "IOVA tree", runs: holders.tree, cells, without: noTree }),
    rowOf({
      name: "MAP shadow",
      runs: holders.shadow,
      cells,
      without: "no notifier attached",
      vanished,
      isMoment: stage.moment !== undefined,
    }),
    rowOf({
      name: "Cache",
      runs: holders.cache,
      cells,
      without: "no notifier attached",
      stale: staleOf(holders.cache),
    }),
  ];
  element.replaceChildren(...rows, axis(cells));
}

interface Row {
  readonly name: string;
  readonly runs: readonly HeldRun[] | undefined;
  readonly cells: readonly Cell[];
  /** Said where there are no runs. */
  readonly without?: string;
  /** What was away during the last step. */
  readonly vanished?: readonly Span[];
  /** What the tables no longer say: right to hold until the guest flushes. */
  readonly stale?: readonly Span[];
  /** The runs are those of a moment within the step. */
  readonly isMoment?: boolean;
}

function rowOf({ name, runs, cells, without = "", vanished = [], stale = [], isMoment = false }: Row): HTMLElement {
  const held = coverage(cells, (runs ?? []).map(spanOf));
  const away = coverage(cells, sorted(vanished));
  const old = coverage(cells, sorted(stale));
  const shapes = cells.map((_, index) => {
    const [part, lost] = [held[index] ?? 0, away[index] ?? 0];
    if (lost > 0 && part < 1 && isMoment) return cellOf("gone", 1);
    if (lost > 0 && !isMoment) return cellOf("held blinked", part);
    return cellOf((old[index] ?? 0) > 0 ? "stale" : "held", part);
  });
  const pages = (runs ?? []).reduce((sum, { pageCount }) => sum + pageCount, 0);
  const text = runs === undefined ? without : `${count(pages)} ${pages === 1 ? "page" : "pages"}`;
  return make(
    "div",
    { class: "map-row" },
    make("span", { class: "map-name" }, name),
    make("div", { class: "cells", "aria-hidden": "true", style: widthOf(cells) }, ...shapes),
    make("span", { class: "map-pages" }, text),
  );
}

/** A cell that is held in part is paler. */
function cellOf(kind: string, part: number): HTMLElement {
  const opacity = part === 0 ? 0 : 0.35 + 0.65 * part;
  return make("i", {}, make("b", { class: kind, style: `opacity: ${opacity.toFixed(2)}` }));
}

function widthOf(cells: readonly Cell[]): string {
  return `max-width: ${Math.max(6, cells.length) * WIDEST_CELL_PIXELS}px`;
}

function sorted(spans: readonly Span[]): readonly Span[] {
  return spans.toSorted((a, b) => a.firstPfn - b.firstPfn);
}

function axis(cells: readonly Cell[]): HTMLElement {
  const [first, last] = [cells[0], cells.at(-1)];
  const ends =
    first === undefined || last === undefined
      ? ["no page is mapped"]
      : [hex(first.firstPfn), "IOVA pages, gaps left out", hex(last.firstPfn + last.pageCount - 1)];
  return make(
    "div",
    { class: "map-row axis" },
    make("span"),
    make("div", { style: widthOf(cells) }, ...ends.map((end) => make("span", {}, end))),
    make("span"),
  );
}

function spanOf({ iovaPfn, pageCount }: HeldRun): Span {
  return { firstPfn: iovaPfn, pageCount };
}

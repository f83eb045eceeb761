/** The map: the same pages in every holder, a row each. What the guest never took away and is missing all the same is red. */

import { type Cell, cellsOf, coverage, type Span } from "../../dist/tables/page-map.js";
import type { HeldRun, Holders } from "./holders.js";
import { count, hex, make, makeSvg } from "./dom.js";
import type { Stage } from "./stage.js";

const MOST_CELLS = 80;
const CELL = 12;
const HEIGHT = 20;

/** Draws all rows into `element`. */
export function drawMap(element: HTMLElement, stage: Stage, holders: Holders): void {
  const { last } = stage.followed().recorder;
  const vanished = last?.vanished ?? [];
  const cells = cellsOf(
    [...[holders.tables, holders.shadow ?? [], holders.cache ?? []].flatMap((runs) => runs.map(spanOf)), ...vanished],
    MOST_CELLS,
  );
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
    rowOf({ name: "Cache", runs: holders.cache, cells, without: "no notifier attached" }),
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
  /** The runs are those of a moment within the step. */
  readonly isMoment?: boolean;
}

function rowOf({ name, runs, cells, without = "", vanished = [], isMoment = false }: Row): HTMLElement {
  const held = coverage(cells, (runs ?? []).map(spanOf));
  const away = coverage(
    cells,
    vanished.toSorted((a, b) => a.firstPfn - b.firstPfn),
  );
  const shapes = cells.map((_, index) => {
    const [part, lost] = [held[index] ?? 0, away[index] ?? 0];
    const kind = lost > 0 && part < 1 && isMoment ? "gone" : lost > 0 && !isMoment ? "held blinked" : "held";
    return makeSvg("g", { transform: `translate(${index * CELL} 0)` }, ...cellShapes(kind, kind === "gone" ? 1 : part));
  });
  const pages = (runs ?? []).reduce((sum, { pageCount }) => sum + pageCount, 0);
  const text = runs === undefined ? without : `${count(pages)} ${pages === 1 ? "page" : "pages"}`;
  return make(
    "div",
    { class: "map-row" },
    make("span", { class: "map-name" }, name),
    makeSvg(
      "svg",
      {
        viewBox: `0 0 ${Math.max(1, cells.length) * CELL - 2} ${HEIGHT}`,
        preserveAspectRatio: "none",
        "aria-hidden": "true",
      },
      ...shapes,
    ),
    make("span", { class: "map-pages" }, text),
  );
}

function cellShapes(kind: string, part: number): SVGElement[] {
  const size = { width: CELL - 2, height: HEIGHT, rx: 2 };
  return [
    makeSvg("rect", { ...size, class: "empty" }),
    makeSvg("rect", { ...size, class: kind, opacity: part === 0 ? 0 : 0.35 + 0.65 * part }),
    ...(kind === "held blinked" ? [makeSvg("rect", { width: CELL - 2, height: 5, y: HEIGHT - 5, class: "mark" })] : []),
  ];
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
    make("div", {}, ...ends.map((end) => make("span", {}, end))),
    make("span"),
  );
}

function spanOf({ iovaPfn, pageCount }: HeldRun): Span {
  return { firstPfn: iovaPfn, pageCount };
}

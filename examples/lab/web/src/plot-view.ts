/** The time line of a session: pages mapped, pages that vanished, and DMA that failed, under both strategies. */

import type { TimelineColumn } from "../../dist/steps/timeline.js";
import { STRATEGIES, type Strategy } from "../../dist/sessions/session.js";
import { count, make, makeSvg } from "./dom.js";
import type { Stage } from "./stage.js";

const LEFT = 8;
const RIGHT = 8;
const BAND = 62;
const TITLE = 17;

/** The two lines side by side. */
type Both = Readonly<Record<Strategy, readonly TimelineColumn[]>>;

interface Area {
  readonly width: number;
  readonly step: number;
}

/** What a band of the plot shows. */
interface Band {
  readonly title: string;
  readonly of: (column: TimelineColumn) => number;
}

const VANISHED: Band = { title: "Vanished pages", of: ({ vanishedPages }) => vanishedPages };
const FAILED: Band = { title: "Failed DMA", of: ({ refusedRequests }) => refusedRequests };
const NAMES: Readonly<Record<Strategy, string>> = { old: "Old: unmap all, map all", ours: "Ours: only differences" };

/** Draws the plot into `element`, as wide as that is. */
export function drawPlot(element: HTMLElement, stage: Stage): void {
  const width = Math.max(280, element.clientWidth);
  const { session } = stage;
  const steps = Math.max(1, session.length + 1);
  const columns = Math.max(1, Math.min(Math.floor((width - LEFT - RIGHT) / 3), steps));
  const area = { width, step: (width - LEFT - RIGHT) / columns };
  const lineOf = (strategy: Strategy): readonly TimelineColumn[] =>
    stage.followed(strategy).timeline.columns(columns, session.length);
  const both: Both = { old: lineOf("old"), ours: lineOf("ours") };
  const now = LEFT + ((session.position + 1) / steps) * (width - LEFT - RIGHT);
  const height = 3 * BAND + 4;
  const svg = makeSvg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": summaryOf(stage) },
    makeSvg("line", { class: "now", x1: now, x2: now, y1: 0, y2: height }),
    pagesBand(both, area, now),
    barsBand(VANISHED, both, area, BAND),
    barsBand(FAILED, both, area, 2 * BAND),
  );
  element.replaceChildren(svg);
}

/** Fills the table of totals. */
export function drawTotals(body: HTMLElement, stage: Stage): void {
  body.replaceChildren(
    ...STRATEGIES.map((strategy) => {
      const { vanishedPages, refusedRequests, maps, unmaps } = stage.followed(strategy).timeline.totals;
      const cell = (name: string, value: number, isLoss = false): HTMLElement =>
        make(
          "td",
          { "data-total": `${strategy} ${name}`, class: isLoss ? (value === 0 ? "good" : "bad") : undefined },
          count(value),
        );
      return make(
        "tr",
        {},
        make("th", { scope: "row" }, make("i", { class: `swatch ${strategy}` }), ...nameOf(strategy)),
        cell("vanished", vanishedPages, true),
        cell("failed", refusedRequests, true),
        cell("maps", maps),
        cell("unmaps", unmaps),
      );
    }),
  );
}

/** The name of a strategy; on a phone its first word. */
function nameOf(strategy: Strategy): readonly Node[] {
  const [short = "", long = ""] = NAMES[strategy].split(": ");
  return [document.createTextNode(short), make("span", { class: "long" }, `: ${long}`)];
}

function pagesBand(both: Both, { step }: Area, now: number): SVGGElement {
  const most = Math.max(1, ...STRATEGIES.flatMap((strategy) => both[strategy].map(({ pages }) => pages)));
  const y = (pages: number): number => BAND - 4 - (Math.log2(pages + 1) / Math.log2(most + 1)) * (BAND - TITLE - 8);
  const paths = STRATEGIES.map((strategy) => {
    const points = both[strategy].flatMap(({ pages, fewestPages }, index) => {
      const x = LEFT + index * step;
      if (x > now - step / 2) return [];
      return [
        `L${x.toFixed(1)} ${y(fewestPages).toFixed(1)}`,
        `L${x.toFixed(1)} ${y(pages).toFixed(1)}`,
        `L${(x + step).toFixed(1)} ${y(pages).toFixed(1)}`,
      ];
    });
    return makeSvg("path", {
      class: `line ${strategy}`,
      d: `M${LEFT} ${y(both[strategy][0]?.pages ?? 0).toFixed(1)}${points.join("")}`,
    });
  });
  return band(0, `Mapped pages, up to ${count(most)}, logarithmic`, ...paths);
}

function barsBand({ title, of }: Band, both: Both, { step }: Area, top: number): SVGGElement {
  const values = STRATEGIES.flatMap((strategy) => both[strategy].map(of));
  const most = Math.max(0, ...values);
  const room = BAND - TITLE - 8;
  const bars = STRATEGIES.flatMap((strategy) =>
    both[strategy].flatMap((column, index) => {
      const value = of(column);
      if (value === 0) return [];
      const height = Math.max(2, (value / most) * room);
      const shape = {
        x: LEFT + index * step,
        y: BAND - 4 - height,
        width: Math.max(1.5, Math.min(step - 1, 14)),
        height,
      };
      return [makeSvg("rect", { class: `bar ${strategy}`, ...shape })];
    }),
  );
  return band(top, most === 0 ? `${title}: none so far` : `${title}, up to ${count(most)} at once`, ...bars);
}

function band(top: number, title: string, ...shapes: readonly SVGElement[]): SVGGElement {
  return makeSvg(
    "g",
    { transform: `translate(0 ${top})` },
    makeSvg("text", { x: LEFT, y: TITLE - 4 }, title),
    makeSvg("line", { class: "base", x1: LEFT, x2: "100%", y1: BAND - 3.5, y2: BAND - 3.5 }),
    ...shapes,
  );
}

function summaryOf(stage: Stage): string {
  const sentences = STRATEGIES.map((strategy) => {
    const { vanishedPages, refusedRequests } = stage.followed(strategy).timeline.totals;
    return `${NAMES[strategy]}: ${count(vanishedPages)} pages vanished, ${count(refusedRequests)} requests failed`;
  });
  return `Time line up to step ${count(stage.session.position)} of ${count(stage.session.length)}. ${sentences.join(". ")}.`;
}

/**
 * A plot of mapped pages over the course of a trace, as an SVG element: one device under one strategy. A page lost for a while is a line down to what was left.
 *
 * Drawn is the time in which tables decide; before and after, the device reaches all RAM. The vertical scale is logarithmic, with 0 at the bottom. Samples that fall into one
 * pixel become one vertical stroke, so the size of a plot does not grow with the trace.
 */

import type { Sample } from "../trace-player.js";

/** What to draw, and on which scale. */
export interface PagePlot {
  readonly title: string;
  /** In order. */
  readonly samples: readonly Sample[];
  readonly lineCount: number;
  /** The most pages on the scale: the same for plots that are compared. */
  readonly mostPages: number;
  /** Class of the line, for its colour. */
  readonly style: "old" | "ours";
}

const WIDTH = 560;
const HEIGHT = 190;
const LEFT = 52;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 24;

/** The SVG element. */
export function pagePlot(plot: PagePlot): string {
  const { title, mostPages, lineCount } = plot;
  const y = (pages: number): number => {
    const part = Math.log10(pages + 1) / Math.log10(mostPages + 1);
    return Math.round((HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)) * 10) / 10;
  };
  const grid = ticks(mostPages).map(({ pages, label }) => {
    return (
      `<line class="grid" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(pages)}" y2="${y(pages)}"/>` +
      `<text class="tick" x="${LEFT - 6}" y="${y(pages) + 4}" text-anchor="end">${label}</text>`
    );
  });
  const xLabels =
    `<text class="tick" x="${LEFT}" y="${HEIGHT - 6}">start</text>` +
    `<text class="tick" x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 6}" text-anchor="middle">recorded events, in order</text>` +
    `<text class="tick" x="${WIDTH - RIGHT}" y="${HEIGHT - 6}" text-anchor="end">${lineCount.toLocaleString("en-US")}</text>`;
  return (
    `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escapeText(title)}">` +
    `<title>${escapeText(title)}</title>${grid.join("")}${xLabels}` +
    `<path class="line ${plot.style}" d="${linePath(plot, y)}"/></svg>`
  );
}

/** The samples in which tables decide. */
export function translated(samples: readonly Sample[]): readonly Sample[] {
  return samples.filter(({ bypass }) => !bypass);
}

/** Text that is safe inside an element or an attribute. */
export function escapeText(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

function linePath({ samples, lineCount }: PagePlot, y: (pages: number) => number): string {
  const x = (lineNumber: number): number => LEFT + Math.round((lineNumber / lineCount) * (WIDTH - LEFT - RIGHT));
  let path = "";
  for (let index = 0; index < samples.length;) {
    const column = x(samples[index]?.lineNumber ?? 0);
    let [low, high, last] = [Infinity, 0, 0];
    for (; index < samples.length && x(samples[index]?.lineNumber ?? 0) === column; index++) {
      const { fewestPages, pages } = samples[index] ?? { fewestPages: 0, pages: 0 };
      low = Math.min(low, fewestPages);
      high = Math.max(high, pages);
      last = pages;
    }
    path += path === "" ? `M${column} ${y(low)}V${y(high)}V${y(last)}` : `H${column}V${y(low)}V${y(high)}V${y(last)}`;
  }
  return `${path}H${WIDTH - RIGHT}`;
}

function ticks(mostPages: number): { readonly pages: number; readonly label: string }[] {
  const marks = [{ pages: 0, label: "0" }];
  const names = ["1", "10", "100", "1 k", "10 k", "100 k", "1 M"];
  // The scale's end has a mark of its own; the power of ten below it only where both have room.
  for (const [power, label] of names.entries())
    if (power > 0 && 10 ** power * 4 < mostPages) marks.push({ pages: 10 ** power, label });
  return [...marks, { pages: mostPages, label: mostPages.toLocaleString("en-US") }];
}

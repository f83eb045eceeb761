/** The report as one HTML file without anything from outside: plots of both strategies side by side, and the tables of the terminal. Light and dark. */

import type { Playback } from "../trace-player.js";
import { escapeText, pagePlot, translated } from "./page-plot.js";
import { type Comparison, formatCount, lossTotals, summarize, type Table } from "./summary.js";

/** Devices plotted for each trace. */
const PLOTTED = 4;

const WITHOUT_CACHING_MODE =
  "Recorded without caching mode, which this machine has so that a container may follow: the driver flushes whole domains, now and then, and a container learns of new pages with the next flush.";

const STYLE = `
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c6370; --paper: #fcfcfb; --card: #fff; --rule: #dfe1e5; --old: #c2410c; --ours: #0b6bcb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e6; --soft: #a0a6b1; --paper: #16181b; --card: #1e2125; --rule: #343941; --old: #fb923c; --ours: #5eb1ff; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .25rem; }
h3 { font-size: 1rem; margin: 2rem 0 .5rem; }
p { max-width: 46rem; margin: .5rem 0; }
.soft { color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: 1rem; margin: 1.25rem 0; }
.figure { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: .9rem 1rem; }
.figure b { display: block; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.old b { color: var(--old); } .ours b { color: var(--ours); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: .75rem 1.25rem; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: .6rem .75rem; }
figcaption { font-size: .875rem; } figcaption i { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .45em; }
i.old { background: var(--old); } i.ours { background: var(--ours); }
svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--rule); } .tick { fill: var(--soft); font-size: 11px; }
.line { fill: none; stroke-width: 1.3; stroke-linejoin: round; } .line.old { stroke: var(--old); } .line.ours { stroke: var(--ours); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; } th, td { padding: .25rem 1.1rem .25rem 0; text-align: left; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; } td:first-child { white-space: pre-wrap; } td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
`;

/** The file's text. */
export function htmlReport(comparisons: readonly Comparison[]): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>iommu-kit: a Linux driver's trace, old replay and ours</title>
<style>${STYLE}</style>
</head>
<body>
<h1>The same driver, the same machine, two ways to follow its page tables</h1>
<p>An unmodified Linux drove an Intel VT-d unit once, and everything it did was recorded. Here the recording is played into a machine made of iommu-kit. Each device
has a container behind it, as in VFIO, that must hold what the device may reach. Older emulators followed an invalidation by unmapping everything and mapping it again
from the tables; iommu-kit announces differences only.</p>
<p class="soft">In the plots a line that falls and comes back is a live device without its memory; hundreds of them fill the plot. Vertical scale logarithmic.</p>
${[...comparisons]
  .sort((a, b) => lossTotals(b.old).vanishedPages - lossTotals(a.old).vanishedPages)
  .map(traceSection)
  .join("\n")}
</body>
</html>
`;
}

function traceSection(comparison: Comparison): string {
  const { old, ours } = comparison;
  const { header, name } = ours.trace;
  const figure = (kind: string, value: string, text: string): string =>
    `<div class="figure ${kind}"><b>${value}</b>${text}</div>`;
  const lost = lossTotals(old);
  const checked = ours.checks.translations;
  return `<section>
<h2>${escapeText(name)}</h2>
<p class="soft">${escapeText(header.guest)}, ${escapeText(header.kernelArguments)}: ${escapeText(header.work)}.${header.cachingMode ? "" : ` ${WITHOUT_CACHING_MODE}`}</p>
<div class="figures">
${figure("old", formatCount(lost.vanishedPages), "live pages vanished: unmap all, then map")}
${figure("ours", formatCount(lossTotals(ours).vanishedPages), "live pages vanished: iommu-kit")}
${figure("old", formatCount(lost.refusedRequests), "requests of devices at work refused meanwhile")}
${figure("", formatCount(checked.passed), `of ${formatCount(checked.passed + checked.failed)} DMA requests answered as recorded`)}
</div>
<h3>Pages mapped, device by device</h3>
<div class="plots">
${plots(comparison)}
</div>
${summarize(comparison).reverse().map(htmlTable).join("\n")}
</section>`;
}

/** The devices that made requests, those that lost most first, each under both strategies on one scale. */
function plots({ old, ours }: Comparison): string {
  const requests = ({ device }: Playback["devices"][number]): number =>
    device.cache.statistics.hits + device.cache.statistics.misses;
  const lost = ({ device }: Playback["devices"][number]): number =>
    old.devices.find((it) => it.device.space.sourceId === device.space.sourceId)?.device.container.gaps.vanishedPages ??
    0;
  const plotted = [...ours.devices]
    .filter((it) => requests(it) > 0)
    .sort((a, b) => lost(b) - lost(a) || requests(b) - requests(a))
    .slice(0, PLOTTED);
  const { lineCount } = ours.trace;
  return plotted
    .flatMap((it) => {
      const other = old.devices.find(({ device }) => device.space.sourceId === it.device.space.sourceId);
      if (other === undefined) return [];
      const mostPages = Math.max(
        10,
        ...[...translated(it.samples), ...translated(other.samples)].map(({ pages }) => pages),
      );
      const label = `${it.device.space.label} ${it.device.name}`;
      const dips = other.device.container.gaps.steps;
      const draw = (style: "old" | "ours", samples: Playback["devices"][number]["samples"], what: string): string =>
        `<figure><figcaption><i class="${style}"></i><b>${escapeText(label)}</b> ${what}</figcaption>` +
        `${pagePlot({ title: `Pages mapped for ${label}, ${what}`, samples: translated(samples), lineCount, mostPages, style })}</figure>`;
      return [
        draw("old", other.samples, `unmap all, then map: gone ${formatCount(dips)} times`),
        draw("ours", it.samples, `iommu-kit: gone ${formatCount(it.device.container.gaps.steps)} times`),
      ];
    })
    .join("\n");
}

function htmlTable({ title, columns, rows, note }: Table): string {
  const isNumeric = columns.map((_, index) => index > 0 && rows.every((row) => /^[\d,. %ms]*$/.test(row[index] ?? "")));
  const cell = (tag: "td" | "th", text: string, index: number): string =>
    `<${tag}${isNumeric[index] === true ? ' class="number"' : ""}>${escapeText(text)}</${tag}>`;
  const head = columns.some((column) => column !== "")
    ? `<thead><tr>${columns.map((column, index) => cell("th", column, index)).join("")}</tr></thead>`
    : "";
  const body = rows.map((row) => `<tr>${row.map((text, index) => cell("td", text, index)).join("")}</tr>`).join("");
  const below = note === undefined ? "" : `<p class="soft">${escapeText(note)}</p>`;
  return `<h3>${escapeText(title)}</h3><div class="scroll"><table>${head}<tbody>${body}</tbody></table></div>${below}`;
}

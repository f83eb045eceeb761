/** What the playbacks of one trace say, as tables of text: the terminal and the HTML page show the same ones. */

import type { Playback } from "../trace-player.js";

/** A table. The first column is text, the others are numbers or short text. */
export interface Table {
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
  /** Below the table. */
  readonly note?: string;
}

/** One trace under both strategies. */
export interface Comparison {
  readonly old: Playback;
  readonly ours: Playback;
}

/** Sums over the devices of a playback. */
export interface LossTotals {
  readonly vanishedPages: number;
  readonly occasions: number;
  readonly refusedRequests: number;
  readonly longestCalls: number;
  readonly longestMilliseconds: number;
  readonly totalMilliseconds: number;
  readonly containerCalls: number;
}

/** What was lost while a trace was played. */
export function lossTotals({ devices }: Playback): LossTotals {
  const sum = (value: (it: Playback["devices"][number]) => number): number =>
    devices.reduce((total, it) => total + value(it), 0);
  const longest = (value: (it: Playback["devices"][number]) => number): number => Math.max(0, ...devices.map(value));
  return {
    vanishedPages: sum(({ device }) => device.container.gaps.vanishedPages),
    occasions: sum(({ device }) => device.container.gaps.steps),
    refusedRequests: sum(({ device }) => device.container.gaps.refusedRequests),
    longestCalls: longest(({ device }) => device.container.gaps.longestCalls),
    longestMilliseconds: longest(({ device }) => device.container.gaps.longestMilliseconds),
    totalMilliseconds: sum(({ device }) => device.container.gaps.totalMilliseconds),
    containerCalls: sum(({ device }) => device.container.calls.maps + device.container.calls.unmaps),
  };
}

/** Checks that failed in either playback, and live pages that vanished under our strategy: 0 if all is well. */
export function failureCount({ old, ours }: Comparison): number {
  const failed = (playback: Playback): number =>
    Object.values(playback.checks).reduce((total, check) => total + check.failed, 0);
  return failed(old) + failed(ours) + lossTotals(ours).vanishedPages;
}

/** The tables of one trace, the point of it last. */
export function summarize({ old, ours }: Comparison): Table[] {
  return [
    driverTable(ours),
    checksTable(ours),
    notificationsTable(ours),
    cachesTable(ours),
    comparisonTable(old, ours),
  ];
}

/** A number for people. */
export function formatCount(value: number): string {
  return value.toLocaleString("en-US");
}

function driverTable({ driver }: Playback): Table {
  const rows = [
    ...counted("register writes", driver.writes),
    ...counted("invalidations queued", driver.invalidations),
    ["register reads", formatCount(driver.registerReads)],
    ["64-bit words of tables and queue changed", formatCount(driver.memoryWords)],
  ];
  return { title: "What the driver did", columns: ["", "times"], rows };
}

function counted(what: string, counts: ReadonlyMap<string, number>): string[][] {
  const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
  const parts = [...counts].sort((a, b) => b[1] - a[1]);
  return [[what, formatCount(total)], ...parts.map(([name, count]) => [`  ${name}`, formatCount(count)])];
}

function checksTable({ checks, unannounced, trace }: Playback): Table {
  const row = (what: string, check: { readonly passed: number; readonly failed: number }): string[] => [
    what,
    formatCount(check.passed),
    formatCount(check.failed),
  ];
  const rows = [
    row("DMA requests: address, rights and block size", checks.translations),
    row("interrupts: address and data after remapping", checks.interrupts),
    row("registers: the value that the driver read", checks.registerReads),
    row("wait descriptors: the word stored", checks.waits),
  ];
  if (trace.header.cachingMode) {
    rows.push(row("containers compared with a fresh walk of the tables", checks.views));
    return { title: "Compared with the recording", columns: ["", "same", "different"], rows };
  }
  return {
    title: "Compared with the recording",
    columns: ["", "same", "different"],
    rows,
    note:
      `Recorded without caching mode: this driver announces a new mapping only with its next flush, and ${formatCount(unannounced)} requests came before that. ` +
      "They go through the unit; a container can follow such a driver late only.",
  };
}

function notificationsTable({ events, devices }: Playback): Table {
  const calls = (kind: "maps" | "unmaps" | "mappedPages" | "unmappedPages"): number =>
    devices.reduce((total, { device }) => total + device.container.calls[kind], 0);
  const flushes = devices.reduce((total, { device }) => total + device.cache.statistics.flushes, 0);
  const dropped = devices.reduce((total, { device }) => total + device.cache.statistics.flushedEntries, 0);
  const count = (name: string): string => formatCount(events.get(name) ?? 0);
  return {
    title: "Notifications",
    columns: ["notifier", "", "times", "pages or entries"],
    rows: [
      ["MAP (container)", "map", formatCount(calls("maps")), formatCount(calls("mappedPages"))],
      ["", "unmap", formatCount(calls("unmaps")), formatCount(calls("unmappedPages"))],
      ["", "change of target or rights", count("change"), ""],
      ["", "window: live pages briefly unmapped", count("window"), ""],
      ["", "refused or failed", formatCount((events.get("refused") ?? 0) + (events.get("failed") ?? 0)), ""],
      ["UNMAP-only (cache)", "flush", formatCount(flushes), formatCount(dropped)],
    ],
  };
}

function cachesTable({ devices }: Playback): Table {
  const rows = devices
    .map(({ device }) => ({ name: `${device.space.label} ${device.name}`, statistics: device.cache.statistics }))
    .filter(({ statistics }) => statistics.hits + statistics.misses > 0)
    .map(({ name, statistics: { hits, misses, refused, flushedEntries } }) => [
      name,
      formatCount(hits + misses),
      `${((100 * hits) / (hits + misses)).toFixed(1)} %`,
      formatCount(refused),
      formatCount(flushedEntries),
    ]);
  return {
    title: "Translation caches of the devices",
    columns: ["device", "requests", "hits", "refused", "entries flushed"],
    rows,
  };
}

function comparisonTable(oldPlayback: Playback, ourPlayback: Playback): Table {
  const [old, ours] = [lossTotals(oldPlayback), lossTotals(ourPlayback)];
  const row = (what: string, value: (totals: LossTotals) => string): string[] => [what, value(old), value(ours)];
  const milliseconds = (value: number): string => (value === 0 ? "0" : `${value.toFixed(2)} ms`);
  return {
    title: "The point: pages that stay mapped, and were gone for a while",
    columns: ["", "unmap all, then map", "iommu-kit"],
    rows: [
      row("live pages that vanished", (it) => formatCount(it.vanishedPages)),
      row("how often (invalidations x devices)", (it) => formatCount(it.occasions)),
      row("requests of a device at work, refused meanwhile", (it) => formatCount(it.refusedRequests)),
      row("longest gap in calls to the container", (it) => formatCount(it.longestCalls)),
      row("longest gap in time", (it) => milliseconds(it.longestMilliseconds)),
      row("all gaps together", (it) => milliseconds(it.totalMilliseconds)),
      row("calls to the container", (it) => formatCount(it.containerCalls)),
    ],
  };
}

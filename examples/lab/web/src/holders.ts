/** What each of the four holders has of the device shown: read from the real packages whenever the page is drawn. */

import { inspect } from "@iommu-kit/iommu-vtd/inspect";
import { walkDomain } from "@iommu-kit/linux-trace/follow/walk-domain";
import { type TableNode, tableTree } from "../../dist/tables/table-tree.js";
import type { Stage } from "./stage.js";

/** Frames with consecutive targets and equal rights, as every holder lists them. */
export interface HeldRun {
  readonly iovaPfn: number;
  readonly pageCount: number;
  readonly gpaPfn: number;
  readonly access: number;
}

/** See the file's header. */
export interface Holders {
  /** What the tables say now. */
  readonly tables: readonly HeldRun[];
  /** What was announced; `undefined`: nobody remembers. */
  readonly tree: readonly HeldRun[] | undefined;
  /** At the moment shown; `undefined`: no notifier is attached. */
  readonly shadow: readonly HeldRun[] | undefined;
  readonly cache: readonly HeldRun[] | undefined;
}

const ROOT_TABLE_ADDRESS = 0x20;
const GLOBAL_STATUS = 0x1c;
const EVERYWHERE = { firstPfn: 0, pageCount: 2 ** 52 };
const RIGHTS: Readonly<Record<string, number>> = { "r-": 1, "-w": 2, rw: 3 };
/** No session has more runs than this in one address space. */
const ALL_RUNS = 2 ** 20;

/** Reads all four. */
export function holdersOf(stage: Stage): Holders {
  const { device, recorder } = stage.followed();
  const { device: lab } = stage.playground?.machines[stage.strategy] ?? {};
  const isAttached = (kind: "map" | "unmap"): boolean => lab?.isAttached(kind) ?? true;
  const shadow = stage.moment === undefined ? device.container.inner : recorder.heldAfter(stage.moment);
  return {
    tables: walkDomain(device.space.domain, stage.machine.regions, EVERYWHERE),
    tree: stage.strategy === "ours" && isAttached("map") ? announced(stage) : undefined,
    shadow: isAttached("map") ? [...shadow.ranges()] : undefined,
    cache: isAttached("unmap") ? [...device.cache.entries()].toSorted((a, b) => a.iovaPfn - b.iovaPfn) : undefined,
  };
}

/** The guest's tables as a tree; `undefined`: translation is off. */
export function tablesOf(stage: Stage): TableNode | undefined {
  const { unit, read } = stage.machine;
  if (unit.mmio.read32(GLOBAL_STATUS) >>> 31 === 0) return undefined;
  const rootPfn = Number(unit.mmio.read64(ROOT_TABLE_ADDRESS) >> 12n);
  return tableTree(rootPfn, stage.sourceId, read);
}

/** Whether the tables say the same of all of a run. */
export function isCurrent(stage: Stage, run: HeldRun): boolean {
  const { domain } = stage.followed().device.space;
  const [now, more] = walkDomain(domain, stage.machine.regions, { firstPfn: run.iovaPfn, pageCount: run.pageCount });
  return (
    more === undefined &&
    now?.iovaPfn === run.iovaPfn &&
    now.pageCount === run.pageCount &&
    now.gpaPfn === run.gpaPfn &&
    now.access === run.access
  );
}

function announced(stage: Stage): readonly HeldRun[] {
  const { label } = stage.followed().device.space.domain;
  const { views } = inspect(stage.machine.unit, { ranges: ALL_RUNS, entries: 1 });
  const ranges = views.find(({ domain }) => domain === label)?.mappings.ranges ?? [];
  return ranges.map((range) => ({ ...range, access: RIGHTS[range.access] ?? 0 }));
}

/** `mappings`: what devices may reach at a line of a trace, by the guest's tables and by what was announced. */

import { formatAccess, formatSourceId } from "@iommu-kit/iommu-core";
import { announceDifferences } from "@iommu-kit/linux-trace/follow/follow";
import { type Run, walkDomain } from "@iommu-kit/linux-trace/follow/walk-domain";
import type { Trace } from "@iommu-kit/linux-trace/trace/trace";
import { TracePlayer } from "@iommu-kit/linux-trace/trace-player";
import type { Choices } from "./command-line.js";
import type { Answer } from "./dmar.js";
import { ToolError } from "./tool-error.js";
import { devicesOf } from "./trace-device.js";

const EVERYWHERE = { firstPfn: 0, pageCount: 2 ** 52 };

/** What one device may reach. Frames are 4 KiB. */
interface DeviceMappings {
  readonly device: string;
  readonly name: string;
  readonly kind: string;
  readonly tables: readonly Run[];
  readonly announced: readonly Run[];
}

/**
 * Plays a trace up to a line and looks.
 * @throws {ToolError} If the trace has no such line or device.
 */
export function mappings(trace: Trace, { device, line, json }: Choices): Answer {
  const last = trace.lineCount + 1;
  if (line !== undefined && line > last)
    throw new ToolError(`--line: the trace ends at line ${last}, got ${line}`, "leave it out for the last line");
  const wanted = devicesOf(trace.header, device);
  const player = new TracePlayer(trace, announceDifferences);
  for (const { lineNumber, event } of trace.events()) {
    if (lineNumber > (line ?? last)) break;
    player.play(event, lineNumber);
  }
  const shown = wanted.map((sourceId) => look(player, sourceId));
  if (json) return { lines: [JSON.stringify({ line: line ?? last, devices: shown }, undefined, 2)], ok: true };
  return { lines: describe(shown, line ?? last), ok: true };
}

function look({ machine }: TracePlayer, sourceId: number): DeviceMappings {
  const device = machine.devices.get(sourceId);
  if (device === undefined) throw new Error(`the machine lacks device ${sourceId}`);
  const { domain } = device.space;
  return {
    device: formatSourceId(sourceId),
    name: device.name,
    kind: domain.kind,
    tables: walkDomain(domain, machine.memory.ram, EVERYWHERE),
    announced: [...device.container.inner.ranges()].map((run) => ({ ...run })),
  };
}

function* describe(devices: readonly DeviceMappings[], line: number): Generator<string> {
  yield `after line ${line}`;
  for (const { device, name, kind, tables, announced } of devices) {
    yield "";
    yield `${device} ${name}: ${KINDS[kind] ?? kind}`;
    const rows = new Map<string, Row>();
    for (const run of tables) rows.set(keyOf(run), { run, mark: "+" });
    for (const run of announced) rows.set(keyOf(run), { run, mark: rows.has(keyOf(run)) ? " " : "-" });
    const sorted = [...rows.values()].toSorted((a, b) => a.run.iovaPfn - b.run.iovaPfn);
    for (const { run, mark } of sorted) yield `  ${mark} ${formatRun(run)}`;
    if (sorted.length === 0) yield "    nothing";
    if (sorted.some(({ mark }) => mark !== " "))
      yield "  + in the tables, not announced yet; - announced, no longer in the tables";
  }
}

/** What decides, by the domain's kind. */
const KINDS: Readonly<Record<string, string>> = {
  bypass: "reaches all memory, no tables decide",
  table: "reaches what its tables map",
  blocked: "reaches nothing",
};

interface Row {
  readonly run: Run;
  readonly mark: string;
}

function formatRun({ iovaPfn, pageCount, gpaPfn, access }: Run): string {
  const bytes = (pfn: number): string => `0x${(BigInt(pfn) * 4096n).toString(16)}`;
  return `${bytes(iovaPfn)} -> ${bytes(gpaPfn)} ${formatAccess(access)} ${pageCount} ${pageCount === 1 ? "page" : "pages"}`;
}

function keyOf({ iovaPfn, pageCount, gpaPfn, access }: Run): string {
  return `${iovaPfn}/${pageCount}/${gpaPfn}/${access}`;
}

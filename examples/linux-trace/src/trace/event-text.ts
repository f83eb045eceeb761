/** What is in a trace, in words that a person understands. */

import { formatSourceId } from "@iommu-kit/iommu-core";
import type { DmaEvent, InterruptEvent, TraceEvent } from "./trace-event.js";

const REGISTERS: ReadonlyMap<number, string> = new Map([
  [0x18, "global command"],
  [0x20, "root table address"],
  [0x34, "fault status"],
  [0x38, "fault event"],
  [0x3c, "fault event"],
  [0x40, "fault event"],
  [0x44, "fault event"],
  [0x88, "invalidation queue tail"],
  [0x90, "invalidation queue address"],
  [0xb8, "interrupt table address"],
]);

const GRANULARITIES = ["reserved", "global", "one domain", "one device"];
const PAGE_GRANULARITY = 3;

/** The register at an offset of the block, or its offset. */
export function registerName(offsetBytes: number): string {
  return (
    REGISTERS.get(offsetBytes) ?? (offsetBytes >= 0x220 ? "fault record" : `register 0x${offsetBytes.toString(16)}`)
  );
}

/** An invalidation descriptor (§6.5.2) by its low 64 bits. */
export function descriptorName(low: bigint): string {
  const granularity = Number((low >> 4n) & 3n);
  switch (Number(low & 15n)) {
    case 1:
      return `context cache, ${GRANULARITIES[granularity] ?? ""}`;
    case 2:
      return granularity === PAGE_GRANULARITY
        ? "translations, pages"
        : `translations, ${GRANULARITIES[granularity] ?? ""}`;
    case 4:
      return (granularity & 1) === 0 ? "interrupt entries, all" : "interrupt entries, by index";
    case 5:
      return "wait for completion";
    default:
      return `descriptor type ${low & 15n}`;
  }
}

/** One line for one event. */
export function describeEvent(event: TraceEvent): string {
  switch (event.kind) {
    case "memory":
      return `the driver changes ${plural(event.words.length / 2, "entry", "entries")} in memory at ${hex(event.gpa)}`;
    case "write":
      return `the driver writes ${hex(event.value)} to ${registerName(event.offsetBytes)}`;
    case "read":
      return `the driver reads ${registerName(event.offsetBytes)}: ${hex(event.value)}`;
    case "descriptor":
      return `invalidation: ${descriptorName(event.low)}`;
    case "wait":
      return `the unit reports completion at ${hex(event.gpa)}`;
    case "dma":
      return describeDma(event);
    default:
      return describeInterrupt(event);
  }
}

function describeDma({ sourceId, access, iovaPfn, answer, repeat }: DmaEvent): string {
  const where =
    answer === undefined ? "refused" : `memory at page ${hex(answer.gpaPfn + (iovaPfn % answer.pageCount))}`;
  return `${formatSourceId(sourceId)} ${access === 2 ? "writes" : "reads"} page ${hex(iovaPfn)}${times(repeat)}: ${where}`;
}

function describeInterrupt({ sourceId, address, data, answer, repeat }: InterruptEvent): string {
  const who = sourceId === undefined ? "an interrupt" : `an interrupt of ${formatSourceId(sourceId)}`;
  const outcome = answer === undefined ? "refused" : `delivered as ${hex(answer.address)}/${hex(answer.data)}`;
  return `${who}, ${hex(address)}/${hex(data)}${times(repeat)}: ${outcome}`;
}

function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

function times(repeat: number): string {
  return repeat === 1 ? "" : `, ${repeat} times`;
}

function plural(count: number, one: string, many: string): string {
  return `${count} ${count === 1 ? one : many}`;
}

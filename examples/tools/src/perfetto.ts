/**
 * `perfetto`: a trace of DMA, invalidations and notifications in the JSON format that Perfetto and Chrome show.
 *
 * Recordings have an order and no clock: a line takes a microsecond. The driver is a process with a track for registers and one for invalidations; each device is a
 * process with a track for DMA, one for what its notifiers were told, and a counter of mapped pages.
 */

import { type AddressSpace, formatAccess, formatSourceId } from "@iommu-kit/iommu-core";
import { announceDifferences } from "@iommu-kit/linux-trace/follow/follow";
import { describeEvent, registerName } from "@iommu-kit/linux-trace/trace/event-text";
import type { TraceEvent } from "@iommu-kit/linux-trace/trace/trace-event";
import type { Trace } from "@iommu-kit/linux-trace/trace/trace";
import { TracePlayer } from "@iommu-kit/linux-trace/trace-player";
import type { Choices } from "./command-line.js";
import { ToolError } from "./tool-error.js";
import { devicesOf } from "./trace-device.js";

/** A record of the format: what this program uses of it. */
interface ChromeEvent {
  readonly name: string;
  readonly ph: "X" | "C" | "M" | "i";
  readonly pid: number;
  readonly tid: number;
  readonly ts: number;
  readonly dur?: number;
  readonly s?: "t";
  readonly cat?: string;
  readonly args?: Readonly<Record<string, string | number>>;
}

/** Source-ids are 16 bits: the driver's process cannot be a device's. */
const DRIVER = 0x10000;
const Track = { registers: 1, invalidations: 2, dma: 1, notifications: 2 } as const;

/**
 * The pieces of a JSON text.
 * @throws {ToolError} If the trace has no such lines or device.
 */
export function perfetto(trace: Trace, choices: Choices): Iterable<string> {
  const { from = 1, to = Infinity } = choices;
  const last = trace.lineCount + 1;
  if (from > to) throw new ToolError(`--from ${from} is behind --to ${to}`, "give the first line, then the last");
  if (from > last)
    throw new ToolError(`--from: the trace ends at line ${last}, got ${from}`, "give a line before that");
  return pieces(trace, new Set(devicesOf(trace.header, choices.device)), from, to);
}

function* pieces(trace: Trace, devices: ReadonlySet<number>, from: number, to: number): Generator<string> {
  const writer = new Writer(devices);
  const player = new TracePlayer(trace, announceDifferences);
  writer.listen(player);
  yield '{"displayTimeUnit":"ns","otherData":{"clock":"one microsecond for each line of the recording"},"traceEvents":[\n';
  let separator = "";
  for (const event of names(trace, writer.devices)) {
    yield `${separator}${JSON.stringify(event)}`;
    separator = ",\n";
  }
  for (const { lineNumber, event } of trace.events()) {
    if (lineNumber > to) break;
    writer.begin(lineNumber);
    writer.add(event);
    player.play(event, lineNumber);
    if (lineNumber < from) writer.take();
    for (const each of writer.take()) yield `${separator}${JSON.stringify(each)}`;
  }
  yield "\n]}\n";
}

function* names({ header }: Trace, devices: ReadonlySet<number>): Generator<ChromeEvent> {
  const name = (what: string, pid: number, tid: number, text: string): ChromeEvent => {
    return { name: what, ph: "M", pid, tid, ts: 0, args: { name: text } };
  };
  yield name("process_name", DRIVER, 0, `driver: ${header.guest}`);
  yield name("thread_name", DRIVER, Track.registers, "registers");
  yield name("thread_name", DRIVER, Track.invalidations, "invalidations");
  for (const { sourceId, name: text } of header.devices.filter((device) => devices.has(device.sourceId))) {
    yield name("process_name", sourceId, 0, `${formatSourceId(sourceId)} ${text}`);
    yield name("thread_name", sourceId, Track.dma, "DMA");
    yield name("thread_name", sourceId, Track.notifications, "notifications");
  }
}

/** Gathers the records of one line of the trace. */
class Writer {
  readonly devices: ReadonlySet<number>;
  readonly #mapped = new Map<number, number>();
  #events: ChromeEvent[] = [];
  #at = 0;

  constructor(devices: ReadonlySet<number>) {
    this.devices = devices;
  }

  /** Hears what notifiers are told. */
  listen({ machine }: TracePlayer): void {
    const { events } = machine.unit;
    for (const name of ["map", "unmap", "change"] as const) {
      events.on(name, ({ space, iovaPfn, pageCount, gpaPfn, access }) => {
        const target = name === "unmap" ? {} : { gpa: bytes(gpaPfn), access: formatAccess(access) };
        this.#notify(space, name, { iova: bytes(iovaPfn), pages: pageCount, ...target });
        if (name !== "change") this.#count(space.sourceId, name === "map" ? pageCount : -pageCount);
      });
    }
    events.on("invalidate", ({ space, iovaPfn, pageCount }) => {
      this.#notify(space, "flush", { iova: bytes(iovaPfn), pages: pageCount });
    });
    for (const device of machine.devices.values())
      this.#mapped.set(device.space.sourceId, device.container.inner.pagesHeld);
  }

  /** The next line. */
  begin(lineNumber: number): void {
    this.#at = lineNumber;
  }

  /** What is gathered, and begins anew. */
  take(): readonly ChromeEvent[] {
    const events = this.#events;
    this.#events = [];
    return events;
  }

  /** The driver's and the devices' own doing. */
  add(event: TraceEvent): void {
    const text = describeEvent(event);
    if (event.kind === "write" || event.kind === "read")
      this.#slice(DRIVER, Track.registers, `${event.kind} ${registerName(event.offsetBytes)}`, text);
    if (event.kind === "descriptor") this.#slice(DRIVER, Track.invalidations, text.replace("invalidation: ", ""), text);
    if (event.kind === "dma" && this.devices.has(event.sourceId)) {
      const what = event.access === 2 ? "write" : "read";
      this.#slice(event.sourceId, Track.dma, event.answer === undefined ? `refused ${what}` : what, text);
    }
  }

  #slice(pid: number, tid: number, name: string, text: string): void {
    this.#events.push({ name, ph: "X", pid, tid, ts: this.#at, dur: 1, args: { text, line: this.#at } });
  }

  #notify({ sourceId }: AddressSpace, name: string, args: Readonly<Record<string, string | number>>): void {
    if (!this.devices.has(sourceId)) return;
    this.#events.push({
      name,
      ph: "i",
      s: "t",
      cat: "notification",
      pid: sourceId,
      tid: Track.notifications,
      ts: this.#at,
      args,
    });
  }

  #count(sourceId: number, change: number): void {
    const pages = (this.#mapped.get(sourceId) ?? 0) + change;
    this.#mapped.set(sourceId, pages);
    if (!this.devices.has(sourceId)) return;
    this.#events.push({ name: "mapped pages", ph: "C", pid: sourceId, tid: 0, ts: this.#at, args: { pages } });
  }
}

function bytes(pfn: number): string {
  return `0x${(BigInt(pfn) * 4096n).toString(16)}`;
}

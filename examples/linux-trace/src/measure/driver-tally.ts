/** What the driver did, counted in words a person understands. */

import type { TraceEvent } from "../trace/trace-event.js";

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

/** See the file's header. */
export class DriverTally {
  /** Register writes by what they are for. */
  readonly writes = new Map<string, number>();
  /** Descriptors in the invalidation queue by kind (§6.5.2). */
  readonly invalidations = new Map<string, number>();
  /** 64-bit words of memory changed. */
  memoryWords = 0;
  registerReads = 0;

  /** Counts one event. */
  add(event: TraceEvent): void {
    switch (event.kind) {
      case "memory":
        this.memoryWords += event.words.length / 2;
        break;
      case "read":
        this.registerReads += 1;
        break;
      case "write":
        increment(this.writes, registerName(event.offsetBytes));
        break;
      case "descriptor":
        increment(this.invalidations, descriptorName(event.low));
        break;
      default:
        break;
    }
  }
}

function registerName(offsetBytes: number): string {
  return (
    REGISTERS.get(offsetBytes) ?? (offsetBytes >= 0x220 ? "fault record" : `register 0x${offsetBytes.toString(16)}`)
  );
}

function descriptorName(low: bigint): string {
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

function increment(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

/** What the driver did, counted in words a person understands. */

import { descriptorName, registerName } from "../trace/event-text.js";
import type { TraceEvent } from "../trace/trace-event.js";

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

function increment(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

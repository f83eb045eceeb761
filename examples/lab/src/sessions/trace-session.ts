/** A recorded driver, played in two machines at once, event by event. */

import { announceDifferences, type Follow, unmapAllThenMap } from "@iommu-kit/linux-trace/follow/follow";
import type { Machine } from "@iommu-kit/linux-trace/machine/machine";
import { describeEvent } from "@iommu-kit/linux-trace/trace/event-text";
import type { NumberedEvent, Trace } from "@iommu-kit/linux-trace/trace/trace";
import { TracePlayer } from "@iommu-kit/linux-trace/trace-player";
import { endSteps, followAll, type Followed, type LabMachine, type Session, type Strategy } from "./session.js";

const FOLLOW: Readonly<Record<Strategy, Follow>> = { old: unmapAllThenMap, ours: announceDifferences };

const NOTHING: ReadonlySet<number> = new Set();

/** See the file's header. */
export class TraceSession implements Session {
  readonly trace: Trace;
  readonly machines: Readonly<Record<Strategy, LabMachine>>;
  readonly followed: Readonly<Record<Strategy, ReadonlyMap<number, Followed>>>;
  readonly #players: readonly TracePlayer[];
  readonly #events: Iterator<NumberedEvent>;
  #last: NumberedEvent | undefined;
  #changed = NOTHING;
  #ended = false;

  constructor(trace: Trace) {
    this.trace = trace;
    const [old, ours] = [new TracePlayer(trace, FOLLOW.old), new TracePlayer(trace, FOLLOW.ours)];
    this.#players = [old, ours];
    this.machines = { old: machineOf(old.machine), ours: machineOf(ours.machine) };
    this.followed = { old: followAll(this.machines.old), ours: followAll(this.machines.ours) };
    this.#events = trace.events();
  }

  get position(): number {
    return this.#ended ? this.length : (this.#last?.lineNumber ?? 1) - 1;
  }

  get length(): number {
    return this.trace.lineCount;
  }

  get story(): string {
    if (this.#last === undefined) return "The machine is reset; the driver has not run yet.";
    return `Line ${this.#last.lineNumber.toLocaleString("en")}: ${describeEvent(this.#last.event)}`;
  }

  /** Answers that differ from the recorded ones, of both machines; each is an error of this program. */
  get mismatches(): readonly string[] {
    return this.#players.flatMap((player) => player.finish(0).mismatches);
  }

  step(): boolean {
    const next = this.#events.next();
    if (next.done === true) {
      this.#ended = true;
      return false;
    }
    this.#last = next.value;
    for (const player of this.#players) player.play(next.value.event, next.value.lineNumber);
    // Containers are called when the driver writes a register, and at no other event.
    this.#changed = next.value.event.kind === "write" ? endSteps(this, this.position) : NOTHING;
    return true;
  }

  stepToChange(sourceId: number): boolean {
    while (this.step()) if (this.#changed.has(sourceId)) return true;
    return false;
  }
}

function machineOf({ unit, memory, devices }: Machine): LabMachine {
  return { unit, devices, regions: memory.ram, read: (gpa) => memory.word(gpa) };
}

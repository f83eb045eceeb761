/**
 * Work in slices, in order: the queue behind every sync, replay and move (design D7, D9).
 *
 * A job yields when its slice is spent. The first slice runs inside the call that caused it; the rest run from the host's event loop.
 * Jobs never overtake each other, so every notifier hears of changes in the order in which the guest announced them.
 */

import { type Completion, CompletionGroup } from "../completion.js";
import type { Limits } from "../limits.js";
import type { Scheduler } from "../ports.js";

/** Work that may be done before the guest goes on: counted, never timed. */
export interface Slice {
  entriesLeft: number;
  mappingsLeft: number;
}

/** What is left of some work: yields when its slice is spent. `undefined`: nothing is left, and nothing was allocated for it. */
export type Rest = Generator<void, void, void> | undefined;

/** Called in its turn, and may do work at once; puts what is pending with consumers into the group. */
export type Job = (group: CompletionGroup) => Rest;

/** Says when consumers owe so many answers that nothing more is asked of them. */
export interface Gate {
  readonly closed: boolean;
  /** Runs `task` once when the gate may have opened. */
  whenOpen(task: () => void): void;
}

interface Entry {
  readonly job: Job;
  readonly group: CompletionGroup;
  /** Once it has begun. */
  rest: Rest;
  done: () => void;
}

const NOBODY_WAITS = (): void => undefined;

/** Runs jobs one after the other. */
export class JobQueue {
  /** The present slice; jobs count it down. */
  readonly slice: Slice;
  readonly #limits: Limits;
  readonly #scheduler: Scheduler;
  readonly #gate: Gate;
  readonly #waiting: Entry[] = [];
  #running = false;
  #scheduled = false;
  /** Whether the backend says where slices begin. */
  #paced = false;

  constructor(limits: Limits, scheduler: Scheduler, gate: Gate) {
    this.#gate = gate;
    this.#limits = limits;
    this.#scheduler = scheduler;
    this.slice = { entriesLeft: limits.entriesPerSlice, mappingsLeft: limits.mappingsPerSlice };
  }

  /** Whether a job is on the stack: a notifier is being called. */
  get running(): boolean {
    return this.#running;
  }

  /** Whether jobs wait for their next slice. */
  get busy(): boolean {
    return this.#waiting.length > 0;
  }

  /** Whether the present slice is used up. */
  get spent(): boolean {
    return this.slice.entriesLeft <= 0 || this.slice.mappingsLeft <= 0;
  }

  /**
   * Begins a new slice: for backends that do several things in one call of the guest, once for every call. Without it every job that finds nothing waiting
   * begins with a slice of its own.
   */
  beginSlice(): void {
    this.#paced = true;
    this.#renew();
  }

  /** Runs a job, now if nothing waits. Done when the job and all that it left with consumers is done. */
  run(job: Job): Completion {
    const group = new CompletionGroup();
    const entry: Entry = { job, group, rest: undefined, done: NOBODY_WAITS };
    if (this.#waiting.length === 0 && !this.#running && !this.#gate.closed) {
      if (!this.#paced) this.#renew();
      if (this.#step(entry)) return group.take();
    }
    this.#schedule();
    this.#waiting.push(entry);
    return new Promise((resolve) => (entry.done = resolve));
  }

  #renew(): void {
    this.slice.entriesLeft = this.#limits.entriesPerSlice;
    this.slice.mappingsLeft = this.#limits.mappingsPerSlice;
  }

  #step(entry: Entry): boolean {
    this.#running = true;
    try {
      entry.rest ??= entry.job(entry.group);
      return entry.rest === undefined || entry.rest.next().done === true;
    } finally {
      this.#running = false;
    }
  }

  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    const go = (): void => {
      this.#scheduled = false;
      this.#pump();
    };
    if (this.#gate.closed) this.#gate.whenOpen(() => this.#scheduler.defer(go));
    else this.#scheduler.defer(go);
  }

  /** One slice of the first job, and of those behind it if it finishes early. */
  #pump(): void {
    this.#renew();
    try {
      for (
        let [entry] = this.#waiting;
        entry !== undefined && !this.spent && !this.#gate.closed;
        [entry] = this.#waiting
      ) {
        if (!this.#step(entry)) break;
        this.#waiting.shift();
        const pending = entry.group.take();
        if (pending === undefined) entry.done();
        else void pending.then(entry.done);
      }
    } finally {
      // Whatever a job throws, it and those behind it go on.
      if (this.#waiting.length > 0) this.#schedule();
    }
  }
}

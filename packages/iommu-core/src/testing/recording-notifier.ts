/**
 * A MAP notifier that writes down what it is told, holds it, and objects to every breach of the contract in notifier.ts.
 *
 * A breach is noted in `breaches` and thrown, so the hub fails the attachment as well; `check()` throws the first one for the test. The state is a sorted list of
 * runs and shares no code with the hub.
 */

import type { Access } from "../access.js";
import type { Completion } from "../completion.js";
import type { IommuError } from "../errors.js";
import type { MapAnswer, MapNotifier, MapReports } from "../notifier.js";
import { ALL_FRAMES, endOf, type FrameRange } from "../range.js";
import { type AnswerMode, AnswerQueue } from "./answers.js";
import { type Run, RunList } from "./run-list.js";

/** One call, as it came. Fields that a call does not have are 0. */
export interface NotifierCall {
  /** The method that was called. */
  readonly type: "begin" | "map" | "unmap" | "replace" | "commit" | "revoke";
  /** First input frame. */
  readonly iovaPfn: number;
  /** Frames. */
  readonly pageCount: number;
  /** Target of a map or replace. */
  readonly gpaPfn: number;
  /** Rights of a map or replace. */
  readonly access: Access;
}

/** What a `RecordingNotifier` is like. */
export interface RecordingNotifierOptions {
  readonly name?: string;
  /** Default: `"page"`. */
  readonly granularity?: "page" | "block";
  /** A map or replace of more pages is a breach. */
  readonly largestBlock?: number;
  /** The range it is attached for: anything outside is a breach. Default: all frames. */
  readonly range?: FrameRange;
  /** Whether it has `replace`. Default: no. */
  readonly replace?: boolean;
  /** Whether it has `begin` and `commit`, and objects to calls outside of them. Default: yes. */
  readonly steps?: boolean;
  /** Default: `"sync"`. */
  readonly answers?: AnswerMode;
  /** Entries that it can hold; a map beyond that is answered `"full"`. Default: no limit. */
  readonly capacity?: number;
  /** Answers `"unsupported"` to targets for which this is false. */
  readonly supports?: (gpaPfn: number) => boolean;
  /**
   * What the device can reach now, by the word of the test. An unmap of a frame that still goes where it went is a breach; not asked of `"block"` notifiers,
   * whose brief unmaps are announced as `window` events.
   */
  readonly truth?: (iovaPfn: number) => { readonly gpaPfn: number; readonly access: Access } | undefined;
  /** Called at the end of every callback, before the answer. */
  readonly onCall?: (call: NotifierCall) => void;
}

/** A MAP notifier for tests: `calls` says what it was told, `held()` and `lookup` what it holds, `check()` throws if the contract was broken. Answers come at once, or when the test says so (`answers`). */
export class RecordingNotifier implements MapNotifier {
  readonly kind = "map";
  readonly name: string;
  readonly granularity: "page" | "block";
  readonly largestBlock: number;
  readonly replace?: (
    iovaPfn: number,
    pageCount: number,
    gpaPfn: number,
    access: Access,
  ) => MapAnswer | Promise<MapAnswer>;
  readonly begin?: () => void;
  readonly commit?: () => Completion;
  /** Everything it was told, oldest first. */
  readonly calls: NotifierCall[] = [];
  /** Contract breaches, oldest first. */
  readonly breaches: string[] = [];
  /** The answers it owes, with `answers: "manual"`. */
  readonly answers: AnswerQueue;
  /** Entries that it can hold. */
  capacity: number;
  /** What it may say of itself: from its first event on. */
  reports: MapReports | undefined;
  /** Why it was cut off. */
  revoked: IommuError | undefined;
  readonly #options: RecordingNotifierOptions;
  readonly #held = new RunList();
  /** What is left of each call that was refused without the hub knowing yet: it may still unmap these. */
  readonly #unanswered = new RunList<Run & { readonly call: NotifierCall }>();
  #inStep = false;
  #over = false;

  constructor(options: RecordingNotifierOptions = {}) {
    this.#options = options;
    this.name = options.name ?? "recording notifier";
    this.granularity = options.granularity ?? "page";
    this.largestBlock = options.largestBlock ?? 2 ** 52;
    this.capacity = options.capacity ?? Infinity;
    this.answers = new AnswerQueue(options.answers ?? "sync");
    if (options.replace === true) this.replace = (...call) => this.#replace(...call);
    if (options.steps !== false) {
      this.begin = () => this.#begin();
      this.commit = () => this.#commit();
    }
  }

  /** What it holds, entry by entry, as it was mapped and cut. */
  get entries(): readonly Run[] {
    return this.#held.entries;
  }

  /** Frames it holds. */
  get pageCount(): number {
    return this.#held.pageCount;
  }

  /** What it holds in as few runs as possible, for comparisons. */
  held(range: FrameRange = ALL_FRAMES): Run[] {
    return this.#held.joined(range.firstPfn, range.pageCount);
  }

  /** Where it believes this frame goes. */
  lookup(iovaPfn: number): { readonly gpaPfn: number; readonly access: Access } | undefined {
    return this.#held.lookup(iovaPfn);
  }

  /** The calls so far in short form (`"map 0x10+2 -> 0x100 rw"`), `begin` and `commit` left out; forgets them. */
  take(): string[] {
    const texts = this.calls.filter(({ type }) => type !== "begin" && type !== "commit").map(formatCall);
    this.calls.length = 0;
    return texts;
  }

  /** Says that the attachment is over: it must hold nothing, and any further call is a breach. */
  end(): void {
    this.#over = true;
    if (this.pageCount > 0) this.#breach(`still holds ${this.pageCount} pages after the end of its attachment`);
    if (this.#inStep) this.#breach("a step was begun and never committed");
  }

  /** Gives up what it holds of these frames, of a `"block"` notifier the blocks that they touch, and reports it as refused. */
  lose(iovaPfn: number, pageCount: number, answer: "full" | "unsupported" = "full"): void {
    const lost =
      this.granularity === "block" ? this.#held.touching(iovaPfn, pageCount) : this.#held.joined(iovaPfn, pageCount);
    for (const run of lost) {
      this.#held.delete(run.iovaPfn, run.pageCount);
      this.reports?.refused(run.iovaPfn, run.pageCount, run.gpaPfn, run.access, answer);
    }
  }

  /** @throws {Error} with the first breach, if there was one. */
  check(): void {
    if (this.breaches.length > 0) throw new Error(this.breaches.join("\n"));
  }

  /** Called by the unit. */
  reportTo(reports: MapReports): void {
    if (this.#over) this.#breach("reportTo after the end of its attachment");
    this.reports = reports;
  }

  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer | Promise<MapAnswer> {
    const call = this.#note({ type: "map", iovaPfn, pageCount, gpaPfn, access });
    this.#checkMapping(call);
    const [held] = this.#held.touching(iovaPfn, pageCount);
    if (held !== undefined)
      this.#breach(`${formatCall(call)}: holds ${held.pageCount} pages from ${hex(held.iovaPfn)} on already`);
    const answer = this.#answerTo(call);
    if (answer === undefined) this.#held.set(call);
    return this.#finish(call, answer);
  }

  unmap(iovaPfn: number, pageCount: number): Completion {
    const call = this.#note({ type: "unmap", iovaPfn, pageCount, gpaPfn: 0, access: 0 });
    this.#checkRange(call);
    if (this.granularity === "block") this.#checkWholeBlocks(call);
    this.#overlook(iovaPfn, pageCount);
    if (!this.#held.covers(iovaPfn, pageCount)) this.#breach(`${formatCall(call)}: not all of it is held`);
    this.#checkTruth(call);
    this.#held.delete(iovaPfn, pageCount);
    this.#options.onCall?.(call);
    return this.answers.give(undefined);
  }

  revoke(error: IommuError): void {
    this.#note({ type: "revoke", iovaPfn: 0, pageCount: 0, gpaPfn: 0, access: 0 });
    this.revoked = error;
    this.#over = true;
    this.#inStep = false;
    this.#held.clear();
  }

  #begin(): void {
    const call = this.#note({ type: "begin", iovaPfn: 0, pageCount: 0, gpaPfn: 0, access: 0 });
    if (this.#inStep) this.#breach("begin inside of a step");
    this.#inStep = true;
    this.#options.onCall?.(call);
  }

  #commit(): Completion {
    const call = this.#note({ type: "commit", iovaPfn: 0, pageCount: 0, gpaPfn: 0, access: 0 });
    if (!this.#inStep) this.#breach("commit outside of a step");
    this.#inStep = false;
    this.#options.onCall?.(call);
    return this.answers.give(undefined);
  }

  #replace(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer | Promise<MapAnswer> {
    const call = this.#note({ type: "replace", iovaPfn, pageCount, gpaPfn, access });
    this.#checkMapping(call);
    if (this.granularity === "block") this.#checkWholeBlocks(call);
    this.#overlook(iovaPfn, pageCount);
    if (!this.#held.covers(iovaPfn, pageCount)) this.#breach(`${formatCall(call)}: not all of it is held`);
    const [held] = this.#held.joined(iovaPfn, pageCount);
    const same = held?.pageCount === pageCount && held.gpaPfn === gpaPfn && held.access === access;
    if (same) this.#breach(`${formatCall(call)}: changes nothing`);
    this.#held.delete(iovaPfn, pageCount);
    const answer = this.#answerTo(call);
    if (answer === undefined) this.#held.set(call);
    return this.#finish(call, answer);
  }

  #finish(call: NotifierCall, answer: MapAnswer): MapAnswer | Promise<MapAnswer> {
    this.#options.onCall?.(call);
    if (answer === undefined) return this.answers.give(answer);
    this.#unanswered.set({ ...call, call });
    return this.answers.give(answer, () => void this.#answered(call));
  }

  /** An answer takes some turns of the microtask queue to reach the hub. */
  async #answered(call: NotifierCall): Promise<void> {
    for (let turn = 0; turn < 8; turn++) await Promise.resolve();
    for (const run of this.#unanswered.touching(call.iovaPfn, call.pageCount))
      if (run.call === call) this.#unanswered.delete(run.iovaPfn, run.pageCount);
  }

  /** Frames that the hub rightly believes held, because it has not been told that they were refused. */
  #overlook(iovaPfn: number, pageCount: number): void {
    for (const run of this.#unanswered.joined(iovaPfn, pageCount)) this.#held.set(run);
    this.#unanswered.delete(iovaPfn, pageCount);
  }

  #answerTo(call: NotifierCall): MapAnswer {
    if (this.#options.supports !== undefined && !this.#options.supports(call.gpaPfn)) return "unsupported";
    return this.#held.entries.length >= this.capacity ? "full" : undefined;
  }

  #note(call: NotifierCall): NotifierCall {
    this.calls.push(call);
    if (this.#over) this.#breach(`${formatCall(call)}: after the end of its attachment`);
    return call;
  }

  #checkRange(call: NotifierCall): void {
    const { firstPfn } = this.#options.range ?? ALL_FRAMES;
    const end = endOf(this.#options.range ?? ALL_FRAMES);
    const whole = Number.isSafeInteger(call.iovaPfn) && Number.isSafeInteger(call.pageCount) && call.pageCount > 0;
    if (!whole) this.#breach(`${formatCall(call)}: not a range of frames`);
    if (call.iovaPfn < firstPfn || call.iovaPfn + call.pageCount > end) {
      this.#breach(`${formatCall(call)}: outside of ${hex(firstPfn)}..${hex(end - 1)}`);
    }
    if (this.begin !== undefined && !this.#inStep) this.#breach(`${formatCall(call)}: outside of begin and commit`);
  }

  #checkMapping(call: NotifierCall): void {
    this.#checkRange(call);
    const { iovaPfn, pageCount } = call;
    if (!Number.isSafeInteger(call.gpaPfn) || call.gpaPfn < 0) this.#breach(`${formatCall(call)}: not a target`);
    if (call.access < 1 || call.access > 3) this.#breach(`${formatCall(call)}: no rights`);
    if (pageCount > this.largestBlock) this.#breach(`${formatCall(call)}: more than ${this.largestBlock} pages`);
    if (this.granularity !== "block") return;
    const aligned = Number.isInteger(Math.log2(pageCount)) && iovaPfn % pageCount === 0;
    if (!aligned) this.#breach(`${formatCall(call)}: not a naturally aligned block`);
  }

  #checkWholeBlocks(call: NotifierCall): void {
    for (const run of this.#held.touching(call.iovaPfn, call.pageCount)) {
      if (run.iovaPfn >= call.iovaPfn && run.iovaPfn + run.pageCount <= call.iovaPfn + call.pageCount) continue;
      this.#breach(`${formatCall(call)}: cuts the block of ${run.pageCount} pages at ${hex(run.iovaPfn)}`);
    }
  }

  #checkTruth(call: NotifierCall): void {
    const { truth } = this.#options;
    if (truth === undefined || this.granularity === "block") return;
    for (let pfn = call.iovaPfn; pfn < call.iovaPfn + call.pageCount; pfn++) {
      const held = this.#held.lookup(pfn);
      const now = truth(pfn);
      if (now !== undefined && now.gpaPfn === held?.gpaPfn && now.access === held.access) {
        this.#breach(`${formatCall(call)}: ${hex(pfn)} stays mapped`);
      }
    }
  }

  #breach(text: string): never {
    this.breaches.push(`${this.name}: ${text}`);
    throw new Error(`${this.name}: ${text}`);
  }
}

/** `"map 0x10+2 -> 0x100 rw"`: frames in hexadecimal, count in decimal. */
export function formatCall(call: NotifierCall): string {
  if (call.pageCount === 0) return call.type;
  const range = `${call.type} ${hex(call.iovaPfn)}+${call.pageCount}`;
  if (call.type === "unmap") return range;
  return `${range} -> ${hex(call.gpaPfn)} ${["--", "r-", "-w", "rw"][call.access] ?? "??"}`;
}

function hex(pfn: number): string {
  return `0x${pfn.toString(16)}`;
}

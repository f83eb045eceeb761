/**
 * An UNMAP-only notifier that writes down what it is told to drop.
 */

import type { Completion } from "../completion.js";
import type { IommuError } from "../errors.js";
import type { UnmapNotifier } from "../notifier.js";
import { ALL_FRAMES, endOf, type FrameRange } from "../range.js";
import { type AnswerMode, AnswerQueue } from "./answers.js";

/** What a `RecordingFlushNotifier` is like. */
export interface RecordingFlushNotifierOptions {
  /** For messages. Default: `recording flush notifier`. */
  readonly name?: string;
  /** The range it is attached for: anything outside is a breach. Default: all frames. */
  readonly range?: FrameRange;
  /** Default: `"sync"`. */
  readonly answers?: AnswerMode;
  /** Called at the end of every `unmap`, before the answer. */
  readonly onCall?: (range: FrameRange) => void;
}

/** An UNMAP-only notifier for tests: `take()` answers the ranges that it was told to drop since the last time. Answers come at once, or when the test says so (`answers`). */
export class RecordingFlushNotifier implements UnmapNotifier {
  readonly kind = "unmap";
  readonly name: string;
  /** What was to be dropped, oldest first. */
  readonly flushed: FrameRange[] = [];
  /** Contract breaches, oldest first. */
  readonly breaches: string[] = [];
  /** The answers it owes, with `answers: "manual"`. */
  readonly answers: AnswerQueue;
  /** Why it was cut off. */
  revoked: IommuError | undefined;
  readonly #options: RecordingFlushNotifierOptions;
  #over = false;

  constructor(options: RecordingFlushNotifierOptions = {}) {
    this.#options = options;
    this.name = options.name ?? "recording flush notifier";
    this.answers = new AnswerQueue(options.answers ?? "sync");
  }

  unmap(iovaPfn: number, pageCount: number): Completion {
    const range = { firstPfn: iovaPfn, pageCount };
    this.flushed.push(range);
    const allowed = this.#options.range ?? ALL_FRAMES;
    if (this.#over) this.#breach("told to drop something after the end of its attachment");
    if (iovaPfn < allowed.firstPfn || endOf(range) > endOf(allowed) || !(pageCount > 0)) {
      this.#breach(`told to drop ${pageCount} pages from ${iovaPfn} on, outside of its range`);
    }
    this.#options.onCall?.(range);
    return this.answers.give(undefined);
  }

  revoke(error: IommuError): void {
    this.revoked = error;
    this.#over = true;
  }

  /** What was to be dropped since the last call. */
  take(): FrameRange[] {
    return this.flushed.splice(0);
  }

  /** Says that the attachment is over: any further call is a breach. */
  end(): void {
    this.#over = true;
  }

  /** @throws {Error} with the breaches, if there were any. */
  check(): void {
    if (this.breaches.length > 0) throw new Error(this.breaches.join("\n"));
  }

  #breach(text: string): never {
    this.breaches.push(`${this.name}: ${text}`);
    throw new Error(`${this.name}: ${text}`);
  }
}

/**
 * The host's half of a device in a worker: it answers the worker's misses, posts invalidations, and completes them when the worker has acknowledged.
 *
 * A worker that hangs is visible (`status`, `onHung`) and never holds the guest up for good: the hub cuts it off, which revokes everything it can reach in the shared
 * memory at once; behind a `WorkerDeviceTlb` the unit reports the architected time-out instead.
 */

import {
  type Access,
  accessOf,
  type AddressSpace,
  type FrameRange,
  type IommuError,
  LocalReason,
  type Notifier,
  type Scheduler,
  timerScheduler,
  Translation,
} from "@iommu-kit/iommu-core";
import { AttachmentScope } from "../attachment-scope.js";
import { entryRights } from "../entry-rights.js";
import { type CacheShape, ENTRY_SPANS } from "../translation-cache.js";
import { listen, post, type WorkerPort } from "./message-port.js";
import { createSharedBlock, REVOKED, RING_ENTRIES, RUNNING, type SharedBlock, Word } from "./shared-block.js";

/** Reason of a worker's request while its cache is not attached, or outside the attached range: negative, so no architecture uses it. */
export const NOT_ATTACHED = LocalReason.NOT_ATTACHED;
/** Looks at IN_ACCESS on revocation; some milliseconds, more than any access of at most a page takes on a running core. */
const LOOKS_AT_ACCESS = 500_000;

/** How a worker's cache is made. */
export interface WorkerCacheOptions extends CacheShape {
  /** For events and messages. */
  readonly name?: string;
  /** Our end of the way to the worker: the `Worker` itself, or one end of a `MessageChannel`. */
  readonly port: WorkerPort;
  /** As for `CacheNotifier`: by default `"requested"` where the guest's tables have accessed and dirty flags. */
  readonly rights?: "mapping" | "requested";
  /** As for `CacheNotifier`: where misses are answered. Default: `space.translate`. */
  readonly fill?: (iovaPfn: number, access: Access, out: Translation) => boolean;
  /** After how many milliseconds without an acknowledgement the worker counts as hung. Default 1000. */
  readonly hungAfterMilliseconds?: number;
  /** Called once for each time that the worker hangs. */
  readonly onHung?: (pendingInvalidations: number) => void;
  /** The hub cut it off. `inAccess`: it was stopped in the middle of an access that may still finish; terminate the worker. */
  readonly onRevoke?: (error: IommuError, inAccess: boolean) => void;
  /** Default: the host's timers. */
  readonly scheduler?: Scheduler;
}

/** What the worker needs; send it as it is, or as `workerData`. */
export interface WorkerSetup {
  /** What both threads share: words, and the cache. */
  readonly buffer: SharedArrayBuffer;
}

/** A look at the worker from outside. */
export interface WorkerStatus {
  /** `waiting`: an invalidation was not acknowledged yet. `hung`: for too long. `revoked`: cut off. */
  readonly state: "running" | "waiting" | "hung" | "revoked";
  /** Invalidations that the worker has not acknowledged. */
  readonly pendingInvalidations: number;
  /** Grows with every call of the device into its cache. */
  readonly heartbeat: number;
  /** Requests answered from the cache. */
  readonly hits: number;
  /** Requests that had to ask the host. */
  readonly misses: number;
  /** Entries put into the cache. */
  readonly fills: number;
  /** Answers that an invalidation overtook. */
  readonly discarded: number;
  /** Entries that invalidations have dropped. */
  readonly flushedEntries: number;
}

interface Posted {
  readonly through: number;
  readonly done: Promise<void>;
  readonly acknowledge: () => void;
}

interface Backlog {
  range: FrameRange;
  readonly done: Promise<void>;
  readonly acknowledge: () => void;
}

/** A translation cache in a worker. Use `WorkerCacheNotifier` or `WorkerDeviceTlb`. */
export abstract class HostCache {
  /** Whose requests it answers. */
  readonly space: AddressSpace;
  /** For the worker: `new WorkerDma(setup, ...)`. */
  readonly setup: WorkerSetup;
  readonly #block: SharedBlock;
  readonly #options: WorkerCacheOptions;
  readonly #scheduler: Scheduler;
  readonly #scope: AttachmentScope;
  readonly #answer = new Translation();
  readonly #posted: Posted[] = [];
  #backlog: Backlog | undefined;
  /** Whether the worker may hold anything: not before the first answer, so that attaching needs no worker that runs. */
  #mayHold = false;
  #hung = false;
  #cancelWatch: (() => void) | undefined;

  /** @throws {IommuError} `bad-option` for a shape that is not powers of two in range. */
  protected constructor(space: AddressSpace, options: WorkerCacheOptions) {
    this.space = space;
    this.#options = options;
    this.#scheduler = options.scheduler ?? timerScheduler;
    this.#block = createSharedBlock(options);
    this.setup = { buffer: this.#block.buffer };
    this.#scope = new AttachmentScope(
      space,
      () => this.self,
      () => void this.flush(0, 2 ** 52),
    );
    listen(options.port, (message) => {
      if (message.kind === "ack") this.#acknowledged(message.through);
      else if (message.kind === "miss") this.#missed(message.id, message.iovaPfn, message.access);
    });
  }

  /** What the worker is doing. */
  get status(): WorkerStatus {
    const word = (index: number): number => Atomics.load(this.#block.words, index) >>> 0;
    const waiting = this.#posted.length > 0;
    const running = this.#hung ? "hung" : waiting ? "waiting" : "running";
    return {
      state: word(Word.STATE) === REVOKED ? "revoked" : running,
      pendingInvalidations: this.#posted.length + (this.#backlog === undefined ? 0 : 1),
      heartbeat: word(Word.HEARTBEAT),
      hits: word(Word.HITS),
      misses: word(Word.MISSES),
      fills: word(Word.FILLS),
      discarded: word(Word.DISCARDED),
      flushedEntries: word(Word.FLUSHED),
    };
  }

  /**
   * Cut off by the hub, or by the host: from now on the worker reaches nothing. When this returns no access of it is in flight, except where `onRevoke` says so.
   */
  revoke(error: IommuError): void {
    const { words, cache } = this.#block;
    Atomics.store(words, Word.STATE, REVOKED);
    cache.info.fill(0);
    this.#ring();
    // The worker sets IN_ACCESS before it reads STATE: either it sees the revocation, or we see the access and let it finish.
    let inAccess = true;
    for (let look = 0; look < LOOKS_AT_ACCESS && inAccess; look++) inAccess = Atomics.load(words, Word.IN_ACCESS) === 1;
    this.#watch(false);
    this.#hung = false;
    for (const { acknowledge } of this.#posted.splice(0)) acknowledge();
    this.#backlog?.acknowledge();
    this.#backlog = undefined;
    this.#options.onRevoke?.(error, inAccess);
  }

  /** This object as what it is attached as. */
  protected abstract get self(): Notifier;

  /** Makes the worker drop what touches these frames; done when it has. */
  protected flush(firstPfn: number, pageCount: number): Promise<void> | undefined {
    if (Atomics.load(this.#block.words, Word.STATE) === REVOKED) return undefined;
    if (!this.#mayHold) return undefined;
    if (this.#posted.length < RING_ENTRIES) return this.#post(firstPfn, pageCount).done;
    this.#backlog = { ...(this.#backlog ?? promised()), range: hull(this.#backlog?.range, { firstPfn, pageCount }) };
    return this.#backlog.done;
  }

  #post(firstPfn: number, pageCount: number, promise = promised()): Posted {
    const { words, ring } = this.#block;
    const number = Atomics.load(words, Word.POSTED);
    const at = ((number >>> 0) % RING_ENTRIES) * 2;
    ring[at] = firstPfn;
    ring[at + 1] = pageCount;
    const posted: Posted = { through: (number + 1) | 0, ...promise };
    this.#posted.push(posted);
    Atomics.store(words, Word.POSTED, posted.through);
    this.#ring();
    if (this.#cancelWatch === undefined) this.#watch(true);
    return posted;
  }

  /** Gets the worker to look, whether it waits for an answer, is idle, or is busy and will look by itself. */
  #ring(): void {
    const { words } = this.#block;
    Atomics.add(words, Word.DOORBELL, 1);
    Atomics.notify(words, Word.DOORBELL);
    if (Atomics.exchange(words, Word.WAKING, 1) === 0) post(this.#options.port, { kind: "wake" });
  }

  #acknowledged(through: unknown): void {
    if (typeof through !== "number") return;
    for (
      let first = this.#posted[0];
      first !== undefined && ((through - first.through) | 0) >= 0;
      first = this.#posted[0]
    ) {
      this.#posted.shift();
      first.acknowledge();
    }
    this.#hung = false;
    this.#watch(this.#posted.length > 0);
    const backlog = this.#backlog;
    if (backlog === undefined || this.#posted.length >= RING_ENTRIES) return;
    this.#backlog = undefined;
    this.#post(backlog.range.firstPfn, backlog.range.pageCount, backlog);
  }

  #watch(on: boolean): void {
    this.#cancelWatch?.();
    this.#cancelWatch = undefined;
    if (!on) return;
    this.#cancelWatch = this.#scheduler.after(this.#options.hungAfterMilliseconds ?? 1000, () => {
      this.#hung = true;
      this.#options.onHung?.(this.status.pendingInvalidations);
    });
  }

  #missed(id: unknown, iovaPfn: unknown, access: unknown): void {
    if (typeof id !== "number" || typeof access !== "number" || !isFrame(iovaPfn)) return;
    const { words, answerTarget } = this.#block;
    const answer = this.#answer;
    const asked = accessOf(access);
    if (Atomics.load(words, Word.STATE) !== RUNNING || !this.#scope.covers({ firstPfn: iovaPfn, pageCount: 1 })) {
      answer.refuse(NOT_ATTACHED, "the cache is not attached to this frame");
    } else {
      const { fill } = this.#options;
      if (fill === undefined) this.space.translate(iovaPfn, asked, answer);
      else fill(iovaPfn, asked, answer);
    }
    this.#mayHold ||= answer.reason === 0;
    const rights = entryRights(this.space, asked, answer.access, this.#options.rights);
    answerTarget[0] = answer.gpaPfn;
    words[Word.ANSWER_REASON] = answer.reason;
    words[Word.ANSWER_ACCESS] = rights;
    words[Word.ANSWER_PAGES] = this.#spanFor(iovaPfn, answer.pageCount);
    words[Word.ANSWER_GENERATION] = Atomics.load(words, Word.POSTED);
    Atomics.store(words, Word.ANSWER_ID, id | 0);
    Atomics.add(words, Word.DOORBELL, 1);
    Atomics.notify(words, Word.DOORBELL);
  }

  /** The largest size of an entry that may be held for an answer. */
  #spanFor(iovaPfn: number, pageCount: number): number {
    for (const span of ENTRY_SPANS.toReversed()) {
      const firstPfn = Math.floor(iovaPfn / span) * span;
      if (span <= pageCount && this.#scope.covers({ firstPfn, pageCount: span })) return span;
    }
    return 1;
  }
}

function promised(): { readonly done: Promise<void>; readonly acknowledge: () => void } {
  let acknowledge = (): void => undefined;
  const done = new Promise<void>((resolve) => (acknowledge = resolve));
  return { done, acknowledge };
}

function hull(a: FrameRange | undefined, b: FrameRange): FrameRange {
  if (a === undefined) return b;
  const firstPfn = Math.min(a.firstPfn, b.firstPfn);
  return { firstPfn, pageCount: Math.max(a.firstPfn + a.pageCount, b.firstPfn + b.pageCount) - firstPfn };
}

function isFrame(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0 && value < 2 ** 52;
}

/**
 * The worker's half: what a device model in a worker holds instead of guest memory.
 *
 * Invalidations are worked off at the start of every call, while waiting for an answer, and when the worker is idle; never between a translation and the access
 * that uses it, so an acknowledgement means that no access through a dropped entry is in flight. A device that computes for long without a call should `poll`.
 */

import {
  Access,
  type ByteAddress,
  type GuestMemory,
  LocalReason,
  offsetInPage,
  PAGE_BYTES,
  pfnOf,
  Translation,
  accessOf,
} from "@iommu-kit/iommu-core";
import { ALWAYS_INVALIDATED } from "../device-cache.js";
import { LARGEST_SPAN, TranslationCache } from "../translation-cache.js";
import type { WorkerSetup } from "./host-cache.js";
import { listen, post, type WorkerPort } from "./message-port.js";
import { openSharedBlock, RING_ENTRIES, RUNNING, type SharedBlock, Word } from "./shared-block.js";

/** Reason of every request after the host revoked the worker's translations: negative, so no architecture uses it. */
export const WORKER_REVOKED = LocalReason.WORKER_REVOKED;
/** Reason of a request that the host did not answer in time. */
export const NO_ANSWER = LocalReason.NO_ANSWER;
const ATTEMPTS = 16;

/** How a `WorkerDma` is made. */
export interface WorkerDmaOptions {
  /** The worker's end of the way to the host: Node's `parentPort`, `self` in the browser, or one end of a `MessageChannel`. */
  readonly port: WorkerPort;
  /** Guest memory, as the worker reaches it: shared with the host. */
  readonly memory: Pick<GuestMemory, "read" | "write">;
  /** Milliseconds to wait for an answer of the host. Default 10,000. */
  readonly answerDeadlineMilliseconds?: number;
}

/** Memory as a device in a worker reaches it. Blocks the worker while the host answers a miss. */
export class WorkerDma {
  /** Why the last request that was refused was refused: the backend's reason, or a negative one of this package; 0: no memory at the target. */
  reason = 0;
  readonly #block: SharedBlock;
  readonly #cache: TranslationCache;
  readonly #port: WorkerPort;
  readonly #memory: WorkerDmaOptions["memory"];
  readonly #answerDeadlineMilliseconds: number;
  readonly #translation = new Translation();
  readonly #always = (): boolean => true;
  #missId = 0;
  // The miss that is being waited for, and the newest invalidations that touched its page and its surroundings.
  #watchedPfn = -1;
  #pageDroppedAt: number | undefined;
  #areaDroppedAt: number | undefined;

  /** @throws {IommuError} `bad-option` for a setup of another version of this package. */
  constructor(setup: WorkerSetup, options: WorkerDmaOptions) {
    this.#block = openSharedBlock(setup.buffer);
    this.#cache = new TranslationCache(this.#block.shape, this.#block.cache);
    this.#port = options.port;
    this.#memory = options.memory;
    this.#answerDeadlineMilliseconds = options.answerDeadlineMilliseconds ?? 10_000;
    listen(options.port, (message) => {
      if (message.kind !== undefined) this.#woken();
    });
    this.#woken();
  }

  /** Entries held. */
  get entryCount(): number {
    return this.#cache.entryCount;
  }

  /** `true` once the host has cut this device off: every request is refused. */
  get revoked(): boolean {
    return Atomics.load(this.#block.words, Word.STATE) !== RUNNING;
  }

  /** Reads `into.length` bytes at `iova`. `false`: refused, see `reason`; `into` is then partly written. */
  read(iova: ByteAddress, into: Uint8Array): boolean {
    return this.#transfer(iova, into, Access.read);
  }

  /** Writes `from` at `iova`. `false`: refused, see `reason`; pages before the refused one have been written. */
  write(iova: ByteAddress, from: Uint8Array): boolean {
    return this.#transfer(iova, from, Access.write);
  }

  /**
   * Translates one page. `false`: refused, `out.reason` says why.
   * `out` is valid until the next call of any method of this object, and until the worker returns to its event loop; `read` and `write` need no such care.
   */
  translate(iovaPfn: number, access: Access, out: Translation): boolean {
    this.poll();
    if (this.revoked) return this.#refuse(out, WORKER_REVOKED, "the host revoked the worker's translations");
    if (this.#cache.lookup(iovaPfn, access, out)) {
      this.#count(Word.HITS, 1);
      return true;
    }
    this.#count(Word.MISSES, 1);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if (!this.#ask(iovaPfn, access, out)) return false;
      if (this.#hold(iovaPfn, out)) return true;
      this.#count(Word.DISCARDED, 1);
    }
    return this.#refuse(out, ALWAYS_INVALIDATED, "invalidated while being translated");
  }

  /** Works off pending invalidations. Call it in long computations; all other methods do it by themselves. */
  poll(): void {
    this.#count(Word.HEARTBEAT, 1);
    const { words, ring } = this.#block;
    const posted = Atomics.load(words, Word.POSTED);
    let acked = Atomics.load(words, Word.ACKED);
    if (acked === posted) return;
    while (acked !== posted) {
      const at = ((acked >>> 0) % RING_ENTRIES) * 2;
      acked = (acked + 1) | 0;
      this.#drop(ring[at] ?? 0, ring[at + 1] ?? 0, acked);
    }
    Atomics.store(words, Word.ACKED, posted);
    post(this.#port, { kind: "ack", through: posted });
  }

  #woken(): void {
    Atomics.store(this.#block.words, Word.WAKING, 0);
    this.poll();
  }

  #transfer(iova: ByteAddress, bytes: Uint8Array, access: Access): boolean {
    const translation = this.#translation;
    let pfn = pfnOf(iova);
    let offset = offsetInPage(iova);
    for (let at = 0; at < bytes.length; pfn += 1, offset = 0) {
      const length = Math.min(bytes.length - at, PAGE_BYTES - offset);
      if (!this.translate(pfn, access, translation)) return this.#fail(translation.reason);
      const gpa = translation.gpaPfn * PAGE_BYTES + offset;
      const reason = this.#access(gpa, bytes.subarray(at, at + length), access);
      if (reason !== undefined) return this.#fail(reason);
      at += length;
    }
    return true;
  }

  /** One access of at most a page. `undefined`: done. */
  #access(gpa: number, piece: Uint8Array, access: Access): number | undefined {
    const { words } = this.#block;
    Atomics.store(words, Word.IN_ACCESS, 1);
    try {
      if (this.revoked) return WORKER_REVOKED;
      const done = access === Access.read ? this.#memory.read(gpa, piece) : this.#memory.write(gpa, piece);
      return done ? undefined : 0;
    } finally {
      Atomics.store(words, Word.IN_ACCESS, 0);
    }
  }

  /** Asks the host, working off invalidations meanwhile. */
  #ask(iovaPfn: number, access: Access, out: Translation): boolean {
    const { words, answerTarget } = this.#block;
    this.#watchedPfn = iovaPfn;
    this.#pageDroppedAt = undefined;
    this.#areaDroppedAt = undefined;
    const id = (this.#missId = (this.#missId + 1) | 0);
    post(this.#port, { kind: "miss", id, iovaPfn, access });
    for (;;) {
      const doorbell = Atomics.load(words, Word.DOORBELL);
      if (Atomics.load(words, Word.ANSWER_ID) === id) break;
      if (this.revoked) return this.#refuse(out, WORKER_REVOKED, "the host revoked the worker's translations");
      this.poll();
      if (Atomics.wait(words, Word.DOORBELL, doorbell, this.#answerDeadlineMilliseconds) === "timed-out")
        return this.#refuse(out, NO_ANSWER, "the host did not answer");
    }
    const reason = this.#word(Word.ANSWER_REASON);
    if (reason !== 0) return this.#refuse(out, reason, "refused by the unit");
    out.allow(answerTarget[0] ?? 0, this.#word(Word.ANSWER_PAGES), accessOf(this.#word(Word.ANSWER_ACCESS)));
    return true;
  }

  /** Holds an answer unless an invalidation overtook it; one that touched only its surroundings makes it an answer for the page alone. */
  #hold(iovaPfn: number, answer: Translation): boolean {
    this.poll();
    const generation = this.#word(Word.ANSWER_GENERATION);
    const isNewer = (droppedAt: number | undefined): boolean =>
      droppedAt !== undefined && ((droppedAt - generation) | 0) > 0;
    this.#watchedPfn = -1;
    if (isNewer(this.#pageDroppedAt)) return false;
    if (isNewer(this.#areaDroppedAt)) answer.pageCount = 1;
    this.#cache.insert(iovaPfn, answer, this.#always);
    this.#count(Word.FILLS, 1);
    return true;
  }

  #drop(firstPfn: number, pageCount: number, number: number): void {
    this.#count(Word.FLUSHED, this.#cache.invalidate(firstPfn, pageCount));
    const pfn = this.#watchedPfn;
    if (pfn < 0) return;
    const end = firstPfn + pageCount;
    if (pfn >= firstPfn && pfn < end) this.#pageDroppedAt = number;
    const area = Math.floor(pfn / LARGEST_SPAN) * LARGEST_SPAN;
    if (firstPfn < area + LARGEST_SPAN && end > area) this.#areaDroppedAt = number;
  }

  #refuse(out: Translation, reason: number, cause: string): false {
    this.#watchedPfn = -1;
    out.refuse(reason, cause);
    return false;
  }

  #fail(reason: number): false {
    this.reason = reason;
    return false;
  }

  #count(word: number, by: number): void {
    this.#block.words[word] = (this.#word(word) + by) | 0;
  }

  #word(word: number): number {
    return this.#block.words[word] ?? 0;
  }
}

/**
 * The invalidation queue (§6.5.2): fetches descriptors, checks them, carries them out, reports errors and completions.
 *
 * Descriptors are carried out in order. One whose notifiers are still busy does not hold up the next; a wait descriptor completes when everything before it has.
 * The queue gives way when the slice is spent and goes on later (design D9). IQH moves past a descriptor once it has been found valid.
 */

import { type Completion, CompletionGroup, type GuestMemory, PAGE_BYTES, whenDone } from "@iommu-kit/iommu-core";
import type { FaultLog } from "../fault/fault-log.js";
import type { RegisterFile } from "../registers/register-file.js";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { TableMode } from "../spec/encodings.js";
import {
  descriptorReserved,
  descriptorType,
  largestDescriptorType,
  queueBytes,
  QueueError,
} from "../spec/invalidation.js";
import { FSTS } from "../spec/registers-event.js";
import { IQA, IQERCD, IQH, IQT } from "../spec/registers-invalidation.js";
import { anyBit } from "../spec/word.js";
import type { RootPointer } from "../translate/root-pointer.js";

/** Descriptors that notifiers have not completed: with more of them the queue waits, as hardware does that has sent all the requests it can keep track of. */
const MOST_PENDING = 64;
const NARROW_BYTES = 16;
const WIDE_BYTES = 32;

const { QH } = IQH.fields;
const { QT } = IQT.fields;
const { DW, QS, IQA: QUEUE } = IQA.fields;
const STOPPED = FSTS.fields.IQE.mask | FSTS.fields.ITE.mask;

/** Carries out one valid descriptor. A `QueueError` refuses it after all. */
export interface DescriptorHandler {
  handle(type: number, words: Int32Array): Completion | QueueError;
  /** A wait descriptor, when everything before it has completed. */
  wait(words: Int32Array): QueueError;
  /** Whether this type is a wait descriptor. */
  isWait(type: number): boolean;
}

/** How the queue shares the guest's slice of work. */
export interface QueuePace {
  /** Counts a descriptor; `false`: the slice is spent. */
  take(): boolean;
  /** Calls back when a new slice begins. */
  defer(resume: () => void): void;
}

/** What the queue works with. */
export interface QueueParts {
  readonly memory: GuestMemory;
  readonly file: RegisterFile;
  readonly capabilities: UnitCapabilities;
  readonly root: RootPointer;
  readonly faults: FaultLog;
  readonly handler: DescriptorHandler;
  readonly pace: QueuePace;
}

/** The queue of one unit. Registers say where it lies and how far it is; `run` goes on from there. */
export class InvalidationQueue {
  readonly #parts: QueueParts;
  /** Of descriptors of 256 bits, and of 128. */
  readonly #reserved: readonly (Int32Array | undefined)[];
  readonly #narrowReserved: readonly (Int32Array | undefined)[];
  /** The register block, and the words of those registers that are read for each descriptor. */
  readonly #words: Int32Array;
  readonly #at: { readonly head: number; readonly tail: number; readonly address: number; readonly status: number };
  readonly #hostFrames: number;
  readonly #narrow = new Int32Array(NARROW_BYTES / 4);
  readonly #wide = new Int32Array(WIDE_BYTES / 4);
  #pending = new CompletionGroup();
  /** What the queue waits for: the wait descriptor in flight, or too many others. */
  #awaited: Completion;
  #enabled = false;
  /** Waits for notifiers or for the next slice. */
  #suspended = false;
  #running = false;
  /** Grows with disable and reset: what was pending before means nothing after. */
  #epoch = 0;
  /** The wait descriptor that has been fetched and not completed. */
  #waiting: Int32Array | undefined;

  constructor(parts: QueueParts) {
    this.#parts = parts;
    this.#reserved = descriptorReserved(parts.capabilities.ecap);
    this.#narrowReserved = this.#reserved.map((mask) => mask?.subarray(0, NARROW_BYTES / 4));
    const { file } = parts;
    this.#words = file.words;
    this.#at = {
      head: file.wordOf("IQH"),
      tail: file.wordOf("IQT"),
      address: file.wordOf("IQA"),
      status: file.wordOf("FSTS"),
    };
    this.#hostFrames = 2 ** (parts.capabilities.hostAddressWidth - 12);
  }

  /** Whether descriptors are being waited for. */
  get suspended(): boolean {
    return this.#suspended;
  }

  /** The wait descriptor that waits for notifiers, for a snapshot. */
  get waiting(): Int32Array | undefined {
    return this.#waiting;
  }

  /** QIE 0 -> 1. What the tail says already is carried out at once. */
  enable(): void {
    this.#enabled = true;
    this.run();
  }

  /** QIE 1 -> 0, or reset: the head returns to 0, what is pending is abandoned. */
  disable(): void {
    this.#enabled = false;
    this.#abandon();
    QH.set(this.#words, this.#at.head, 0);
  }

  /** Takes up the state of a snapshot: registers are in place, `waiting` had been fetched. Goes on when `completion` is done. */
  restore(enabled: boolean, waiting: Int32Array | undefined, completion: Completion): void {
    this.#abandon();
    this.#enabled = enabled;
    this.#waiting = waiting;
    this.#suspendUntil(
      (resume) => whenDone(completion, resume),
      () => {
        if (waiting !== undefined) this.#complete(this.#before(waiting.byteLength), waiting);
      },
    );
  }

  /** A device did not answer an invalidation: pending waits are aborted, nothing is fetched until software clears ITE (§6.5.2.11). */
  timedOut(sourceId: number): void {
    const { file, faults } = this.#parts;
    const awaited = this.#awaited;
    const pending = this.#pending;
    this.#abandon();
    // Others may still be busy with what has been carried out: the next wait descriptor waits for them.
    this.#pending = pending;
    this.#pending.add(awaited);
    if (file.get("FSTS", FSTS.fields.ITE) === 1) return;
    file.set("IQERCD", IQERCD.fields.ITESID, sourceId);
    faults.raise("ITE");
  }

  /** A device answered an invalidation that was never sent. The queue goes on. */
  strayCompletion(sourceId: number): void {
    const { file, faults } = this.#parts;
    if (file.get("FSTS", FSTS.fields.ICE) === 1) return;
    file.set("IQERCD", IQERCD.fields.ICESID, sourceId);
    faults.raise("ICE");
  }

  /** Whether a descriptor is being carried out. */
  get running(): boolean {
    return this.#running;
  }

  /**
   * Carries out descriptors until the queue is empty, an error stands, or something has to be waited for. A host may have its guest write registers in the middle of one, from the
   * sink of its messages or the recall of a lease: what they say then is carried out behind it.
   */
  run(): void {
    if (this.#running) return;
    this.#running = true;
    try {
      this.#carryOut();
    } finally {
      this.#running = false;
    }
  }

  #carryOut(): void {
    const { pace } = this.#parts;
    while (this.#enabled && !this.#suspended && !this.#stopped()) {
      const head = this.#head();
      if (head === this.#tail()) return;
      if (this.#pending.size >= MOST_PENDING) {
        const pending = this.#pending.take();
        this.#awaited = pending;
        this.#suspendUntil((resume) => whenDone(pending, resume));
        return;
      }
      if (!pace.take()) {
        this.#suspendUntil((resume) => pace.defer(resume));
        return;
      }
      const error = this.#step(head);
      if (error !== QueueError.NONE) this.#fail(error);
    }
  }

  #step(head: number): QueueError {
    const { memory, root, handler } = this.#parts;
    const wide = DW.get(this.#words, this.#at.address) === 1;
    const setup = this.#checkSetup(wide, head);
    if (setup !== QueueError.NONE) return setup;
    const words = wide ? this.#wide : this.#narrow;
    const queue = QUEUE.get(this.#words, this.#at.address);
    // Address bits above the host's are ignored. Nearly no guest sets any, and the remainder of a double is a call.
    const base = queue < this.#hostFrames ? queue : queue % this.#hostFrames;
    if (!memory.fetch(base * PAGE_BYTES + head, words)) return QueueError.FETCH;
    const type = descriptorType(words, 0);
    const reserved = (wide ? this.#reserved : this.#narrowReserved)[type];
    if (type > largestDescriptorType(root.mode, wide) || reserved === undefined) return QueueError.TYPE;
    if (anyBit(words, reserved)) return QueueError.RESERVED_FIELD;
    const epoch = this.#epoch;
    const outcome = handler.isWait(type) ? this.#wait(head, words) : handler.handle(type, words);
    if (typeof outcome === "number" && outcome !== QueueError.NONE) return outcome;
    // Else the queue was switched off in the middle of it, and its head is where that has put it.
    if (epoch === this.#epoch) {
      if (typeof outcome !== "number") this.#pending.add(outcome);
      this.#advance(head, words.byteLength);
    }
    return QueueError.NONE;
  }

  #wait(head: number, words: Int32Array): QueueError {
    const pending = this.#pending.take();
    if (pending === undefined) return this.#parts.handler.wait(words);
    // What is being waited for is remembered here.
    const waiting = words.slice();
    this.#waiting = waiting;
    this.#awaited = pending;
    this.#suspendUntil(
      (resume) => whenDone(pending, resume),
      () => this.#complete(head, waiting),
    );
    return QueueError.NONE;
  }

  #complete(head: number, waiting: Int32Array): void {
    this.#waiting = undefined;
    this.#awaited = undefined;
    const error = this.#parts.handler.wait(waiting);
    if (error === QueueError.NONE) return;
    QH.set(this.#words, this.#at.head, head / NARROW_BYTES);
    this.#fail(error);
  }

  /** Forgets what is pending. */
  #abandon(): void {
    this.#epoch += 1;
    this.#suspended = false;
    this.#waiting = undefined;
    this.#awaited = undefined;
    this.#pending = new CompletionGroup();
  }

  #suspendUntil(arrange: (resume: () => void) => void, before?: () => void): void {
    const epoch = this.#epoch;
    this.#suspended = true;
    arrange(() => {
      if (epoch !== this.#epoch) return;
      this.#suspended = false;
      before?.();
      this.run();
    });
  }

  /** Errors that lie in the registers, not in a descriptor (§11.4.9.9). */
  #checkSetup(wide: boolean, head: number): QueueError {
    const { root } = this.#parts;
    const tail = this.#tail();
    if (root.mode !== TableMode.LEGACY && root.mode !== TableMode.SCALABLE && root.mode !== TableMode.ABORT)
      return QueueError.TABLE_MODE;
    if (root.mode !== TableMode.LEGACY && !wide) return QueueError.DESCRIPTOR_WIDTH;
    // A head that is not aligned, because the width changed under it, would never meet the tail.
    if (wide && (tail % WIDE_BYTES !== 0 || head % WIDE_BYTES !== 0)) return QueueError.TAIL_ALIGNMENT;
    if (tail >= this.#queueBytes()) return QueueError.TAIL_BEYOND_QUEUE;
    return QueueError.NONE;
  }

  /** Where the descriptor of this size in front of the head lies. */
  #before(byteLength: number): number {
    const size = this.#queueBytes();
    return (this.#head() + size - byteLength) % size;
  }

  #advance(head: number, byteLength: number): void {
    QH.set(this.#words, this.#at.head, ((head + byteLength) % this.#queueBytes()) / NARROW_BYTES);
  }

  /** Bytes from the start of the queue to the next descriptor to fetch. */
  #head(): number {
    return QH.get(this.#words, this.#at.head) * NARROW_BYTES;
  }

  #tail(): number {
    return QT.get(this.#words, this.#at.tail) * NARROW_BYTES;
  }

  #queueBytes(): number {
    return queueBytes(QS.get(this.#words, this.#at.address));
  }

  #fail(error: QueueError): void {
    this.#parts.file.set("IQERCD", IQERCD.fields.IQEI, error);
    this.#parts.faults.raise("IQE");
  }

  #stopped(): boolean {
    return ((this.#words[this.#at.status] ?? 0) & STOPPED) !== 0;
  }
}

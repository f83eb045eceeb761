/**
 * The invalidation queue of a legacy-mode unit with 128-bit descriptors (§6.5.2), one descriptor at a time.
 */

import type { DeviationName, Traits } from "../deviations.js";
import type { SparseMemory } from "../machine/sparse-memory.js";
import type { FaultRegisters } from "./fault-registers.js";

/** What descriptors other than waits act on. */
export interface QueueTarget {
  invalidateContexts(granularity: number, sourceId: number, functionMask: number): void;
  /** `false`: an address mask that is too large. */
  invalidateTranslations(granularity: number, domainId: number, pfn: number, order: number): boolean;
}

/** Bits of the low quadword that mean something, by type; of the high one below. */
const KNOWN_LOW: Record<number, bigint> = {
  1: 0x0003_ffff_ffff_003fn,
  2: 0x0000_0000_ffff_00ffn,
  4: 0x0000_ffff_f800_001fn,
  5: 0xffff_ffff_0000_007fn,
};
const KNOWN_HIGH: Record<number, bigint> = { 1: 0n, 2: 0xffff_ffff_ffff_f07fn, 4: 0n, 5: 0xffff_ffff_ffff_fffcn };
/** Types that a unit without device TLBs and without scalable mode does not have. */
const ABSENT: ReadonlySet<number> = new Set([3, 6, 7]);

/** See the file's header. */
export class ReferenceQueue {
  enabled = false;
  head = 0;
  tail = 0;
  /** IQA. */
  base = 0;
  size = 4096;
  /** ICS.IWC. */
  waited = false;
  /** The trait that has made head, status or memory other than the architecture would. */
  cause: DeviationName | undefined;
  readonly #traits: Traits;
  readonly #memory: SparseMemory;
  readonly #faults: FaultRegisters;
  readonly #target: QueueTarget;
  readonly #hostWidth: number;

  constructor(
    traits: Traits,
    parts: { memory: SparseMemory; faults: FaultRegisters; target: QueueTarget; hostWidth: number },
  ) {
    this.#traits = traits;
    this.#memory = parts.memory;
    this.#faults = parts.faults;
    this.#target = parts.target;
    this.#hostWidth = parts.hostWidth;
  }

  enable(on: boolean): void {
    this.enabled = on;
    if (on) this.run();
    else this.head = 0;
  }

  /** IQE has been cleared. */
  resume(): void {
    if (!this.#traits.has("queue-waits-for-a-tail-write")) this.run();
    else if (this.enabled && this.head !== this.tail) this.cause = "queue-waits-for-a-tail-write";
  }

  /** Carries out descriptors up to the tail or the first error. */
  run(): void {
    while (this.enabled && !this.#faults.queueError && this.head !== this.tail) {
      if (this.tail >= this.size || !this.#step()) {
        this.#faults.fail();
        return;
      }
      this.head = (this.head + 16) % this.size;
    }
  }

  #step(): boolean {
    const words = new Int32Array(4);
    if (!this.#memory.fetch(this.base + this.head, words)) return false;
    const [low, high] = [quadword(words, 0), quadword(words, 2)];
    const type = Number(low & 15n) + Number((low >> 9n) & 7n) * 16;
    if (ABSENT.has(type) && this.#traits.has("queue-takes-absent-descriptor-types")) {
      this.cause = "queue-takes-absent-descriptor-types";
      return true;
    }
    const knownLow = KNOWN_LOW[type];
    if (knownLow === undefined || (low & ~knownLow) !== 0n || (high & ~(KNOWN_HIGH[type] ?? 0n)) !== 0n) return false;
    const granularity = Number((low >> 4n) & 3n);
    const id = Number((low >> 16n) & 0xffffn);
    if (type === 5) return this.#wait(low, high);
    if (type === 4) return true;
    if (granularity === 0) return false;
    if (type === 2)
      return this.#target.invalidateTranslations(granularity, id, Number(high >> 12n), Number(high & 63n));
    this.#target.invalidateContexts(granularity, Number((low >> 32n) & 0xffffn), Number((low >> 48n) & 3n));
    return true;
  }

  #wait(low: bigint, high: bigint): boolean {
    if ((low & 0x70n) === 0n) return false;
    const gpa = Number(high % (1n << BigInt(this.#hostWidth)));
    if ((low & 0x20n) !== 0n && !this.#memory.writeWord(gpa, Number(BigInt.asIntN(32, low >> 32n)))) return false;
    if ((low & 0x10n) !== 0n) this.waited = true;
    return true;
  }
}

function quadword(words: Int32Array, at: number): bigint {
  return (BigInt((words[at + 1] ?? 0) >>> 0) << 32n) | BigInt((words[at] ?? 0) >>> 0);
}

/**
 * What a host supplies: guest memory, a sink for message-signalled interrupts, and a scheduler.
 *
 * Everything else of a host stays outside. An implementation of these interfaces may be shared by several units.
 */

import type { FrameRange } from "./range.js";

/**
 * RAM seen directly as little-endian 32-bit words, `pageCount * 1024` of them. Valid until the host's memory object says otherwise (`words.length` 0).
 * In a SharedArrayBuffer they begin at a multiple of 8 bytes: table entries are then read whole, see `sharedEntries`.
 */
export interface RamWindow extends FrameRange {
  readonly words: Int32Array;
}

/**
 * Guest-physical memory as the unit and the devices reach it. Addresses are bytes below 2^52.
 * Accesses outside RAM answer `false` and have no effect; none may throw.
 */
export interface GuestMemory {
  /** The RAM, ascending and disjoint. Read when budgets are computed and when the identity mapping is announced; see `Iommu.setRegions`. */
  readonly ram: readonly FrameRange[];
  /** Copies `into.length` bytes from `gpa` on. `false`, with `into` unspecified, if any byte is not RAM. */
  read(gpa: number, into: Uint8Array): boolean;
  /** Copies `from` to `gpa`. `false` if any byte is not RAM; bytes before it may have been written. */
  write(gpa: number, from: Uint8Array): boolean;
  /** Reads `into.length` little-endian words at a naturally aligned `gpa`, as one access as far as the host can: where another thread may run the guest, each 64-bit entry whole. */
  fetch(gpa: number, into: Int32Array): boolean;
  /** Writes one little-endian 32-bit word, as one access. `gpa` is a multiple of 4. */
  writeWord(gpa: number, word: number): boolean;
  /** Writes `replacement` if the word at `gpa` still is `expected`, as one access. `false` if it is not, or if there is no RAM. Words are signed, as those of an Int32Array. */
  compareExchange(gpa: number, expected: number, replacement: number): boolean;
  /** Optional: the window of RAM that contains this frame. The same object for the same frames: callers keep it while `words.length` is not 0. */
  window?(pfn: number): RamWindow | undefined;
  /**
   * Optional: `true` while devices may write RAM through `window`, past `write`: nobody has to know which bytes they wrote (no compiled guest code, no log of dirty pages).
   * Looked at before every write, so a host may change its mind at any time. Not heeded where there is `generation`, which would miss such writes.
   * Default: every write goes through `write`. Dirty trackers of this package see all writes either way.
   */
  readonly directWrites?: boolean;
  /**
   * Optional: a counter that grows with every change of this frame by anybody, and when the frame stops or begins to be RAM. Equal answers promise equal contents, and that
   * `fetch` answers as it did: a table that is vouched for is not read.
   */
  generation?(pfn: number): number;
}

/** A message-signalled interrupt: one 32-bit write of `data`. */
export interface MsiMessage {
  /** Address bits 31:0, unsigned. */
  readonly address: number;
  /** Address bits 63:32, unsigned. */
  readonly addressHigh: number;
  /** 32 bits, unsigned. */
  readonly data: number;
}

/** Delivers a message to the interrupt controllers. Must not throw. May write registers of the unit: what it submits is carried out when the message has been sent. */
export type MsiSink = (message: MsiMessage) => void;

/** Defers work and measures time-outs. */
export interface Scheduler {
  /** Runs `task` later, from the host's event loop: never before `defer` has returned. */
  defer(task: () => void): void;
  /** Runs `task` after about `milliseconds`; the answer cancels it. */
  after(milliseconds: number, task: () => void): () => void;
}

// Every host of JavaScript has these two; naming them here keeps the package free of Node's and the browser's types.
declare const setTimeout: (task: () => void, milliseconds: number) => unknown;
declare const clearTimeout: (handle: unknown) => void;

/** A scheduler on the host's timers. Pending time-outs keep a Node process alive until they fire or are cancelled. */
export const timerScheduler: Scheduler = {
  defer(task) {
    setTimeout(task, 0);
  },
  after(milliseconds, task) {
    const handle = setTimeout(task, milliseconds);
    return () => clearTimeout(handle);
  },
};

/**
 * What a DMA container is to the notifier: a set of entries, each of which lets the devices behind it reach one run of
 * target frames at one run of IOVA frames.
 *
 * The interface speaks frames, targets and rights only. How a call looks to a kernel or on a socket (flag words,
 * argument sizes, buffers, file descriptors) is the business of whoever implements it. Answers are values: a container
 * that refuses is an ordinary event in the life of a notifier, never an exception. Rules which differ between kinds of
 * containers are data, see `ContainerProfile`.
 */

import type { Access } from "@iommu-kit/iommu-core";

/**
 * Why a container refused. The names stand for the error numbers that real containers answer:
 * `exists` EEXIST (the range is mapped), `invalid` EINVAL (a rule was broken), `overflow` EOVERFLOW (the range leaves
 * the 64-bit space), `no-entry` ENOENT (nothing there that could be unmapped), `no-space` ENOSPC (entry limit reached),
 * `denied` EACCES (not offered by this kind), `unsupported` ENOTTY (not known to this kind), `bad-target` EFAULT (the
 * target is no memory that the container can reach, such as another device's BAR), `gone` ENODEV (the far side is dead).
 */
export type ContainerRefusal =
  | "exists"
  | "invalid"
  | "overflow"
  | "no-entry"
  | "no-space"
  | "denied"
  | "unsupported"
  | "bad-target"
  | "gone";

/** A refused call: nothing has changed in the container. */
export interface Refused {
  /** Tells it from what was carried out. */
  readonly ok: false;
  /** Why. */
  readonly cause: ContainerRefusal;
}

/** Answer to a map: the entry is held, or the call was refused and nothing changed. */
export type MapResult = { readonly ok: true } | Refused;

/** Answer to an unmap: frames no longer reachable (0 for a hole where the profile allows it), or refused. */
export type UnmapResult = { readonly ok: true; readonly removedPageCount: number } | Refused;

/** Answer to a dirty-log call. */
export type DirtyResult = { readonly ok: true } | Refused;

/** A result now, or a promise of it where the container sits behind a socket or in another thread. */
export type Answer<T> = T | Promise<T>;

/** The answer that a successful map shares: no allocation in the common case. */
export const MAPPED: MapResult = Object.freeze({ ok: true });

/**
 * The log of what devices wrote, by IOVA. Bit `n` of a bitmap (byte `n >> 3`, bit `n & 7`) stands for the `n`-th frame
 * of the range asked for; bits are set, never cleared, in the buffer of the caller.
 */
export interface DirtyLog {
  /** True while writes are logged. */
  readonly active: boolean;
  /** Starts logging; starting twice is no error. */
  start(): Answer<DirtyResult>;
  /** Stops logging and forgets; stopping twice is no error. */
  stop(): Answer<DirtyResult>;
  /**
   * Reports frames of a range that may have been written since they were last reported.
   * @param bitmap At least `ceil(pageCount / 8)` bytes; otherwise the answer is `invalid`.
   */
  read(iovaPfn: number, pageCount: number, bitmap: Uint8Array): Answer<DirtyResult>;
  /**
   * Unmaps a range and reports the frames written up to that moment, as one step: no write can fall between.
   * Absent where the container cannot; the log then still knows the frames after the unmap.
   */
  unmapAndRead?(iovaPfn: number, pageCount: number, bitmap: Uint8Array): Answer<UnmapResult>;
}

/**
 * A DMA container. Implementers may rely on calls being made one at a time by one notifier (the next call may come
 * before the promise of the one before has settled: order of calls is order of effect), on whole frame numbers, and on
 * nothing being called after `unmapAll` of a detach until something is attached again.
 */
export interface DmaContainer {
  /** `page`: an unmap may cut an entry. `block`: only whole entries may be unmapped. */
  readonly granularity: "page" | "block";
  /** Most entries it can hold; Infinity for no limit. May change while it lives, never below what is held. */
  readonly entryLimit: number;
  /** Entries held now, by everybody who uses the container. */
  readonly entriesHeld: number;
  /** Frames of the largest entry it takes; absent for no limit. */
  readonly largestEntryPageCount?: number;
  /** The log of device writes, where the kind has one. */
  readonly dirtyLog?: DirtyLog;

  /**
   * Adds one entry.
   * @param iovaPfn First IOVA frame, 0 up to 2^52 - 1.
   * @param pageCount Frames, at least 1.
   * @param gpaPfn First target frame.
   * @param access What devices may do; not `Access.none`.
   */
  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): Answer<MapResult>;

  /** Removes the entries of a range, by the rules of the profile. When it has answered, no device reaches them. */
  unmap(iovaPfn: number, pageCount: number): Answer<UnmapResult>;

  /** Removes every entry. An empty container answers 0 frames. */
  unmapAll(): Answer<UnmapResult>;

  /**
   * Opens a step: what is mapped and unmapped up to `commit` becomes visible to devices at once. Present with `commit`
   * or not at all. Steps do not nest.
   */
  begin?(): void;

  /** Closes the step. When it has answered, devices see all of it. */
  commit?(): Answer<void>;

  /**
   * Calls `listener` after entries were freed, by whomever. Returns the function that ends the subscription.
   * Absent: the notifier tries again after its own unmaps only.
   */
  onEntriesFreed?(listener: () => void): () => void;
}

/** A refusal of the given cause; shared objects, so that a guest which provokes refusals costs no memory. */
export function refused(cause: ContainerRefusal): Refused {
  return REFUSALS[cause];
}

const REFUSALS: Readonly<Record<ContainerRefusal, Refused>> = {
  exists: { ok: false, cause: "exists" },
  invalid: { ok: false, cause: "invalid" },
  overflow: { ok: false, cause: "overflow" },
  "no-entry": { ok: false, cause: "no-entry" },
  "no-space": { ok: false, cause: "no-space" },
  denied: { ok: false, cause: "denied" },
  unsupported: { ok: false, cause: "unsupported" },
  "bad-target": { ok: false, cause: "bad-target" },
  gone: { ok: false, cause: "gone" },
};

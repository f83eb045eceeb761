/**
 * Notifiers: whatever mirrors or caches what a device may reach.
 *
 * The three kinds differ in what they are told (design, "Two kinds of notifier"):
 * - `map` mirrors. It gets *exact* events: never a map of a frame it holds, never an unmap of a frame that stays mapped.
 * - `unmap` caches and fills on demand by translating. It gets ranges to drop, which may be larger than anything it holds.
 * - `device-tlb` is the cache inside a device (ATS). It hears device-TLB invalidations only, while the guest lets the device ask for translations, and what an
 *   `unmap` notifier hears while it does not.
 *
 * Rules for every callback: it may translate; it may not write registers of the unit, attach or detach. What it throws or rejects with fails its
 * own attachment and no other. A promise delays the guest's completion, not the next event: events are issued in order without waiting.
 */

import type { Access } from "./access.js";
import type { Completion } from "./completion.js";
import type { NOTIFIER_CONTRACT } from "./contract.js";
import type { IommuError } from "./errors.js";

/** What every notifier may say about itself. */
export interface NotifierCommon {
  /** For events and messages. */
  readonly name?: string;
  /** The `NOTIFIER_CONTRACT` that it was written for, as a literal. Another one is refused at `attach`. Default: 1. */
  readonly contract?: typeof NOTIFIER_CONTRACT;
  /**
   * It failed or did not answer in time and was cut off: drop everything it holds, now; no further event comes.
   * The last chance to keep a device from reaching a stale page. Not called for an ordinary detach, which unmaps.
   * Whoever needs time for it answers with a promise: until then the guest's waits do not complete, for as long as an answer may take. One that throws, rejects or takes
   * longer is reported as `failed` once more.
   */
  revoke?(error: IommuError): Completion;
}

/**
 * Answer to a map. `undefined`: held. `"full"`: no room; not held, tried again when entries free up. `"unsupported"`: this consumer cannot hold such a
 * target (a peer device's BAR, say); not held, reported, not tried again.
 */
export type MapAnswer = undefined | void | "full" | "unsupported";

/**
 * What a MAP notifier may say of itself at any time, from inside a callback too, because the answer to a call could not say it. After its detach and once it has failed
 * nothing of it is heeded.
 */
export interface MapReports {
  /**
   * Frames that it was given turn out not to be held: the rest of an entry that had to be cut, say, for which there was no room. They are as they were given, and not taken
   * or changed since; of a `"block"` notifier they are whole blocks. From here on they count as if their map had been answered so: they are not unmapped any more, and with
   * `"full"` they are mapped again when entries free up. Anything else is a breach of the contract, and ends the attachment.
   */
  refused(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access, answer: "full" | "unsupported"): void;
  /** Frames that stay mapped could not be reached for a moment, by its own doing: listeners hear of it as `window`. */
  window(iovaPfn: number, pageCount: number): void;
  /**
   * Entries have freed up for reasons that the unit cannot see: what was refused is offered again, at the end of the invalidation under way if there is one, and
   * after it when asked for by what is offered again. As `Attachment.retry`.
   */
  retry(): void;
}

/** A notifier that mirrors mappings. */
export interface MapNotifier extends NotifierCommon {
  /** Tells this kind from the others. */
  readonly kind: "map";
  /** `"page"`: any part of what was mapped may be unmapped. `"block"`: only whole blocks, exactly as they were mapped. */
  readonly granularity: "page" | "block";
  /** Largest block in pages, a power of two. Default: no limit. With `granularity: "block"` and 1 no `window` is possible. */
  readonly largestBlock?: number;
  /** Frames `iovaPfn ... + pageCount - 1` now reach `gpaPfn ...` with `access`. None of them is held before the call. */
  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer | Promise<MapAnswer>;
  /** These frames reach nothing any more. All of them are held before the call. Completes when no access to them is possible or in flight. */
  unmap(iovaPfn: number, pageCount: number): Completion;
  /** Optional: changes target or rights of held frames as one step. Without it a change is an unmap directly followed by a map, reported as a `window`. */
  replace?(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer | Promise<MapAnswer>;
  /** Optional: called once for every attachment in its turn, before its first event. */
  reportTo?(reports: MapReports): void;
  /** Optional: the events of one invalidation follow. */
  begin?(): void;
  /** Optional: the events of one invalidation have been told. A consumer that can applies them as one step now. */
  commit?(): Completion;
}

/** A notifier that caches translations and fills on demand. */
export interface UnmapNotifier extends NotifierCommon {
  /** Tells this kind from the others. */
  readonly kind: "unmap";
  /** Drop whatever is cached for these frames. Completes when no access through a dropped entry is possible or in flight. */
  unmap(iovaPfn: number, pageCount: number): Completion;
}

/** The translation cache of a device that uses ATS. */
export interface DeviceTlbNotifier extends NotifierCommon {
  /** Tells this kind from the others. */
  readonly kind: "device-tlb";
  /**
   * Drop whatever is cached for these frames. A device that does not answer an invalidation of the guest in time gives the guest the architected time-out; on
   * detach, and where the guest does not use the device TLB, it is cut off as an `unmap` notifier is.
   */
  invalidate(iovaPfn: number, pageCount: number): Completion;
}

/** Any notifier. */
export type Notifier = MapNotifier | UnmapNotifier | DeviceTlbNotifier;

/** The name for messages. */
export function notifierName(notifier: Notifier): string {
  return notifier.name ?? `${notifier.kind} notifier`;
}

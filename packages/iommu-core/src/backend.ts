/**
 * What a remapping architecture supplies: two questions and one announcement.
 *
 * - "where does this page go?" - `translate`
 * - "what is mapped in this range?" - `domainOf(requester).scan(range, sink)`
 * - "this range changed" - the function given to `connect`
 */

import type { Access } from "./access.js";
import type { ByteAddress } from "./address.js";
import type { Completion } from "./completion.js";
import type { LeafTable } from "./diff/leaf-table.js";
import type { BACKEND_CONTRACT } from "./contract.js";
import type { FrameRange } from "./range.js";
import type { SourceId } from "./source-id.js";
import type { Translation } from "./translation.js";

/** Who makes a request. The same object for the life of an address space. */
export interface Requester {
  /** Bus, device and function in 16 bits. */
  readonly sourceId: SourceId;
  /** The PASID of its requests (0 to 2^20 - 1), or `undefined` for requests without PASID. */
  readonly pasid: number | undefined;
  /** Its requests ask for supervisor privilege. Only requests with PASID can. */
  readonly privileged: boolean;
  /** Its requests ask to execute. Only requests with PASID can. */
  readonly execute: boolean;
  /** A number that names this requester among all of the unit, for caches. */
  readonly key: number;
}

/**
 * What a set of requesters sees. Two requesters with the *same object* share one view: one tree, one scan, one announcement.
 * A backend returns a new object when table root, width or domain-id differ, and the same one while they do not.
 */
export interface Domain {
  /** `table`: mappings from `scan`. `bypass`: the identity mapping of the host's regions. `blocked`: nothing. */
  readonly kind: "table" | "bypass" | "blocked";
  /** For people. */
  readonly label: string;
  /** Ascending, disjoint ranges that are never announced, whatever the tables say (the interrupt window). */
  readonly holes: readonly FrameRange[];
  /**
   * Translating a request leaves marks in the guest's tables: accessed and dirty flags, which caches must not keep a later write from setting. Default: no.
   */
  readonly setsFlags?: boolean;
  /**
   * Tells `sink` what is mapped in `range`, in ascending order, reading each table entry once. Where tables are unreadable or malformed, nothing is
   * mapped. Returns early as soon as the sink answers `false`; it is then called again with the rest of the range, at once or later.
   * A sink, and whoever hears of what it is told, may begin another scan while this one is under way: neither disturbs the other.
   */
  scan(range: FrameRange, sink: MappingSink): void;
}

/** Where a scan reports to. Calls come in ascending order of frames; frames between two calls are not mapped. */
export interface MappingSink {
  /** `pageCount` frames reach consecutive targets from `gpaPfn` on. Any size; a superpage is one call. `false`: stop the scan. */
  run(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean;
  /**
   * Nothing further is mapped before `iovaPfn`, and `entriesRead` table entries are about to be read. `false`: stop the scan, the slice is spent.
   * Only backends that read tables of a guest need to call it: it is what bounds the work of one slice. `again`: the table begins before the range of this
   * scan, so it has been counted when the pass came to it first, and costs a slice but not the view's budget of tables.
   */
  reach(iovaPfn: number, entriesRead: number, again?: boolean): boolean;
  /** A table of 512 entries for the single frames from `iovaPfn` (a multiple of 512) on. Only those in the range of the scan need be there. `false`: stop the scan. */
  table(iovaPfn: number, table: LeafTable): boolean;
  /**
   * Optional. Asked for a table that points to 512 leaf tables, for the frames from `iovaPfn` (a multiple of 2^18) on, after `reach` and before it is read; all of it is in the range of the
   * scan. `directory` has its frame, its generation, and a format that is another one when what its entries mean changes. `true`: the host vouches for it and for everything below by
   * `generationOf`, so nothing of it needs to be told; go on behind it. Whoever tells it nevertheless calls `reach` for each of its tables, also for those that cannot be read.
   */
  isProved?(iovaPfn: number, directory: LeafTable, generationOf: (pfn: number) => number): boolean;
}

/** "This range changed": the frames, and whose. `D`: what the backend's own `domainOf` answers. */
export interface Change<D extends Domain = Domain> {
  /** The frames that changed, 4 KiB each. */
  readonly range: FrameRange;
  /** Whether this requester, which now sees `domain`, may see something else. It is then asked about again: `domainOf`, then `scan`. */
  concerns(requester: Requester, domain: D): boolean;
}

/** Done when every notifier concerned has completed. The backend has dropped its own cached entries *before* it announces. */
export type Announce<D extends Domain = Domain> = (change: Change<D>) => Completion;

/** Requests to a range that are messages and not memory (an interrupt window, a doorbell). */
export interface MessageWindow {
  /** The frames whose requests are messages. */
  readonly range: FrameRange;
  /** A write of `bytes` at the byte address `address`, inside the range. `false`: refused. */
  write(requester: Requester, address: number, bytes: Uint8Array): boolean;
  /** A read. `false`: refused. */
  read(requester: Requester, address: number, into: Uint8Array): boolean;
}

/** A remapping architecture. */
export interface Backend {
  /** The `BACKEND_CONTRACT` that it was written for, as a literal. Another one is refused when the unit is made. Default: 1. */
  readonly contract?: typeof BACKEND_CONTRACT;
  /**
   * Optional: an answer that allowed a request holds for the same request until the backend announces a change, of whatever: it keeps answers itself, as an IOTLB does, and
   * announces whenever it is told to drop some (not where it only runs out of room). Devices may then repeat requests without asking. Default: no, every request is asked about.
   */
  readonly keepsAnswers?: boolean;
  /**
   * Answers a request for `access` to `iovaPfn`; `Access.none` is a zero-length read. Never throws: a refusal is `out.refuse(reason, cause)`.
   * `address` is the byte where the request begins, for architectures that report it; `undefined` where only the page is known.
   */
  translate(requester: Requester, iovaPfn: number, access: Access, out: Translation, address?: ByteAddress): void;
  /** What this requester sees now. */
  domainOf(requester: Requester): Domain;
  /** Called once, before any other method. */
  connect(announce: Announce): void;
  /** Optional: the range in which this requester's requests are messages. Asked once for each address space. */
  messageWindowOf?(requester: Requester): MessageWindow | undefined;
  /**
   * Optional: whether the guest invalidates this requester's device TLB by name, as it must where it lets the device ask for translations. While it does not,
   * a `device-tlb` notifier is told of every change, as an `unmap` notifier is. Default: it does not.
   */
  namesDeviceTlb?(requester: Requester): boolean;
  /** Optional: throws an `IommuError` if a notifier of this kind cannot be served (a MAP notifier without caching mode). */
  admit?(requester: Requester, kind: "map" | "unmap" | "device-tlb"): void;
  /** Optional, for a backend that keeps answers itself: drops those for this requester's requests to `range`, as the host wants the tables looked at again (`AddressSpace.resync`). */
  forget?(requester: Requester, range: FrameRange): void;
  /** Optional: the requester is gone and asks no more. What it still waits for is answered now. Its notifiers hear of it afterwards. */
  unplugged?(requester: Requester): void;
}

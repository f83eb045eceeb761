/**
 * The notifier behind a vhost-user back-end: it answers misses and passes invalidations on.
 *
 * Facts of real back-ends that shape it (DPDK):
 * - a miss that is not answered is never asked for again, so it is remembered, and answered when the page gets mapped;
 * - an UPDATE over an entry that exists is ignored, so an answer that changed is preceded by an INVALIDATE;
 * - entries are dropped whole.
 * Everything here is one turn of the event loop: an answer and the invalidation that follows it cannot swap places on the ordered channel.
 */

import {
  Access,
  type AddressSpace,
  type Completion,
  type FrameRange,
  type IommuError,
  IovaTree,
  type LeafTable,
  Mapping,
  type MappingSink,
  pfnOf,
  Translation,
  type UnmapNotifier,
} from "@iommu-kit/iommu-core";
import { AttachmentScope } from "../attachment-scope.js";
import { entryRights } from "../entry-rights.js";
import type { VhostFrontEnd } from "./front-end.js";
import type { IotlbMessage } from "./messages.js";
import { IotlbType } from "./protocol.js";

/** How a `VhostIotlb` is made. */
export interface VhostIotlbOptions {
  /** For events and messages. */
  readonly name?: string;
  /** Largest block in one UPDATE, in pages: a power of two. Default 2^18 (1 GiB). */
  readonly largestBlock?: number;
  /** Unanswered misses that are remembered; the oldest are forgotten first. Default 4096. */
  readonly missLimit?: number;
  /** Answers that are kept in mind; past it the back-end is told to drop everything. Default 65,536. */
  readonly entryLimit?: number;
  /** As for `CacheNotifier`: by default `"requested"` where the guest's tables have accessed and dirty flags. */
  readonly rights?: "mapping" | "requested";
  /** The device tried what its entry forbids. */
  readonly onAccessFail?: (iovaPfn: number, access: Access) => void;
  /** The hub cut the back-end off, and its connection was closed. It may still have guest memory mapped: the moment to stop its process. */
  readonly onRevoke?: (error: IommuError) => void;
}

/** Counters of a `VhostIotlb`. */
export interface VhostIotlbStatistics {
  /** Misses that the back-end has sent. */
  readonly misses: number;
  /** Updates that it was sent. */
  readonly updates: number;
  /** INVALIDATE messages that the guest caused. */
  readonly invalidates: number;
  /** INVALIDATE messages before an answer that had changed. */
  readonly corrections: number;
  /** Accesses that the back-end reported as refused. */
  readonly accessFails: number;
  /** Misses that were answered when the page got mapped. */
  readonly answeredLater: number;
  /** Misses whose target is not in the memory table, and those for the last frame of the 64-bit space, which cannot be told. */
  readonly outsideMemory: number;
  /** Misses forgotten because there were too many. */
  readonly forgotten: number;
}

/** The last frame of the 64-bit space. */
const LAST_PFN = 2 ** 52 - 1;

/**
 * Answers the misses of a vhost-user back-end from one address space, and tells it what the guest has invalidated. Attach it to the address space it was made
 * for; an invalidation of the guest completes when the back-end has confirmed that it let go. After `revoke` the connection is closed: make a new one for a
 * back-end that comes back.
 */
export class VhostIotlb implements UnmapNotifier {
  readonly kind = "unmap";
  readonly contract = 1;
  readonly name: string;
  readonly #space: AddressSpace;
  readonly #frontEnd: VhostFrontEnd;
  readonly #options: VhostIotlbOptions;
  /** What the back-end may hold, at most: every answer that was not invalidated since. */
  readonly #told = new IovaTree();
  /** Unanswered misses in the order in which they came: frame * 4 + rights. */
  readonly #unanswered = new Set<number>();
  readonly #counters = {
    misses: 0,
    updates: 0,
    invalidates: 0,
    corrections: 0,
    accessFails: 0,
    answeredLater: 0,
    outsideMemory: 0,
    forgotten: 0,
  };
  readonly #translation = new Translation();
  readonly #scope: AttachmentScope;
  readonly #probe = new RightsProbe();
  readonly #found = new Mapping();
  /** The last INVALIDATE that was not confirmed yet. The back-end confirms in order, so it stands for all before it. */
  #dropping: Promise<void> | undefined;

  /** @param frontEnd Connected, its memory set before the first ring starts. Its misses come here from now on. */
  constructor(space: AddressSpace, frontEnd: VhostFrontEnd, options: VhostIotlbOptions = {}) {
    this.#space = space;
    this.#frontEnd = frontEnd;
    this.#options = options;
    this.name = options.name ?? "vhost-user IOTLB";
    this.#scope = new AttachmentScope(space, () => this);
    frontEnd.onIotlb = (message) => this.#received(message);
  }

  /** What it has done so far; the same object for its life. */
  get statistics(): VhostIotlbStatistics {
    return this.#counters;
  }

  /** Misses that wait for their page to be mapped. */
  get unansweredMisses(): number {
    return this.#unanswered.size;
  }

  /** Told by the unit: the back-end drops what it may hold for these frames. Done when it has confirmed. */
  unmap(iovaPfn: number, pageCount: number): Completion {
    if (this.#holdsAny(iovaPfn, pageCount)) {
      this.#counters.invalidates += 1;
      this.#drop(iovaPfn, pageCount);
    }
    this.#retry(iovaPfn, pageCount);
    // Also when nothing had to be sent: a message that is on its way may have been about these frames.
    return this.#dropping;
  }

  /** Cut off by the hub: the connection is closed. */
  revoke(error: IommuError): void {
    this.#unanswered.clear();
    this.#frontEnd.close();
    this.#options.onRevoke?.(error);
  }

  /**
   * Tells the back-end where these pages go before it asks, and again where it was told already: back-ends drop entries on their own.
   * `false` if there is a page among them that cannot be reached; no fault is recorded for it.
   */
  preload(iovaPfn: number, pageCount: number): boolean {
    let all = true;
    for (let pfn = iovaPfn; pfn < iovaPfn + pageCount;) {
      const access = this.#rightsOf(pfn);
      const told = access !== Access.none && this.#answer(pfn, access) && this.#told.find(pfn, this.#found);
      all &&= told;
      pfn = told ? this.#found.firstPfn + this.#found.pageCount : pfn + 1;
    }
    return all;
  }

  /** Looks again at the unanswered misses: for units without caching mode, where nothing is announced when a page gets mapped. Answers how many were served. */
  retryMisses(): number {
    return this.#retry(0, 2 ** 52);
  }

  #received(message: IotlbMessage): boolean {
    const iovaPfn = pfnOf(message.iova);
    const access = message.access === Access.none ? Access.read : message.access;
    if (message.type === IotlbType.ACCESS_FAIL) {
      this.#counters.accessFails += 1;
      this.#options.onAccessFail?.(iovaPfn, access);
      return true;
    }
    if (message.type !== IotlbType.MISS) return false;
    this.#counters.misses += 1;
    if (this.#answer(iovaPfn, access)) return true;
    this.#remember(iovaPfn * 4 + access);
    return false;
  }

  /** Translates for the device and tells the back-end. */
  #answer(iovaPfn: number, access: Access): boolean {
    const out = this.#translation;
    if (this.#scope.attachment === undefined || !this.#space.translate(iovaPfn, access, out)) return false;
    const block = this.#blockFor(iovaPfn, out);
    if (block === undefined) {
      this.#counters.outsideMemory += 1;
      return false;
    }
    const { firstPfn, pageCount, userAddress } = block;
    const granted = entryRights(this.#space, access, out.access, this.#options.rights);
    const gpaPfn = out.gpaPfn - (iovaPfn - firstPfn);
    if (this.#contradicts(firstPfn, pageCount, gpaPfn, granted)) this.#correct(firstPfn, pageCount);
    if (this.#told.slotCount >= (this.#options.entryLimit ?? 65_536)) this.#correct(0, 2 ** 52);
    this.#told.insert(firstPfn, pageCount, gpaPfn, granted);
    this.#counters.updates += 1;
    this.#frontEnd.update(firstPfn, pageCount, userAddress, granted);
    return true;
  }

  /** The largest block around the page that lies in the attached range, in one memory region, and in memory at all. */
  #blockFor(iovaPfn: number, answer: Translation): (FrameRange & { readonly userAddress: number }) | undefined {
    const { memory } = this.#frontEnd;
    for (
      let span = Math.min(answer.pageCount, this.#options.largestBlock ?? 2 ** 18);
      span >= 1;
      span = Math.floor(span / 2)
    ) {
      const firstPfn = Math.floor(iovaPfn / span) * span;
      // The end of the last block is 2^64: no INVALIDATE can name it, so it is never told.
      if (firstPfn + span > LAST_PFN) continue;
      const userAddress = memory?.userAddressOf(answer.gpaPfn - (iovaPfn - firstPfn), span);
      if (userAddress !== undefined && this.#scope.covers({ firstPfn, pageCount: span }))
        return { firstPfn, pageCount: span, userAddress };
    }
    return undefined;
  }

  /** Whether the back-end may hold something else for any of these frames. */
  #contradicts(firstPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    let contradicts = false;
    this.#told.runs(
      (first, _count, target, rights) => {
        contradicts ||= rights !== access || target - gpaPfn !== first - firstPfn;
      },
      { firstPfn, pageCount },
    );
    return contradicts;
  }

  /** Not waited for: the UPDATE follows on the same channel. */
  #correct(iovaPfn: number, pageCount: number): void {
    this.#counters.corrections += 1;
    this.#drop(iovaPfn, pageCount);
  }

  #holdsAny(firstPfn: number, pageCount: number): boolean {
    return this.#told.seek(firstPfn, this.#found) && this.#found.firstPfn < firstPfn + pageCount;
  }

  #drop(iovaPfn: number, pageCount: number): void {
    this.#told.remove(iovaPfn, pageCount);
    const dropping = this.#frontEnd.invalidate(iovaPfn, pageCount);
    this.#dropping = dropping;
    const settled = (): void => {
      if (this.#dropping === dropping) this.#dropping = undefined;
    };
    // Whoever waits for it hears of a failure through the hub; where nobody does, the closed connection says it.
    dropping.then(settled, () => {
      settled();
      this.#frontEnd.close();
    });
  }

  #remember(miss: number): void {
    this.#unanswered.add(miss);
    for (const oldest of this.#unanswered) {
      if (this.#unanswered.size <= (this.#options.missLimit ?? 4096)) return;
      this.#unanswered.delete(oldest);
      this.#counters.forgotten += 1;
    }
  }

  #retry(iovaPfn: number, pageCount: number): number {
    let served = 0;
    for (const miss of this.#unanswered) {
      const pfn = Math.floor(miss / 4);
      const access = (miss % 4) as Access;
      if (pfn < iovaPfn || pfn >= iovaPfn + pageCount) continue;
      // Looked at first, because asking would record a fault for a request that the device made once and long ago.
      if ((this.#rightsOf(pfn) & access) !== access || !this.#answer(pfn, access)) continue;
      this.#unanswered.delete(miss);
      served += 1;
    }
    this.#counters.answeredLater += served;
    return served;
  }

  /** What the tables say of a page, without a request. */
  #rightsOf(iovaPfn: number): Access {
    const { domain } = this.#space;
    if (domain.kind === "blocked") return Access.none;
    if (domain.kind === "bypass") {
      // What is not memory to the back-end could not be answered, and asking for it again and again would record a fault each time.
      const isHole = domain.holes.some(
        ({ firstPfn, pageCount }) => iovaPfn >= firstPfn && iovaPfn < firstPfn + pageCount,
      );
      const isMemory = this.#frontEnd.memory?.userAddressOf(iovaPfn, 1) !== undefined;
      return isMemory && !isHole ? Access.readWrite : Access.none;
    }
    return this.#probe.look(iovaPfn, (range, sink) => domain.scan(range, sink));
  }
}

/** Scans one page for its rights. */
class RightsProbe implements MappingSink {
  #pfn = 0;
  #access: Access = 0;

  look(pfn: number, scan: (range: FrameRange, sink: MappingSink) => void): Access {
    this.#pfn = pfn;
    this.#access = Access.none;
    scan({ firstPfn: pfn, pageCount: 1 }, this);
    return this.#access;
  }

  run(iovaPfn: number, pageCount: number, _gpaPfn: number, access: Access): boolean {
    if (this.#pfn >= iovaPfn && this.#pfn < iovaPfn + pageCount) this.#access = access;
    return true;
  }

  reach(): boolean {
    return true;
  }

  table(iovaPfn: number, table: LeafTable): boolean {
    const page = { firstPfn: this.#pfn, pageCount: 1 };
    return table.visit(iovaPfn, page, (pfn, pages, gpaPfn, access) => this.run(pfn, pages, gpaPfn, access));
  }
}

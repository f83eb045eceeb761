/**
 * A MAP notifier that mirrors what a device may reach into a DMA container.
 *
 * The unit tells exact differences; this class cuts them into entries by its coalescing policy, and turns the answers of
 * the container into the notifier contract: `no-space` is "full" (the address space remembers and tries again), a target
 * or a range that the container cannot hold is "unsupported" (reported, not failed), and only a container that does not
 * let go of a frame, or is gone, fails the attachment, which then revokes everything.
 */
import {
  type Access,
  type AddressSpace,
  type AttachOptions,
  type Attachment,
  type Completion,
  CompletionGroup,
  type FrameRange,
  IommuError,
  type MapAnswer,
  type MapNotifier,
  NOTIFIER_CONTRACT,
} from "@iommu-kit/iommu-core";
import { type Coalescing, type Piece, piecesOf } from "./coalescing.js";
import type { Answer, ContainerRefusal, DmaContainer, UnmapResult } from "./container.js";
import { DirtyTracker } from "./dirty-tracker.js";
import { EntryPressure } from "./entry-pressure.js";
import { VfioEventEmitter } from "./events.js";
import { Flights, restOf } from "./flights.js";
import { HeldEntries, type Outcome } from "./held-entries.js";
import { OpenRun } from "./open-run.js";
import { type ShadowBlock, shadowBlock, ShadowPageTable } from "./shadow-page-table.js";

/** How to mirror. Everything has a default. */
export interface VfioNotifierOptions {
  /** For events and messages. Default: `"vfio"`. */
  readonly name?: string;
  /** How entries are cut. Default: `"leaf"`, which opens no windows of its own. */
  readonly coalescing?: Coalescing;
  /** Most frames of an entry, a power of two. Default: what the container takes. */
  readonly largestBlock?: number;
  /** Fills of the container at which `pressure` is reported, as ascending parts of its limit. Default: `[0.8, 0.95]`. */
  readonly pressureLevels?: readonly number[];
  /**
   * Whether the container can reach these target frames. Where it cannot (a peer device's BAR, say), the run is reported
   * and left out. Default: whatever the container itself answers.
   */
  readonly acceptsTarget?: (gpaPfn: number, pageCount: number) => boolean;
  /** Whether nobody else puts entries into the container: a revoke then empties it in one call. Default: true. */
  readonly exclusive?: boolean;
}

/**
 * See the file's header. Attach it with `attachTo`, to every device of the container's group: devices which see the same
 * domain share one attachment of the container, and one that sees another is refused by the address space.
 */
export class VfioNotifier implements MapNotifier {
  readonly kind = "map";
  readonly contract = NOTIFIER_CONTRACT;
  readonly name: string;
  readonly granularity: "page" | "block";
  readonly largestBlock?: number;
  /** Present where the container applies several calls as one step. */
  readonly replace?: NonNullable<MapNotifier["replace"]>;
  /** The far side. */
  readonly container: DmaContainer;
  /** Observation. */
  readonly events = new VfioEventEmitter();

  readonly #policy: Coalescing;
  readonly #largest: number;
  readonly #acceptsTarget: ((gpaPfn: number, pageCount: number) => boolean) | undefined;
  readonly #exclusive: boolean;
  readonly #held: HeldEntries;
  readonly #dirty: DirtyTracker;
  readonly #pressure: EntryPressure;
  /** The rest of a merged entry that was cut, where the container had no room to map it again. */
  readonly #owed = new ShadowPageTable();
  /** What was offered to the container and is not answered yet. */
  readonly #offers: Flights;
  readonly #attachments = new Set<Attachment>();
  #endSubscription: (() => void) | undefined;
  #openRun: OpenRun | undefined;
  #stepOpen = false;
  #retryPlanned = false;
  /** Entries were freed since what is owed was last tried. */
  #roomMade = false;
  /** Depth of our own calls into the container: entries that they free need no retry from outside. */
  #ownCalls = 0;

  /** @throws {IommuError} `bad-option` for a block size that is no power of two, or levels that do not ascend. */
  constructor(container: DmaContainer, options: VfioNotifierOptions = {}) {
    this.container = container;
    this.name = options.name ?? "vfio";
    this.#policy = options.coalescing ?? "leaf";
    this.#largest = largestOf(options.largestBlock, container.largestEntryPageCount);
    this.#acceptsTarget = options.acceptsTarget;
    this.#exclusive = options.exclusive ?? true;
    this.#pressure = new EntryPressure(options.pressureLevels ?? [0.8, 0.95], (event) => this.events.report("pressure", event));
    this.#held = new HeldEntries(container, (range, blocks) => this.#unmapInContainer(range, blocks));
    this.#dirty = new DirtyTracker(container, () => this.#held.table);
    // With a policy that merges, this class cuts entries itself: to the unit it can unmap any part.
    this.granularity = this.#policy === "leaf" ? container.granularity : "page";
    this.#offers = new Flights(this.granularity === "block");
    if (this.#policy === "leaf" && this.#largest !== Infinity) this.largestBlock = this.#largest;
    if (container.begin !== undefined && container.commit !== undefined) {
      this.replace = (iovaPfn, pageCount, gpaPfn, access) => this.#replace(iovaPfn, pageCount, gpaPfn, access);
    }
  }

  /** Entries in the container that are this notifier's. */
  get entriesHeld(): number {
    return this.#held.table.blockCount;
  }

  /** Frames that the device can reach through this notifier. */
  get pagesHeld(): number {
    return this.#held.table.pageCount;
  }

  /** Frames that stay mapped, but found no room again after their merged entry was cut. Tried again as entries free up. */
  get owedPages(): number {
    return this.#owed.pageCount;
  }

  /** The entries, ascending; each a copy. */
  entries(): IterableIterator<ShadowBlock> {
    return this.#held.table.blocks();
  }

  /**
   * Attaches to an address space, and tries refused frames again when somebody else frees entries of the container.
   * @throws {IommuError} As `AddressSpace.attach`.
   */
  attachTo(space: AddressSpace, options: AttachOptions = {}): Attachment {
    const attachment = space.attach(this, options);
    this.#attachments.add(attachment);
    this.#endSubscription ??= this.container.onEntriesFreed?.(() => this.#planRetry());
    return attachment;
  }

  /** Ends every attachment made with `attachTo`. Done when the container holds nothing of this notifier any more. */
  detach(): Completion {
    const group = new CompletionGroup();
    for (const attachment of this.#attachments) {
      if (attachment.state !== "detached") group.add(attachment.detach());
    }
    this.#attachments.clear();
    this.#endSubscription?.();
    this.#endSubscription = undefined;
    return group.take();
  }

  /** Starts to find out which guest frames devices write. Done when the container logs; where it cannot, all that is writable counts. */
  startDirtyTracking(): Completion {
    return this.#dirty.start();
  }

  /** Ends it and forgets what was not collected. */
  stopDirtyTracking(): Completion {
    return this.#dirty.stop();
  }

  /** `off`, `log` (the container tells) or `assume` (it cannot: all that is writable counts as written). */
  get dirtyTracking(): "off" | "log" | "assume" {
    return this.#dirty.mode;
  }

  /** Tells every guest frame that may have been written since the last call, ascending, once each; also those unmapped since. */
  collectDirty(visit: (gpaPfn: number, pageCount: number) => void): Completion {
    return this.#dirty.collect(visit);
  }

  begin(): void {
    this.#stepOpen = true;
    this.container.begin?.();
  }

  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer | Promise<MapAnswer> {
    if (this.#acceptsTarget?.(gpaPfn, pageCount) === false) return this.#answer("bad-target", iovaPfn, pageCount, gpaPfn);
    if (this.#policy === "free" && this.#stepOpen) return this.#extend(iovaPfn, pageCount, gpaPfn, access);
    return this.#place(iovaPfn, pageCount, gpaPfn, access);
  }

  unmap(iovaPfn: number, pageCount: number): Completion {
    const group = new CompletionGroup();
    this.#closeRun();
    this.#remove(iovaPfn, pageCount, group);
    return group.take();
  }

  commit(): Completion {
    const group = new CompletionGroup();
    this.#closeRun();
    this.#payOwed(group);
    this.#stepOpen = false;
    const closed = this.container.commit?.();
    if (closed instanceof Promise) group.add(closed.then(() => this.#dirty.closeStep()));
    else group.add(this.#dirty.closeStep());
    return group.take();
  }

  /** Everything must go, at once; the unit calls it when this notifier has failed. */
  revoke(): void {
    this.#openRun?.settle(() => undefined);
    this.#openRun = undefined;
    this.#owed.clear();
    try {
      const group = new CompletionGroup();
      if (this.#exclusive && this.#dirty.mode === "off") group.add(this.#emptyContainer());
      else for (const { iovaPfn, pageCount } of this.#held.table.blocks()) group.add(this.#held.drop(iovaPfn, pageCount));
      const closed = this.#stepOpen ? this.container.commit?.() : undefined;
      if (closed instanceof Promise) group.add(closed);
      const pending = group.take();
      if (pending !== undefined) void pending.then(undefined, (cause: unknown) => this.#stuck(cause));
    } catch (cause) {
      this.#stuck(cause);
    }
    this.#stepOpen = false;
    this.#held.forget();
    this.#offers.clear();
  }

  #place(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer | Promise<MapAnswer> {
    const outcome = this.#put(iovaPfn, pageCount, gpaPfn, access);
    if (!(outcome instanceof Promise)) return this.#answer(outcome, iovaPfn, pageCount, gpaPfn);
    const offer = this.#offers.start({ iovaPfn, pageCount, gpaPfn });
    return outcome.then((cause) => {
      this.#offers.end(offer);
      if (cause === undefined || offer.dropped.length === 0) return this.#answer(cause, iovaPfn, pageCount, gpaPfn);
      // Part of it has been unmapped since: to the unit it was held, so the rest is this notifier's own debt.
      this.#owe(cause, restOf(offer), access);
      return undefined;
    });
  }

  /** Puts a run into the container, as the entries of the policy: all of them or none. */
  #put(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): Outcome | Promise<Outcome> {
    const pieces: readonly Piece[] =
      this.#policy === "aligned" || pageCount > this.#largest
        ? piecesOf(this.#policy, iovaPfn, pageCount, gpaPfn, this.#largest)
        : [{ iovaPfn, pageCount, gpaPfn }];
    return this.#held.add(pieces, access);
  }

  /** The container's outcome in the words of the notifier contract. */
  #answer(cause: ContainerRefusal | undefined, iovaPfn: number, pageCount: number, gpaPfn: number): MapAnswer {
    this.#pressure.update(this.container.entriesHeld, this.container.entryLimit);
    if (cause === undefined) return undefined;
    if (cause === "gone") throw this.#gone();
    this.#reportRefusal(iovaPfn, pageCount, gpaPfn, cause);
    return cause === "no-space" ? "full" : "unsupported";
  }

  /** Adds to the run that the open step is gathering, or begins another. */
  #extend(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): Promise<MapAnswer> {
    if (this.#openRun?.extend(iovaPfn, pageCount, gpaPfn, access) !== true) {
      this.#closeRun();
      this.#openRun = new OpenRun(iovaPfn, pageCount, gpaPfn, access);
    }
    return this.#openRun?.answer ?? Promise.resolve(undefined);
  }

  /** The run that was gathered is at its end: into the container with it. */
  #closeRun(): void {
    const run = this.#openRun;
    if (run === undefined) return;
    this.#openRun = undefined;
    run.settle(() => this.#place(run.iovaPfn, run.pageCount, run.gpaPfn, run.access));
  }

  /** Takes a range away. */
  #remove(iovaPfn: number, pageCount: number, group: CompletionGroup): void {
    const endPfn = iovaPfn + pageCount;
    this.#offers.drop({ firstPfn: iovaPfn, pageCount });
    if (this.#owed.blockCount > 0) this.#owed.remove(iovaPfn, pageCount);
    if (this.container.granularity === "page") this.#removeParts(iovaPfn, endPfn, group);
    else this.#removeEntries(iovaPfn, endPfn, group);
    this.#pressure.update(this.container.entriesHeld, this.container.entryLimit);
  }

  /** In a container that can cut: one call for each contiguous part that is held. */
  #removeParts(iovaPfn: number, endPfn: number, group: CompletionGroup): void {
    const block = shadowBlock();
    for (let at = iovaPfn; this.#held.table.blockFrom(at, block) && block.iovaPfn < endPfn; ) {
      const firstPfn = Math.max(at, block.iovaPfn);
      do at = Math.min(endPfn, block.iovaPfn + block.pageCount);
      while (at < endPfn && this.#held.table.blockAt(at, block));
      group.add(this.#held.drop(firstPfn, at - firstPfn));
    }
  }

  /** In a container that cannot: whole entries; what a cut one still holds is mapped again. */
  #removeEntries(iovaPfn: number, endPfn: number, group: CompletionGroup): void {
    const entry = shadowBlock();
    for (let at = iovaPfn; this.#held.table.blockFrom(at, entry) && entry.iovaPfn < endPfn; ) {
      const { iovaPfn: firstPfn, pageCount: count, gpaPfn, access } = entry;
      at = firstPfn + count;
      // What is mapped again below is an offer of its own.
      this.#offers.drop({ firstPfn, pageCount: count });
      group.add(this.#held.drop(firstPfn, count));
      const below = Math.max(0, iovaPfn - firstPfn);
      const above = Math.max(0, at - endPfn);
      if (below > 0) this.#restore({ iovaPfn: firstPfn, pageCount: below, gpaPfn }, access, group);
      if (above > 0) this.#restore({ iovaPfn: endPfn, pageCount: above, gpaPfn: gpaPfn + (count - above) }, access, group);
      if (below + above > 0 && this.replace === undefined) {
        this.events.report("window", { iovaPfn: firstPfn, pageCount: count, keptPageCount: below + above });
      }
    }
  }

  /** Maps again what is left of a cut entry. Where there is no room it is owed. */
  #restore(piece: Piece, access: Access, group: CompletionGroup): void {
    const outcome = this.#put(piece.iovaPfn, piece.pageCount, piece.gpaPfn, access);
    if (!(outcome instanceof Promise)) {
      if (outcome !== undefined) this.#owe(outcome, [piece], access);
      return;
    }
    const offer = this.#offers.start(piece);
    const settled = outcome.then((cause) => {
      this.#offers.end(offer);
      if (cause !== undefined) this.#owe(cause, restOf(offer), access);
    });
    group.add(settled);
  }

  /** Frames that the unit takes for held were refused. */
  #owe(cause: ContainerRefusal, rest: readonly Piece[], access: Access): void {
    if (cause === "gone") throw this.#gone();
    for (const { iovaPfn, pageCount, gpaPfn } of rest) {
      if (cause === "no-space") this.#owed.insert(iovaPfn, pageCount, gpaPfn, access);
      this.#reportRefusal(iovaPfn, pageCount, gpaPfn, cause);
    }
  }

  /** Tries what is owed again, if there may be room for it. */
  #payOwed(group: CompletionGroup): void {
    if (!this.#roomMade || this.#owed.blockCount === 0) return;
    this.#roomMade = false;
    for (const block of [...this.#owed.blocks()]) {
      this.#owed.removeBlock(block.iovaPfn);
      this.#restore(block, block.access, group);
    }
  }

  #replace(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer | Promise<MapAnswer> {
    const group = new CompletionGroup();
    this.#closeRun();
    this.#remove(iovaPfn, pageCount, group);
    const answer = this.map(iovaPfn, pageCount, gpaPfn, access);
    const pending = group.take();
    return pending === undefined ? answer : Promise.all([answer, pending]).then(([late]) => late);
  }

  #unmapInContainer(range: FrameRange, blocks: readonly ShadowBlock[]): Answer<UnmapResult> {
    this.#ownCalls += 1;
    this.#roomMade = true;
    try {
      return this.#dirty.unmap(range, blocks, this.#stepOpen && this.container.begin !== undefined);
    } finally {
      this.#ownCalls -= 1;
    }
  }

  /** Entries were freed by somebody else: what was refused is offered again, outside of whatever is going on now. */
  #planRetry(): void {
    if (this.#ownCalls > 0 || this.#retryPlanned) return;
    this.#roomMade = true;
    this.#retryPlanned = true;
    void Promise.resolve().then(() => {
      this.#retryPlanned = false;
      this.#retry();
    });
  }

  #retry(): void {
    if (!this.#stepOpen && this.#owed.blockCount > 0) {
      const group = new CompletionGroup();
      this.#payOwed(group);
      group.take()?.then(undefined, (cause: unknown) => this.#stuck(cause));
    }
    for (const attachment of this.#attachments) {
      if (attachment.state === "active" && attachment.refusedPages > 0) attachment.retry();
    }
  }

  #emptyContainer(): Completion {
    const check = (answer: UnmapResult): void => {
      if (!answer.ok) throw new IommuError("notifier-failed", `expected the container to remove everything, got "${answer.cause}"`, { hint: "reset the device behind it" });
    };
    const answer = this.container.unmapAll();
    if (answer instanceof Promise) return answer.then(check);
    check(answer);
    return undefined;
  }

  #stuck(cause: unknown): void {
    const error = new IommuError("notifier-failed", `${this.name}: the container did not let go of what was revoked`, { hint: "reset the device behind it", cause });
    this.events.report("stuck", { error });
  }

  #gone(): IommuError {
    return new IommuError("notifier-failed", `${this.name}: the container is gone`, { hint: "make a new one and attach to it: it is replayed" });
  }

  #reportRefusal(iovaPfn: number, pageCount: number, gpaPfn: number, cause: ContainerRefusal): void {
    if (this.events.listenerCount("refused") > 0) this.events.report("refused", { iovaPfn, pageCount, gpaPfn, cause });
  }
}

/** The smaller of two bounds, checked. */
function largestOf(wanted: number | undefined, offered: number | undefined): number {
  const largest = Math.min(wanted ?? Infinity, offered === undefined ? Infinity : 2 ** Math.floor(Math.log2(offered)));
  if (largest === Infinity || (largest >= 1 && Number.isInteger(Math.log2(largest)))) return largest;
  throw new IommuError("bad-option", `largestBlock: expected a power of two of pages, got ${wanted}`, { hint: "512 for 2 MiB, 1 for single pages" });
}

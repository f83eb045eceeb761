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
  checkGiven,
  type Completion,
  CompletionGroup,
  type FrameRange,
  IommuError,
  isPending,
  type MapAnswer,
  type MapNotifier,
  type MapReports,
  timerScheduler,
} from "@iommu-kit/iommu-core";
import type { Coalescing } from "./coalescing.js";
import type { Answer, DmaContainer, UnmapResult } from "./container.js";
import { DirtyCollector } from "./dirty-collector.js";
import { EntryMirror } from "./entry-mirror.js";
import { VfioEventEmitter } from "./events.js";
import type { Unmapper } from "./held-entries.js";
import { OpenRun } from "./open-run.js";
import { dirtyDeadlineOf, largestBlockOf, type VfioNotifierOptions } from "./options.js";
import type { ShadowBlock } from "./shadow-page-table.js";

/**
 * Keeps one container in step with what its devices may reach. Attach it with `attachTo`, to every device of the container's group: devices which see the same
 * domain share one attachment of the container, and one that sees another is refused by the address space.
 */
export class VfioNotifier implements MapNotifier {
  readonly kind = "map";
  readonly contract = 1;
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
  readonly #acceptsTarget: ((gpaPfn: number, pageCount: number) => boolean) | undefined;
  readonly #exclusive: boolean;
  readonly #mirror: EntryMirror;
  readonly #dirty: DirtyCollector;
  readonly #attachments = new Set<Attachment>();
  #endSubscription: (() => void) | undefined;
  #openRun: OpenRun | undefined;
  #stepOpen = false;
  #retryPlanned = false;
  /** Depth of our own calls into the container: entries that they free need no retry from outside. */
  #ownCalls = 0;

  /** @throws {IommuError} `bad-option` for a block size that is no power of two, levels that do not ascend, or a deadline that is no positive integer. */
  constructor(container: DmaContainer, options: VfioNotifierOptions = {}) {
    checkGiven(container, "VfioNotifier", "new VfioNotifier(container)");
    const { name = "vfio", coalescing: policy = "leaf", pressureLevels = [0.8, 0.95], exclusive = true } = options;
    const largest = largestBlockOf(options.largestBlock, container.largestEntryPageCount);
    this.container = container;
    this.name = name;
    this.#policy = policy;
    this.#acceptsTarget = options.acceptsTarget;
    this.#exclusive = exclusive;
    // With a policy that merges, entries are cut here: to the unit, any part can be unmapped.
    this.granularity = policy === "leaf" ? container.granularity : "page";
    if (policy === "leaf" && largest !== Infinity) this.largestBlock = largest;
    const atomic = container.begin !== undefined && container.commit !== undefined;
    if (atomic)
      this.replace = (iovaPfn, pageCount, gpaPfn, access) => this.#replace(iovaPfn, pageCount, gpaPfn, access);
    const unmapper: Unmapper = {
      unmap: (range, blocks) => this.#unmapInContainer(range, blocks),
      insist: (range, blocks) => this.#dirty.insist(range, blocks),
    };
    this.#mirror = new EntryMirror(container, this.events, {
      name,
      policy,
      largest,
      pressureLevels,
      atomic,
      unmapper,
    });
    const deadline = dirtyDeadlineOf(options.dirtyDeadlineMilliseconds);
    this.#dirty = new DirtyCollector(container, this.#mirror.table, options.scheduler ?? timerScheduler, deadline);
  }

  /** Entries in the container that are this notifier's. */
  get entriesHeld(): number {
    return this.#mirror.table.blockCount;
  }

  /** Frames that the device can reach through this notifier. */
  get pagesHeld(): number {
    return this.#mirror.table.pageCount;
  }

  /** The entries, ascending; each a copy. */
  entries(): IterableIterator<ShadowBlock> {
    return this.#mirror.table.blocks();
  }

  /**
   * Attaches to an address space, and tries refused frames again when somebody else frees entries of the container.
   * @throws {IommuError} As `AddressSpace.attach`.
   */
  attachTo(space: AddressSpace, options: AttachOptions = {}): Attachment {
    const attachment = space.attach(this, options);
    this.#dropDetached();
    this.#attachments.add(attachment);
    this.#endSubscription ??= this.container.onEntriesFreed?.(() => this.#entriesFreed());
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

  /** Starts to find out which guest frames devices write. Done when the container logs; where it cannot, or does not answer in time, all that is writable counts. */
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

  /**
   * Tells every guest frame that may have been written since the last call, ascending, once each; also those unmapped since. Waits for what is being read and unmapped,
   * up to `dirtyDeadlineMilliseconds`: what the container has not told by then counts as written.
   */
  collectDirty(visit: (gpaPfn: number, pageCount: number) => void): Completion {
    return this.#dirty.collect(visit);
  }

  /** Called by the unit. */
  reportTo(reports: MapReports): void {
    this.#mirror.reports = reports;
  }

  /** Called by the unit: the events of one invalidation follow. */
  begin(): void {
    this.#stepOpen = true;
    this.container.begin?.();
  }

  /** Called by the unit. With the `free` policy the answer comes when the step ends. */
  map(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer | Promise<MapAnswer> {
    if (this.#acceptsTarget?.(gpaPfn, pageCount) === false)
      return this.#mirror.refuse({ iovaPfn, pageCount, gpaPfn }, "bad-target");
    if (this.#policy === "free" && this.#stepOpen) return this.#extend(iovaPfn, pageCount, gpaPfn, access);
    return this.#mirror.place(iovaPfn, pageCount, gpaPfn, access);
  }

  /** Called by the unit; done when the container has let go of the frames. */
  unmap(iovaPfn: number, pageCount: number): Completion {
    const group = new CompletionGroup();
    this.#closeRun();
    this.#mirror.remove(iovaPfn, pageCount, group);
    return group.take();
  }

  /** Called by the unit: the events have been told. */
  commit(): Completion {
    const group = new CompletionGroup();
    this.#closeRun();
    this.#stepOpen = false;
    const closed = this.container.commit?.();
    if (isPending(closed)) group.add(closed.then(() => this.#dirty.closeStep()));
    else group.add(this.#dirty.closeStep());
    return group.take();
  }

  /** Everything must go, at once; the unit calls it when this notifier has failed. Done when the container has answered, to the last try of what it did not let go of. */
  revoke(): Completion {
    let done: Completion = undefined;
    this.#openRun?.settle(() => undefined);
    this.#openRun = undefined;
    try {
      const group = new CompletionGroup();
      // One by one where others have entries in it, and to read what was written to each.
      const left = this.#exclusive && this.#dirty.mode === "off" ? 0 : this.#mirror.dropAll();
      group.add(this.#exclusive ? this.#emptyContainer() : nothingLeft(left));
      group.add(this.#closeStepAtLast());
      done = group.take()?.then(undefined, (cause: unknown) => this.#stuck(cause));
    } catch (cause) {
      this.#stuck(cause);
    }
    this.#stepOpen = false;
    this.#mirror.forget();
    return done;
  }

  /** Adds to the run that the open step is gathering, or begins another. */
  #extend(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): Promise<MapAnswer> {
    if (this.#openRun?.extend(iovaPfn, pageCount, gpaPfn, access) === true) return this.#openRun.answer;
    this.#closeRun();
    const run = new OpenRun(iovaPfn, pageCount, gpaPfn, access);
    this.#openRun = run;
    return run.answer;
  }

  /** The run that was gathered is at its end: into the container with it. */
  #closeRun(): void {
    const run = this.#openRun;
    if (run === undefined) return;
    this.#openRun = undefined;
    run.settle(() => this.#mirror.place(run.iovaPfn, run.pageCount, run.gpaPfn, run.access));
  }

  #replace(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): MapAnswer | Promise<MapAnswer> {
    const group = new CompletionGroup();
    this.#closeRun();
    this.#mirror.remove(iovaPfn, pageCount, group);
    const answer = this.map(iovaPfn, pageCount, gpaPfn, access);
    const pending = group.take();
    return pending === undefined ? answer : Promise.all([answer, pending]).then(([late]) => late);
  }

  #unmapInContainer(range: FrameRange, blocks: readonly ShadowBlock[]): Answer<UnmapResult> {
    this.#ownCalls += 1;
    this.#mirror.roomMade();
    try {
      return this.#dirty.unmap(range, blocks, this.#stepOpen && this.container.begin !== undefined);
    } finally {
      this.#ownCalls -= 1;
    }
  }

  /** Forgets attachments that ended otherwise: their devices were unplugged, or the unit was destroyed. A container that lives on must not hold on to these. */
  #dropDetached(): void {
    for (const attachment of this.#attachments)
      if (attachment.state === "detached") this.#attachments.delete(attachment);
    if (this.#attachments.size > 0) return;
    this.#endSubscription?.();
    this.#endSubscription = undefined;
  }

  /** Where somebody else has freed entries, what was refused is offered again, outside of whatever is going on now. */
  #entriesFreed(): void {
    this.#dropDetached();
    if (this.#ownCalls > 0) return;
    this.#mirror.freed();
    if (this.#retryPlanned || this.#attachments.size === 0) return;
    this.#retryPlanned = true;
    void Promise.resolve().then(() => {
      this.#retryPlanned = false;
      this.#mirror.reports?.retry();
    });
  }

  /** The step ends with the attachment, and what was unmapped in it is read even if closing it fails. */
  #closeStepAtLast(): Completion {
    const read = (): Completion => this.#dirty.closeStep();
    let closed: Completion = undefined;
    try {
      if (this.#stepOpen) closed = this.container.commit?.();
    } catch (cause) {
      void read();
      throw cause;
    }
    if (!isPending(closed)) return read();
    return Promise.resolve(closed).then(read, async (cause: unknown) => {
      await read();
      throw cause;
    });
  }

  #emptyContainer(): Completion {
    const check = (answer: UnmapResult): void => {
      if (!answer.ok)
        throw new IommuError("notifier-failed", `expected the container to remove everything, got "${answer.cause}"`, {
          hint: "reset the device behind it",
        });
    };
    const answer = this.container.unmapAll();
    if (isPending(answer)) return Promise.resolve(answer).then(check);
    check(answer);
    return undefined;
  }

  #stuck(cause: unknown): void {
    const error = new IommuError(
      "notifier-failed",
      `${this.name}: expected the container to let go of what was revoked, got a failure`,
      {
        hint: "reset the device behind it",
        cause,
      },
    );
    this.events.report("stuck", { error });
  }
}

/** @throws {IommuError} `notifier-failed`, or rejects with it, if there are frames that the container has not let go of. */
function nothingLeft(left: Answer<number>): Completion {
  const check = (frames: number): void => {
    if (frames === 0) return;
    throw new IommuError("notifier-failed", `expected the container to remove everything, got ${frames} pages left`, {
      hint: "reset the device behind it",
    });
  };
  return isPending(left) ? Promise.resolve(left).then(check) : check(left);
}

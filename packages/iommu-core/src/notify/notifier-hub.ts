/**
 * The hub between a backend and the notifiers: who is attached where, and what an announced change means for each kind.
 *
 * Order for one change (design section 3, flow B): the backend has dropped its cached entries; leases are recalled and UNMAP-only notifiers get the range; then the
 * views of MAP notifiers are brought in step, one job at a time. Each notifier's failure is its own.
 */

import type { AddressSpace } from "../address-space.js";
import { checkAttach } from "./attach-check.js";
import type { AttachOptions, Attachment } from "../attachment.js";
import { AttachmentRecord } from "./attachment-record.js";
import { Backlog } from "./backlog.js";
import type { Backend, Change, Domain } from "../backend.js";
import { type Completion, CompletionGroup, isPending, whenDone } from "../completion.js";
import { KnownPages } from "../dma/known-pages.js";
import { ConsumerGuard, isolate, threw } from "./consumer-guard.js";
import { IommuError } from "../errors.js";
import type { Observers } from "../events.js";
import { JobQueue } from "./job-queue.js";
import type { Limits } from "../limits.js";
import { makeDelivery } from "./make-delivery.js";
import type { MapDelivery } from "./map-delivery.js";
import { type MapNotifier, type Notifier, notifierName } from "../notifier.js";
import type { Scheduler } from "../ports.js";
import { ALL_FRAMES, checkRange, type FrameRange, formatRange, intersect } from "../range.js";
import type { Member, View } from "./view.js";
import { ViewJobs } from "./view-jobs.js";
import { ViewSync } from "./view-sync.js";

/** What the hub knows of an address space. */
interface SpaceRecord {
  readonly space: AddressSpace;
  /** As of the last change that concerned it; `undefined` until somebody attaches. */
  domain: Domain | undefined;
  readonly attachments: AttachmentRecord[];
}

/** What a hub works with. */
export interface HubOptions {
  readonly backend: Backend;
  readonly scheduler: Scheduler;
  readonly limits: Limits;
  readonly observers: Observers;
  readonly regions: readonly FrameRange[];
}

/** One for each unit. */
export class NotifierHub {
  readonly scheduler: Scheduler;
  readonly limits: Limits;
  readonly observers: Observers;
  readonly queue: JobQueue;
  readonly known = new KnownPages();
  readonly #backend: Backend;
  readonly #sync: ViewSync;
  readonly #jobs: ViewJobs;
  readonly #records = new Map<AddressSpace, SpaceRecord>();
  readonly #members = new Map<MapNotifier, Member>();
  readonly #guard: ConsumerGuard;
  /** Bounds what a guest can have under way by never waiting for what it commands. */
  readonly #backlog: Backlog<SpaceRecord>;
  /** What newcomers have brought about and no change has: none that follows is done before it, whomever that concerns. */
  readonly #owed = new CompletionGroup();
  #flushing = 0;

  constructor(options: HubOptions) {
    this.#backend = options.backend;
    this.scheduler = options.scheduler;
    this.limits = options.limits;
    this.observers = options.observers;
    const { scheduler, limits } = options;
    const guard = new ConsumerGuard(scheduler, limits.consumerDeadlineMilliseconds);
    this.#guard = guard;
    this.queue = new JobQueue(limits, scheduler, {
      get closed() {
        return guard.unanswered >= limits.callsInFlight;
      },
      whenOpen: (task) => guard.whenAnswered(task),
    });
    this.#backlog = new Backlog(limits.invalidationsInFlight, (records, range) => this.#carryOut(records, range));
    this.#sync = new ViewSync(this.queue, options.limits, options.observers, options.regions);
    this.#jobs = new ViewJobs(this.#sync, (space) => this.#records.get(space)?.domain);
  }

  /** Whether a notifier is being called right now: registers may not be written, nothing attached. */
  get calling(): boolean {
    return this.#flushing > 0 || this.queue.running;
  }

  /** Views that MAP notifiers keep alive, for inspection. */
  get views(): Iterable<View> {
    return this.#sync.views;
  }

  /** Makes the hub know an address space. */
  register(space: AddressSpace): void {
    this.#records.set(space, { space, domain: undefined, attachments: [] });
  }

  attachmentsOf(space: AddressSpace): readonly Attachment[] {
    return [...(this.#records.get(space)?.attachments ?? [])];
  }

  /** @throws {IommuError} `reentrant-call` while a notifier is being called. */
  refuseInCallback(what: string): void {
    if (!this.calling) return;
    throw new IommuError("reentrant-call", `expected ${what} outside of callbacks and listeners, got it inside one`, {
      hint: "defer it with queueMicrotask",
    });
  }

  /** See `AddressSpace.attach`. */
  attach(space: AddressSpace, notifier: Notifier, options: AttachOptions): Attachment {
    this.refuseInCallback("attach");
    const record = this.#recordOf(space);
    const range = options.range ?? ALL_FRAMES;
    checkAttach(space, record.attachments, notifier, range);
    this.#backend.admit?.(space, notifier.kind);
    if (record.domain === undefined) this.#rebound(record);
    // The newcomer would see a domain that the others have not been brought to: they hear of it first.
    else if (record.domain !== this.#backend.domainOf(space)) this.#owed.add(this.#carryOut([record], ALL_FRAMES));
    const member = notifier.kind === "map" ? this.#memberFor(notifier, range, record) : undefined;
    const attachment = new AttachmentRecord(space, notifier, range, member, {
      detach: (it) => this.#detach(it),
      retry: (it) => this.#retry(it),
    });
    record.attachments.push(attachment);
    this.observers.emit("attach", { space, attachment });
    attachment.named = this.#namesDeviceTlb(attachment);
    if (member !== undefined) attachment.ready = this.#join(attachment, member);
    else if (notifier.kind === "unmap") attachment.ready = this.#flush(attachment, range);
    if (attachment.ready === undefined) attachment.synced = true;
    else
      void attachment.ready.then(() => {
        attachment.synced = true;
        attachment.ready = undefined;
      });
    return attachment;
  }

  /** See `AddressSpace.resync`. */
  resync(space: AddressSpace, range: FrameRange): Completion {
    this.refuseInCallback("resync");
    checkRange(range, "resync");
    const record = this.#recordOf(space);
    this.known.forget();
    this.#backend.forget?.(space, range);
    return this.#backlog.add([record], range);
  }

  /** See `AddressSpace.unplug`. */
  unplug(space: AddressSpace): Completion {
    const record = this.#records.get(space);
    if (record === undefined) return undefined;
    this.#records.delete(space);
    this.known.forget();
    this.#backend.unplugged?.(space);
    const group = new CompletionGroup();
    group.add(space.leases.recall(ALL_FRAMES));
    for (const attachment of [...record.attachments]) group.add(this.#detachFrom(record, attachment));
    return group.take();
  }

  /** "This range changed": see the file's header. */
  announce(change: Change): Completion {
    this.known.forget();
    const concerned: SpaceRecord[] = [];
    for (const record of this.#records.values()) {
      if (record.domain === undefined ? record.space.leases.size > 0 : change.concerns(record.space, record.domain))
        concerned.push(record);
    }
    const done = concerned.length === 0 ? undefined : this.#backlog.add(concerned, change.range);
    if (this.#owed.size === 0) return done;
    const group = new CompletionGroup();
    group.add(this.#owed.all());
    group.add(done);
    return group.take();
  }

  #carryOut(concerned: readonly SpaceRecord[], range: FrameRange): Completion {
    const group = new CompletionGroup();
    let mapped = false;
    for (const record of concerned) {
      // Those that were unplugged meanwhile have no attachments any more.
      if (!record.space.plugged) continue;
      // Of the domain that it saw before nothing may be left: what is invalidated there from now on does not concern it.
      const moved = record.domain !== undefined && this.#rebound(record);
      this.#flushRecord(record, moved ? ALL_FRAMES : range, group);
      for (const attachment of record.attachments) if (attachment.member !== undefined) mapped = true;
    }
    if (mapped) group.add(this.queue.run((pending) => this.#jobs.sync(concerned, range, pending)));
    return group.take();
  }

  /** Tells the device-TLB notifiers of one address space. A failure or refusal to answer is the backend's to report, and so is how many may be unanswered. */
  invalidateDeviceTlb(space: AddressSpace, range: FrameRange): Completion {
    const group = new CompletionGroup();
    for (const attachment of this.#records.get(space)?.attachments ?? []) {
      const { notifier, failure } = attachment;
      if (notifier.kind !== "device-tlb" || failure !== undefined) continue;
      const part = intersect(range, attachment.range);
      if (part.pageCount > 0)
        group.add(this.#call(attachment, () => notifier.invalidate(part.firstPfn, part.pageCount), false));
    }
    return group.take();
  }

  /** The guest's state has been replaced: what a device TLB holds is of the old one, so each hears of the next change, whether the guest invalidates it by name or not. */
  forgetNames(): void {
    for (const { attachments } of this.#records.values())
      for (const attachment of attachments) attachment.named = false;
  }

  /** Changes the identity mapping that bypass means. */
  setRegions(regions: readonly FrameRange[]): Completion {
    this.refuseInCallback("change regions");
    this.#sync.regions = regions;
    return this.announce({ range: ALL_FRAMES, concerns: (_requester, domain) => domain.kind === "bypass" });
  }

  #join(attachment: AttachmentRecord, member: Member): Completion {
    return this.queue.run((group) => (attachment.detached ? undefined : this.#jobs.join(member, group)));
  }

  #detach(attachment: AttachmentRecord): Completion {
    this.refuseInCallback("detach");
    const record = this.#records.get(attachment.space);
    return record === undefined ? undefined : this.#detachFrom(record, attachment);
  }

  #detachFrom(record: SpaceRecord, attachment: AttachmentRecord): Completion {
    const index = record.attachments.indexOf(attachment);
    if (index < 0) return undefined;
    record.attachments.splice(index, 1);
    attachment.detached = true;
    const { member, space } = attachment;
    let done: Completion = undefined;
    if (member === undefined) {
      done = this.#flush(attachment, attachment.range);
    } else {
      member.spaces.delete(space);
      if (member.spaces.size === 0) this.#members.delete(member.delivery.notifier);
      done = this.queue.run((group) => this.#jobs.settle(member, space, group));
    }
    this.observers.emit("detach", { space, attachment });
    return done;
  }

  #retry(attachment: AttachmentRecord): void {
    const { member } = attachment;
    if (member !== undefined && !attachment.detached) this.#retryMember(member);
  }

  #retryMember(member: Member): void {
    void this.queue.run((group) => this.#jobs.retry(member, group));
  }

  /** Looks at what an address space sees now. Answers whether that is another domain than before. */
  #rebound(record: SpaceRecord): boolean {
    const from = record.domain;
    const to = this.#backend.domainOf(record.space);
    record.domain = to;
    if (from === undefined || from === to) return false;
    if (this.observers.wants(record.space, "move")) this.observers.emit("move", { space: record.space, from, to });
    return true;
  }

  #flushRecord(record: SpaceRecord, range: FrameRange, group: CompletionGroup): void {
    const { space } = record;
    if (this.observers.wants(space, "invalidate")) {
      this.observers.emit("invalidate", { space, iovaPfn: range.firstPfn, pageCount: range.pageCount });
    }
    group.add(space.leases.recall(range));
    for (const attachment of record.attachments) {
      if (attachment.member !== undefined) continue;
      const wasNamed = attachment.named;
      attachment.named = this.#namesDeviceTlb(attachment);
      if (!wasNamed || !attachment.named) group.add(this.#flush(attachment, range));
    }
  }

  #namesDeviceTlb({ notifier, space }: AttachmentRecord): boolean {
    return notifier.kind === "device-tlb" && this.#backend.namesDeviceTlb?.(space) === true;
  }

  /** One call for the share of the range of a notifier that caches: of a device TLB where nobody would invalidate it by name. */
  #flush(attachment: AttachmentRecord, range: FrameRange): Completion {
    const { notifier, failure } = attachment;
    if (notifier.kind === "map") return undefined;
    if (failure !== undefined) return attachment.revoking;
    const { firstPfn, pageCount } = intersect(range, attachment.range);
    if (pageCount === 0) return undefined;
    const tell = (): Completion =>
      notifier.kind === "unmap" ? notifier.unmap(firstPfn, pageCount) : notifier.invalidate(firstPfn, pageCount);
    return this.#call(attachment, tell, true);
  }

  /** Tells one notifier; its failure is its own. Unguarded there is no deadline, and a failure rejects as well: both are the backend's to report. */
  #call(attachment: AttachmentRecord, tell: () => Completion, guarded: boolean): Completion {
    const { notifier } = attachment;
    const fail = (error: IommuError): Completion => this.#revoke(attachment, error);
    this.#flushing += 1;
    try {
      const answer = tell();
      if (!isPending(answer)) return undefined;
      const promise = Promise.resolve(answer);
      if (guarded) return this.#guard.watch(notifier, promise, () => attachment.revoking, fail);
      return promise.catch((cause: unknown) => isolate(notifier, cause, fail));
    } catch (cause) {
      return guarded ? fail(threw(notifier, cause)) : isolate(notifier, cause, fail);
    } finally {
      this.#flushing -= 1;
    }
  }

  #revoke(attachment: AttachmentRecord, error: IommuError): Completion {
    if (attachment.failure !== undefined) return attachment.revoking;
    attachment.failure = error;
    const revoking = this.#guard.cutOff(attachment.notifier, error, (why) => {
      this.observers.emit("failed", { space: attachment.space, attachment, error: why });
    });
    attachment.revoking = revoking;
    whenDone(revoking, () => (attachment.revoking = undefined));
    return revoking;
  }

  #memberFor(notifier: MapNotifier, range: FrameRange, record: SpaceRecord): Member {
    const known = this.#members.get(notifier);
    if (known === undefined) {
      const member: Member = {
        delivery: this.#deliveryFor(notifier, range),
        spaces: new Set([record.space]),
        view: undefined,
      };
      this.#members.set(notifier, member);
      return member;
    }
    if (known.delivery.failed) {
      throw new IommuError("notifier-failed", `${notifierName(notifier)}: expected one that works, got a failed one`, {
        hint: "detach it everywhere, mend it, attach it again: it is replayed",
      });
    }
    if (known.delivery.range.firstPfn !== range.firstPfn || known.delivery.range.pageCount !== range.pageCount) {
      throw new IommuError(
        "bad-range",
        `${notifierName(notifier)}: expected the range of its other attachments, ${formatRange(known.delivery.range)}, got ${formatRange(range)}`,
        { hint: "one container holds one range: give this range a notifier of its own" },
      );
    }
    const agreed = this.#jobs.agreedDomain(known);
    if (agreed !== record.domain) {
      const other = [...known.spaces].map((space) => space.label).join(", ");
      throw new IommuError(
        "different-view",
        `${notifierName(notifier)}: expected what ${other} sees, ${agreed?.label ?? "several domains"}, got ${record.space.label} with ${record.domain?.label ?? "nothing"}`,
        {
          hint: "one container holds one view: give the device a notifier of its own, or attach when the guest has put both into one domain",
        },
      );
    }
    known.spaces.add(record.space);
    return known;
  }

  #deliveryFor(notifier: MapNotifier, range: FrameRange): MapDelivery {
    return makeDelivery(notifier, range, {
      attachments: () =>
        [...(this.#members.get(notifier)?.spaces ?? [])].flatMap(
          (space) => this.#records.get(space)?.attachments.filter((it) => it.notifier === notifier) ?? [],
        ),
      observers: this.observers,
      guard: this.#guard,
      mostBlocks: () => this.limits.mappingsPerView,
      retryLater: () => {
        const member = this.#members.get(notifier);
        if (member !== undefined) this.#retryMember(member);
      },
    });
  }

  #recordOf(space: AddressSpace): SpaceRecord {
    const record = this.#records.get(space);
    if (record !== undefined) return record;
    throw new IommuError("unplugged", `${space.label}: expected a device, got one that is unplugged`, {
      hint: "ask the unit for a new address space",
    });
  }
}

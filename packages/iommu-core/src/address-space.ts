/**
 * What one requester sees: a source-id, or a source-id with a PASID. The object that a device model holds.
 */

import type { Access } from "./access.js";
import { type ByteAddress, byteAddress, PAGE_BYTES } from "./address.js";
import type { AttachOptions, Attachment } from "./attachment.js";
import type { Backend, Domain, Requester } from "./backend.js";
import type { Completion } from "./completion.js";
import { DmaPort } from "./dma/dma-port.js";
import type { KnownPages } from "./dma/known-pages.js";
import { IommuError } from "./errors.js";
import { IommuEventEmitter, type Observers } from "./events.js";
import { LeaseTable, type WriteObserver } from "./dma/lease.js";
import { LocalReason } from "./local-reason.js";
import type { Notifier } from "./notifier.js";
import type { Limits } from "./limits.js";
import type { GuestMemory, Scheduler } from "./ports.js";
import { ALL_FRAMES, type FrameRange } from "./range.js";
import { formatSourceId, type SourceId } from "./source-id.js";
import type { Translation } from "./translation.js";

/** Reason of every request of an address space after `unplug`: negative, so no architecture uses it. */
export const UNPLUGGED = LocalReason.UNPLUGGED;

/** @internal What an address space asks of the unit that it belongs to. */
export interface SpaceOwner {
  readonly scheduler: Scheduler;
  readonly limits: Limits;
  readonly observers: Observers;
  /** Where pages lie that its devices were allowed to reach. */
  readonly known: KnownPages;
  attachmentsOf(space: AddressSpace): readonly Attachment[];
  attach(space: AddressSpace, notifier: Notifier, options: AttachOptions): Attachment;
  resync(space: AddressSpace, range: FrameRange): Completion;
  /** @throws {IommuError} `reentrant-call` while a notifier is being called. */
  refuseInCallback(what: string): void;
  unplug(space: AddressSpace): Completion;
}

/** One requester's view of memory. Obtain it from `Iommu.addressSpace`; the same requester gives the same object until it is unplugged. */
export class AddressSpace implements Requester {
  /** Bus, device and function in 16 bits. */
  readonly sourceId: SourceId;
  /** 0 to 2^20 - 1; `undefined` for requests without PASID. */
  readonly pasid: number | undefined;
  /** Its requests ask for supervisor privilege. */
  readonly privileged: boolean;
  /** Its requests ask to execute. */
  readonly execute: boolean;
  /** Another number for every requester of the unit: a key for maps. */
  readonly key: number;
  /** Memory, as the device reaches it. */
  readonly dma: DmaPort;
  /** Observation: `fault`, `map`, `unmap`, `failed`, `window` ... */
  readonly events = new IommuEventEmitter();
  /** @internal */
  readonly leases: LeaseTable;
  readonly #backend: Backend;
  readonly #owner: SpaceOwner;
  #plugged = true;

  /** @internal Use `Iommu.addressSpace`. */
  constructor(requester: Requester, backend: Backend, memory: GuestMemory, owner: SpaceOwner) {
    this.sourceId = requester.sourceId;
    this.pasid = requester.pasid;
    this.privileged = requester.privileged;
    this.execute = requester.execute;
    this.key = requester.key;
    this.#backend = backend;
    this.#owner = owner;
    const written: WriteObserver = (iovaPfn, gpaPfn, pageCount) => this.onWrite?.(iovaPfn, gpaPfn, pageCount);
    this.leases = new LeaseTable(owner.scheduler, owner.limits.leaseDeadlineMilliseconds, written);
    this.dma = new DmaPort(this, {
      memory,
      window: backend.messageWindowOf?.(this),
      leases: this.leases,
      known: backend.keepsAnswers === true ? owner.known : undefined,
    });
  }

  /** `"00:03.0"`, or `"00:03.0 pasid 5"`. */
  get label(): string {
    return this.pasid === undefined
      ? formatSourceId(this.sourceId)
      : `${formatSourceId(this.sourceId)} pasid ${this.pasid}`;
  }

  /** What it sees now, by the backend's word. */
  get domain(): Domain {
    return this.#backend.domainOf(this);
  }

  /** `false` after `unplug`. */
  get plugged(): boolean {
    return this.#plugged;
  }

  /** The notifiers on it, in the order in which they were attached. */
  get attachments(): readonly Attachment[] {
    return this.#owner.attachmentsOf(this);
  }

  /**
   * Translates one page for a request of the device: may fill caches, may record a fault. `false`: refused, `out.reason` says why.
   * `out` is valid until the next invalidation that covers the page.
   * @param iovaPfn A whole frame, 0 to 2^52 - 1. What lies above is refused: a buffer may end beyond the 64-bit space.
   * @throws {IommuError} `bad-range` for a negative number or NaN.
   */
  translate(iovaPfn: number, access: Access, out: Translation): boolean {
    return this.request(iovaPfn, access, out, undefined);
  }

  /**
   * Attaches a notifier and replays the present state to it alone.
   * @throws {IommuError} `caching-mode-required`, `not-supported`, `different-view`, `already-attached`, `bad-range`, `notifier-contract`, `reentrant-call` or `unplugged`.
   */
  attach(notifier: Notifier, options: AttachOptions = {}): Attachment {
    return this.#owner.attach(this, notifier, options);
  }

  /**
   * Looks at the tables again, as an invalidation of `range` (default: all frames) that names this requester does: MAP notifiers hear the differences, UNMAP-only ones one flush,
   * and whoever shares their view hears the same. What the unit remembers for this requester's own requests to the range goes first; contexts that it remembers stay. For what a
   * guest may change without an invalidation, as first-stage entries that become present: call it when the driver tells the device that something is there. Done when the notifiers
   * have completed.
   * @throws {IommuError} `bad-range`, `unplugged`, or `reentrant-call` from inside a notifier's callback.
   */
  resync(range: FrameRange = ALL_FRAMES): Completion {
    return this.#owner.resync(this, range);
  }

  /**
   * Removes the device: detaches every notifier, recalls every lease, and refuses every further request. Done when the notifiers have completed.
   * @throws {IommuError} `reentrant-call` from inside a notifier's callback or a listener of what notifiers are told: nothing has happened then.
   */
  unplug(): Completion {
    this.#owner.refuseInCallback("unplug");
    this.#plugged = false;
    return this.#owner.unplug(this);
  }

  /** @internal As `translate`; `address` is what a fault reports. */
  request(iovaPfn: number, access: Access, out: Translation, address: ByteAddress | undefined): boolean {
    if (!this.#plugged) out.refuse(UNPLUGGED, "unplugged");
    // One comparison, which NaN fails too.
    else if (iovaPfn >= 0) this.#backend.translate(this, iovaPfn, access, out, address);
    else throw notAFrame(this.label, iovaPfn);
    return out.reason === 0 || this.#refused(iovaPfn, access, out, address);
  }

  #refused(iovaPfn: number, access: Access, out: Translation, address: ByteAddress | undefined): false {
    if (this.#owner.observers.wants(this, "fault")) {
      const { reason, cause } = out;
      this.#owner.observers.emit("fault", {
        space: this,
        address: address ?? byteAddress(iovaPfn),
        access,
        reason,
        cause,
      });
      // A listener may have made requests of its own with the same object.
      out.refuse(reason, cause);
    }
    return false;
  }

  /** @internal The device wrote up to `byteLength` bytes from the start of the page `iovaPfn` on. */
  wrote(iovaPfn: number, gpaPfn: number, byteLength: number): void {
    if (this.onWrite !== undefined) this.onWrite(iovaPfn, gpaPfn, Math.ceil(byteLength / PAGE_BYTES));
  }

  /** @internal The device wrote a page with an address that it had translated itself (ATS): its IOVA is not known. */
  wroteTranslated(gpaPfn: number): void {
    if (this.onWrite !== undefined) this.onWrite(-1, gpaPfn, 1);
  }

  /** @internal Set while dirty pages are tracked (`DirtyTracker`). The input frame is -1 where it is not known. */
  onWrite: WriteObserver | undefined = undefined;
}

/** A guest cannot name such an address; a device model makes it of one. */
function notAFrame(label: string, iovaPfn: number): IommuError {
  return new IommuError("bad-range", `a request of ${label}: expected an address of 0 or above, got frame ${iovaPfn}`, {
    hint: "addresses are unsigned: write `>>> 0` after bit operations on 32-bit words",
  });
}

/**
 * The hub's side of an attachment.
 */

import type { AddressSpace } from "../address-space.js";
import type { Attachment, AttachmentState } from "../attachment.js";
import type { Completion } from "../completion.js";
import type { IommuError } from "../errors.js";
import type { Notifier } from "../notifier.js";
import type { FrameRange } from "../range.js";
import type { Member } from "./view.js";

/** What a record asks of the hub. */
export interface AttachmentOwner {
  detach(record: AttachmentRecord): Completion;
  retry(record: AttachmentRecord): void;
}

/** @internal */
export class AttachmentRecord implements Attachment {
  readonly space: AddressSpace;
  readonly notifier: Notifier;
  readonly range: FrameRange;
  /** For MAP notifiers: what the notifier holds, shared by all its attachments. */
  readonly member: Member | undefined;
  readonly #owner: AttachmentOwner;
  ready: Completion = undefined;
  synced = false;
  detached = false;
  /** Of a device TLB: the guest invalidates it by name, as of the last change. */
  named = false;
  failure: IommuError | undefined;
  /** It has failed, and has not let go of everything yet. Of notifiers that cache: a mirror's is its delivery's. */
  revoking: Completion = undefined;

  constructor(
    space: AddressSpace,
    notifier: Notifier,
    range: FrameRange,
    member: Member | undefined,
    owner: AttachmentOwner,
  ) {
    this.space = space;
    this.notifier = notifier;
    this.range = range;
    this.member = member;
    this.#owner = owner;
  }

  get state(): AttachmentState {
    if (this.detached) return "detached";
    if (this.failure !== undefined) return "failed";
    if (!this.synced) return "syncing";
    return this.member !== undefined && this.member.view === undefined ? "parked" : "active";
  }

  get heldPages(): number {
    return this.member?.delivery.heldPages ?? 0;
  }

  get refusedPages(): number {
    return this.member?.delivery.refusals.pageCount ?? 0;
  }

  get refusedRanges(): readonly FrameRange[] {
    return this.member?.delivery.refusals.ranges ?? [];
  }

  retry(): void {
    this.#owner.retry(this);
  }

  detach(): Completion {
    return this.#owner.detach(this);
  }
}

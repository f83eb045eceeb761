/**
 * Which frames a cache may hold: those for which somebody would tell it to drop them again.
 *
 * A cache that is not attached, was cut off, or is attached to a part of the space would keep stale entries for the rest; this is the one place that knows.
 */

import type { AddressSpace, Attachment, FrameRange, Notifier } from "@iommu-kit/iommu-core";

/** Follows one notifier's attachment to one address space. */
export class AttachmentScope {
  readonly #space: AddressSpace;
  readonly #notifier: () => Notifier;
  readonly #onDetach: (() => void) | undefined;
  readonly #detached = (event: { readonly attachment: Attachment }): void => this.#whenDetached(event.attachment);
  #attachment: Attachment | undefined;

  /**
   * @param notifier Answers the notifier; called after its construction only.
   * @param onDetach Called when its attachment has ended in an orderly way.
   */
  constructor(space: AddressSpace, notifier: () => Notifier, onDetach?: () => void) {
    this.#space = space;
    this.#notifier = notifier;
    this.#onDetach = onDetach;
  }

  /** The attachment, if it is one that still hears of invalidations: not when it has failed, nor in the last call that it gets, by which it lets go of everything. */
  get attachment(): Attachment | undefined {
    const known = this.#attachment ?? this.#find();
    return known?.state === "failed" || known?.state === "detached" ? undefined : known;
  }

  /** Whether an invalidation of any part of the block would be heard of, and the block has no frames that are never memory. */
  covers(block: FrameRange): boolean {
    const { attachment } = this;
    if (attachment === undefined) return false;
    const { firstPfn, pageCount } = attachment.range;
    if (block.firstPfn < firstPfn || block.firstPfn + block.pageCount > firstPfn + pageCount) return false;
    return block.pageCount === 1 || !this.#space.domain.holes.some((hole) => overlaps(hole, block));
  }

  #find(): Attachment | undefined {
    const notifier = this.#notifier();
    const found = this.#space.attachments.find((attachment) => attachment.notifier === notifier);
    if (found === undefined) return undefined;
    this.#attachment = found;
    this.#space.events.on("detach", this.#detached);
    return found;
  }

  #whenDetached(attachment: Attachment): void {
    if (attachment !== this.#attachment) return;
    this.#space.events.off("detach", this.#detached);
    this.#attachment = undefined;
    this.#onDetach?.();
  }
}

function overlaps(a: FrameRange, b: FrameRange): boolean {
  return a.firstPfn < b.firstPfn + b.pageCount && b.firstPfn < a.firstPfn + a.pageCount;
}

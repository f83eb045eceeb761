/** A device that the user works with: its notifiers come and go, and it asks for pages when told to. */

import { type Access, type AddressSpace, type Attachment, type FrameRange, Translation } from "@iommu-kit/iommu-core";
import type { Follow } from "@iommu-kit/linux-trace/follow/follow";
import { WatchedContainer } from "@iommu-kit/linux-trace/measure/watched-container";
import { CacheNotifier } from "@iommu-kit/notifier-cache";
import { MemoryContainer, shadow, type ShadowTarget } from "@iommu-kit/notifier-vfio";
import type { LabDevice } from "../sessions/session.js";

/** The two kinds of notifier (see iommu-core's notifier.ts). */
export type NotifierKind = "map" | "unmap";

/** How a request for one page went, by each way. */
export interface DmaOutcome {
  /** Where the tables lead; `undefined`: refused, because of `cause`. */
  readonly gpaPfn: number | undefined;
  readonly cause: string;
  /** What the MAP notifier's shadow says: the same, or not. */
  readonly shadow: "agrees" | "differs" | "detached";
  readonly cache: "hit" | "miss" | "detached";
}

/** See the file's header. */
export class PlaygroundDevice implements LabDevice {
  readonly name: string;
  readonly space: AddressSpace;
  readonly container: WatchedContainer;
  readonly cache: CacheNotifier;
  readonly #follow: Follow;
  readonly #regions: readonly FrameRange[];
  readonly #attachments = new Map<NotifierKind, Attachment>();
  readonly #answer = new Translation();
  readonly #target: ShadowTarget = { gpaPfn: 0, access: 0 };

  constructor(name: string, space: AddressSpace, follow: Follow, regions: readonly FrameRange[]) {
    this.name = name;
    this.space = space;
    this.#follow = follow;
    this.#regions = regions;
    this.container = new WatchedContainer(new MemoryContainer(shadow), () => 0);
    this.cache = new CacheNotifier(space, { entries: 64 });
  }

  isAttached(kind: NotifierKind): boolean {
    return this.#attachments.has(kind);
  }

  attach(kind: NotifierKind): void {
    if (this.isAttached(kind)) return;
    const attachment =
      kind === "map" ? this.#follow(this.space, this.container, this.#regions) : this.space.attach(this.cache);
    this.#attachments.set(kind, attachment);
  }

  detach(kind: NotifierKind): void {
    void this.#attachments.get(kind)?.detach();
    this.#attachments.delete(kind);
    // Whatever followed the device must not leave a mapping behind. Ours has done so already; nobody tells the old one.
    if (kind === "map" && this.container.entriesHeld > 0) this.container.unmapAll();
  }

  /** Asks for a page as a device does: through the tables, the shadow and the cache. */
  request(iovaPfn: number, access: Access): DmaOutcome {
    const hits = this.cache.statistics.hits;
    const allowed = this.cache.translate(iovaPfn, access, this.#answer);
    const hit = this.cache.statistics.hits > hits;
    const gpaPfn = allowed ? this.#answer.gpaPfn : undefined;
    if (gpaPfn !== undefined) this.container.recent.used(iovaPfn, gpaPfn);
    const reached = this.container.inner.translate(iovaPfn, access, this.#target) ? this.#target.gpaPfn : undefined;
    return {
      gpaPfn,
      cause: allowed ? "" : this.#answer.cause,
      shadow: !this.isAttached("map") ? "detached" : reached === gpaPfn ? "agrees" : "differs",
      cache: !this.isAttached("unmap") ? "detached" : hit ? "hit" : "miss",
    };
  }
}

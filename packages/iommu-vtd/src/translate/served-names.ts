/**
 * By which names invalidations reach what devices hold.
 *
 * A device was served by entries (contexts, PASID entries) that the caches may have forgotten and the guest may have changed since; and after the guest has invalidated such an
 * entry, the IOTLB still serves its translations until the guest invalidates these. What a device holds of them goes when the guest names them: so names are kept that long.
 */

import type { Requester } from "@iommu-kit/iommu-core";
import type { IotlbTag } from "./iotlb.js";

/** Names of one requester before they count as one that is always meant. */
const MOST_NAMES = 8;

interface ServedName {
  /** `undefined`: any. */
  readonly tag: IotlbTag | undefined;
  /** No invalidation of the entry since it served. */
  live: boolean;
}

type Picks = (tag: IotlbTag) => boolean;

/** The names under which each requester may hold something. As many requesters as the host has, with few names each. */
export class ServedNames {
  readonly #names = new Map<Requester, ServedName[]>();

  /** A table entry says what serves a requester. */
  note(requester: Requester, tag: IotlbTag): void {
    const names = this.#names.get(requester) ?? [];
    const known = names.find((name) => name.tag === undefined || isSame(name.tag, tag));
    if (known !== undefined) known.live = true;
    else if (names.length < MOST_NAMES) this.#names.set(requester, [...names, { tag, live: true }]);
    else this.#names.set(requester, [{ tag: undefined, live: true }]);
  }

  /** Whether a requester may hold something that an invalidation picks by name. */
  holds(requester: Requester, picks: Picks): boolean {
    return this.#names.get(requester)?.some(({ tag }) => tag === undefined || picks(tag)) === true;
  }

  /** The guest has invalidated entries, all or by name: the IOTLB alone still serves them. */
  retire(matches: (requester: Requester) => boolean, picks?: Picks): void {
    for (const [requester, names] of this.#names) {
      if (!matches(requester)) continue;
      for (const name of names)
        if (picks === undefined || (name.tag !== undefined && picks(name.tag))) name.live = false;
    }
  }

  /** The guest has invalidated translations, all or by name: nothing serves any more what is retired. */
  drop(picks?: Picks): void {
    for (const [requester, names] of this.#names) {
      const left = names.filter(({ tag, live }) => live || (picks !== undefined && (tag === undefined || !picks(tag))));
      if (left.length < names.length) this.#names.set(requester, left);
    }
  }

  /** A requester is gone. */
  forget(requester: Requester): void {
    this.#names.delete(requester);
  }
}

function isSame(one: IotlbTag, other: IotlbTag): boolean {
  return one.domainId === other.domainId && one.pasid === other.pasid && one.firstStage === other.firstStage;
}

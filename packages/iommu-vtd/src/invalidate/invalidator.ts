/**
 * Invalidation of the translation caches: drop cached entries, then announce the range (§6.5; flow B of the design).
 *
 * The register interface and the queue both end here. Who is concerned follows the domain-id and the PASID under which a requester was last seen. Requesters that were
 * refused so far have neither. Without caching mode an entry may become present without an invalidation, so these are looked up anew. With it, what was refused has domain-id 0
 * (§6.2.3), and drivers name the domain-id of the new entry. What served a requester in between, seen by nobody, counts as well (`ServedNames`).
 */

import {
  ALL_FRAMES,
  type Announce,
  type Completion,
  CompletionGroup,
  type FrameRange,
  type Requester,
} from "@iommu-kit/iommu-core";
import type { VtdDomain } from "../scan/domains.js";
import { ignoredFunctionBits } from "../spec/invalidation.js";
import type { Bindings } from "../translate/bindings.js";
import type { Iotlb, IotlbTag } from "../translate/iotlb.js";

/** One method for each thing that can be invalidated; each answers when every notifier concerned has completed. */
export class Invalidator {
  readonly #iotlb: Iotlb;
  readonly #bindings: Bindings;
  readonly #inputFrames: number;
  readonly #hasFirstStage: boolean;
  #announce: Announce<VtdDomain> = () => undefined;

  /**
   * `inputFrames`: how many frames second-stage inputs can have. `firstStage`: whether the unit has first-stage tables: without them nobody needs to be asked for theirs.
   */
  constructor(iotlb: Iotlb, bindings: Bindings, inputFrames: number, firstStage: boolean) {
    this.#iotlb = iotlb;
    this.#bindings = bindings;
    this.#inputFrames = inputFrames;
    this.#hasFirstStage = firstStage;
  }

  /** Says where changes are announced. */
  connect(announce: Announce<VtdDomain>): void {
    this.#announce = announce;
  }

  /** Root pointer, enable and disable: everything, for everybody. */
  everything(): Completion {
    this.#dropContexts();
    return this.translations();
  }

  /** Context cache, global; what one domain asks for is done so too: contexts that were refused have no domain-id. PASID entries were reached through a context: they are looked up anew as well. */
  contexts(): Completion {
    this.#dropContexts();
    return this.#announce({ range: ALL_FRAMES, concerns: everyone });
  }

  /** Context cache, one device or the functions that `functionMask` (0 to 3) adds. */
  contextsOfDevice(sourceId: number, functionMask: number): Completion {
    const matches = (one: number): boolean => ((one ^ sourceId) & ~ignoredFunctionBits(functionMask)) === 0;
    const ofDevice = (requester: Requester): boolean => matches(requester.sourceId);
    this.#bindings.contexts.invalidate(matches);
    this.#bindings.scalableContexts.invalidate(matches);
    // A PASID entry may be shared by contexts; looking one up again is cheap and exact.
    this.#bindings.pasids.invalidateAll();
    this.#bindings.served.retire(ofDevice);
    return this.#announce({ range: ALL_FRAMES, concerns: ofDevice });
  }

  /** PASID cache, global. */
  pasids(): Completion {
    this.#dropPasids();
    return this.#announce({ range: ALL_FRAMES, concerns: everyone });
  }

  /** PASID cache, one domain. */
  pasidsOfDomain(domainId: number): Completion {
    return this.#pasidEntries(domainId, (tag) => tag.domainId === domainId, everyone);
  }

  /** PASID cache, one PASID of a domain. */
  pasid(domainId: number, pasid: number): Completion {
    const picks = (tag: IotlbTag): boolean => tag.domainId === domainId && tag.pasid === pasid;
    return this.#pasidEntries(domainId, picks, (requester) => this.#bindings.pasidOf(requester) === pasid);
  }

  /** IOTLB, global. */
  translations(): Completion {
    this.#iotlb.invalidateAll();
    this.#bindings.served.drop();
    return this.#announce({ range: ALL_FRAMES, concerns: everyone });
  }

  /** IOTLB, one domain. */
  translationsOfDomain(domainId: number): Completion {
    this.#iotlb.invalidateDomain(domainId);
    return this.#allTranslations((tag) => tag.domainId === domainId);
  }

  /** IOTLB, pages of a domain: the range of its second-stage mappings, everything of its first-stage and nested ones. */
  translationsOfPages(domainId: number, named: FrameRange): Completion {
    // Address bits above the unit's address width are ignored (§6.5.2.3).
    const { firstPfn, pageCount } = named;
    const range = { firstPfn: firstPfn < this.#inputFrames ? firstPfn : firstPfn % this.#inputFrames, pageCount };
    this.#iotlb.invalidatePages(domainId, range.firstPfn, pageCount);
    this.#iotlb.invalidateFirstStage(domainId);
    const done = this.#translations(range, (tag) => tag.domainId === domainId && !tag.firstStage);
    if (!this.#hasFirstStage) return done;
    const group = new CompletionGroup();
    group.add(done);
    group.add(this.#translations(ALL_FRAMES, (tag) => tag.domainId === domainId && tag.firstStage));
    return group.take();
  }

  /** PASID-based IOTLB, everything of a PASID. */
  translationsOfPasid(domainId: number, pasid: number): Completion {
    this.#iotlb.invalidatePasid(domainId, pasid);
    return this.#allTranslations((tag) => tag.domainId === domainId && tag.pasid === pasid);
  }

  /** PASID-based IOTLB, pages of a PASID: first-stage and nested mappings only. */
  translationsOfPasidPages(domainId: number, pasid: number, range: FrameRange): Completion {
    this.#iotlb.invalidatePasidPages(domainId, pasid, range.firstPfn, range.pageCount);
    return this.#translations(range, (tag) => tag.domainId === domainId && tag.pasid === pasid && tag.firstStage);
  }

  /** A guest has answered a page request: the pages may have become present unannounced. Nothing that is cached became wrong by that. */
  pagesOfRequester({ sourceId, pasid }: Requester, range: FrameRange): Completion {
    const concerns = (one: Requester): boolean => one.sourceId === sourceId && one.pasid === pasid;
    return this.#announce({ range, concerns });
  }

  #dropContexts(): void {
    this.#bindings.contexts.invalidateAll();
    this.#bindings.scalableContexts.invalidateAll();
    this.#dropPasids();
  }

  #dropPasids(): void {
    this.#bindings.pasids.invalidateAll();
    this.#bindings.served.retire(everyone);
  }

  /**
   * PASID entries are invalidated by name. A requester that was refused is named as well by domain-id 0, which its old entry has, and by the domain-id of its new one. `mayUse`:
   * whether one may use the PASID.
   */
  #pasidEntries(
    domainId: number,
    picks: (tag: IotlbTag) => boolean,
    mayUse: (requester: Requester) => boolean,
  ): Completion {
    const { pasids, served } = this.#bindings;
    pasids.invalidate((_key, binding) => picks(binding));
    served.retire(everyone, picks);
    const concerns = (requester: Requester, domain: VtdDomain): boolean => {
      if (served.holds(requester, picks)) return true;
      if (!isRefused(domain)) return picks(domain);
      return mayUse(requester) && (domainId === 0 || picks(this.#bindings.of(requester)));
    };
    return this.#announce({ range: ALL_FRAMES, concerns });
  }

  /** All translations with these names were invalidated. */
  #allTranslations(picks: (tag: IotlbTag) => boolean): Completion {
    const done = this.#translations(ALL_FRAMES, picks);
    this.#bindings.served.drop(picks);
    return done;
  }

  /**
   * Translations were invalidated by name: of a requester as it was last seen, or, if it was refused then, as it is now; and of one that may hold something under that name
   * without having been seen so, or still.
   */
  #translations(range: FrameRange, picks: (tag: IotlbTag) => boolean): Completion {
    const concerns = (requester: Requester, domain: VtdDomain): boolean =>
      picks(isRefused(domain) ? this.#bindings.of(requester) : domain) || this.#bindings.served.holds(requester, picks);
    return this.#announce({ range, concerns });
  }
}

function everyone(): boolean {
  return true;
}

function isRefused(domain: VtdDomain): boolean {
  return domain.kind === "blocked";
}

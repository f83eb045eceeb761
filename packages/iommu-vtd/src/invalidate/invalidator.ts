/**
 * Invalidation of the translation caches: drop cached entries, then announce the range (§6.5; flow B of the design).
 *
 * The register interface and the queue both end here. Who is concerned follows the domain-id and the PASID under which a requester was last seen. Requesters that were
 * refused so far have neither. Without caching mode an entry may become present without an invalidation, so these are looked up anew. With it, what was refused has domain-id 0
 * (§6.2.3), and drivers name the domain-id of the new entry.
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
    this.#bindings.contexts.invalidateAll();
    this.#bindings.scalableContexts.invalidateAll();
    this.#bindings.pasids.invalidateAll();
    this.#iotlb.invalidateAll();
    return this.#everybody();
  }

  /** Context cache, global; what one domain asks for is done so too: contexts that were refused have no domain-id. PASID entries were reached through a context: they are looked up anew as well. */
  contexts(): Completion {
    this.#bindings.contexts.invalidateAll();
    this.#bindings.scalableContexts.invalidateAll();
    this.#bindings.pasids.invalidateAll();
    return this.#everybody();
  }

  /** Context cache, one device or the functions that `functionMask` (0 to 3) adds. */
  contextsOfDevice(sourceId: number, functionMask: number): Completion {
    const matches = (one: number): boolean => ((one ^ sourceId) & ~ignoredFunctionBits(functionMask)) === 0;
    this.#bindings.contexts.invalidate(matches);
    this.#bindings.scalableContexts.invalidate(matches);
    // A PASID entry may be shared by contexts; looking one up again is cheap and exact.
    this.#bindings.pasids.invalidateAll();
    return this.#announce({ range: ALL_FRAMES, concerns: (requester) => matches(requester.sourceId) });
  }

  /** PASID cache, global. */
  pasids(): Completion {
    this.#bindings.pasids.invalidateAll();
    return this.#everybody();
  }

  /** PASID cache, one domain. */
  pasidsOfDomain(domainId: number): Completion {
    this.#bindings.pasids.invalidate((_key, binding) => binding.domainId === domainId);
    return this.#announce({
      range: ALL_FRAMES,
      concerns: (requester, domain) =>
        isRefused(domain) ? this.#mayBeOf(requester, domainId) : domain.domainId === domainId,
    });
  }

  /** PASID cache, one PASID of a domain. */
  pasid(domainId: number, pasid: number): Completion {
    this.#bindings.pasids.invalidate((_key, binding) => binding.domainId === domainId && binding.pasid === pasid);
    const concerns = (requester: Requester, domain: VtdDomain): boolean => {
      if (!isRefused(domain)) return domain.domainId === domainId && domain.pasid === pasid;
      return this.#bindings.pasidOf(requester) === pasid && this.#mayBeOf(requester, domainId);
    };
    return this.#announce({ range: ALL_FRAMES, concerns });
  }

  /** IOTLB, global. */
  translations(): Completion {
    this.#iotlb.invalidateAll();
    return this.#everybody();
  }

  /** IOTLB, one domain. */
  translationsOfDomain(domainId: number): Completion {
    this.#iotlb.invalidateDomain(domainId);
    return this.#announce({
      range: ALL_FRAMES,
      concerns: (requester, domain) => this.#seen(requester, domain).domainId === domainId,
    });
  }

  /** IOTLB, pages of a domain: the range of its second-stage mappings, everything of its first-stage and nested ones. */
  translationsOfPages(domainId: number, named: FrameRange): Completion {
    // Address bits above the unit's address width are ignored (§6.5.2.3).
    const { firstPfn, pageCount } = named;
    const range = { firstPfn: firstPfn < this.#inputFrames ? firstPfn : firstPfn % this.#inputFrames, pageCount };
    this.#iotlb.invalidatePages(domainId, range.firstPfn, pageCount);
    this.#iotlb.invalidateFirstStage(domainId);
    const concerns =
      (firstStage: boolean) =>
      (requester: Requester, domain: VtdDomain): boolean => {
        const seen = this.#seen(requester, domain);
        return seen.domainId === domainId && seen.firstStage === firstStage;
      };
    const done = this.#announce({ range, concerns: concerns(false) });
    if (!this.#hasFirstStage) return done;
    const group = new CompletionGroup();
    group.add(done);
    group.add(this.#announce({ range: ALL_FRAMES, concerns: concerns(true) }));
    return group.take();
  }

  /** PASID-based IOTLB, everything of a PASID. */
  translationsOfPasid(domainId: number, pasid: number): Completion {
    this.#iotlb.invalidatePasid(domainId, pasid);
    return this.#announce({
      range: ALL_FRAMES,
      concerns: (requester, domain) => {
        const seen = this.#seen(requester, domain);
        return seen.domainId === domainId && seen.pasid === pasid;
      },
    });
  }

  /** PASID-based IOTLB, pages of a PASID: first-stage and nested mappings only. */
  translationsOfPasidPages(domainId: number, pasid: number, range: FrameRange): Completion {
    this.#iotlb.invalidatePasidPages(domainId, pasid, range.firstPfn, range.pageCount);
    const concerns = (requester: Requester, domain: VtdDomain): boolean => {
      const seen = this.#seen(requester, domain);
      return seen.domainId === domainId && seen.pasid === pasid && seen.firstStage;
    };
    return this.#announce({ range, concerns });
  }

  /** A guest has answered a page request: the pages may have become present unannounced. Nothing that is cached became wrong by that. */
  pagesOfRequester({ sourceId, pasid }: Requester, range: FrameRange): Completion {
    const concerns = (one: Requester): boolean => one.sourceId === sourceId && one.pasid === pasid;
    return this.#announce({ range, concerns });
  }

  #everybody(): Completion {
    return this.#announce({ range: ALL_FRAMES, concerns: () => true });
  }

  /** Whether an invalidation of PASID entries of a domain names a requester that was refused: its old entry has domain-id 0, its new one may have this one, or one had it in between. */
  #mayBeOf(requester: Requester, domainId: number): boolean {
    return (
      domainId === 0 ||
      this.#bindings.lastDomainOf(requester) === domainId ||
      this.#bindings.of(requester).domainId === domainId
    );
  }

  /** What invalidations name a requester by: as it was last seen, or, if it was refused then, as it is now. */
  #seen(requester: Requester, domain: VtdDomain): IotlbTag {
    return isRefused(domain) ? this.#bindings.of(requester) : domain;
  }
}

function isRefused(domain: VtdDomain): boolean {
  return domain.kind === "blocked";
}

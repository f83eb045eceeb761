/**
 * Invalidation of the translation caches: drop cached entries, then announce the range (§6.5; flow B of the design).
 *
 * The register interface and the queue both end here. Who is concerned follows the domain-id that the context cache last gave a requester: a domain-id in a
 * command names everything that was translated under it.
 */

import { ALL_FRAMES, type Announce, type Completion, type Domain, type FrameRange } from "@iommu-kit/iommu-core";
import type { VtdDomain } from "../scan/domains.js";
import { type ContextCache, matchesSource } from "../translate/context-cache.js";
import type { Iotlb } from "../translate/iotlb.js";

/** See the file's header. */
export class Invalidator {
  readonly #iotlb: Iotlb;
  readonly #contextCache: ContextCache;
  #announce: Announce = () => undefined;

  constructor(iotlb: Iotlb, contextCache: ContextCache) {
    this.#iotlb = iotlb;
    this.#contextCache = contextCache;
  }

  /** Says where changes are announced. */
  connect(announce: Announce): void {
    this.#announce = announce;
  }

  /** Root pointer, enable and disable: everything, for everybody. */
  everything(): Completion {
    this.#contextCache.invalidateAll();
    this.#iotlb.invalidateAll();
    return this.#announce({ range: ALL_FRAMES, concerns: () => true });
  }

  /** Context cache, global. Flushes nothing but the context cache; notifiers follow what the context entries say now. */
  contexts(): Completion {
    this.#contextCache.invalidateAll();
    return this.#announce({ range: ALL_FRAMES, concerns: () => true });
  }

  /** Context cache, one domain. Requesters that were refused so far have no domain-id: they are looked at as well. */
  contextsOfDomain(domainId: number): Completion {
    this.#contextCache.invalidateDomain(domainId);
    return this.#announce({
      range: ALL_FRAMES,
      concerns: (_requester, domain) => isOf(domain, domainId) || domain.kind === "blocked",
    });
  }

  /** Context cache, one device or the functions that `functionMask` adds. */
  contextsOfDevice(sourceId: number, functionMask: number): Completion {
    this.#contextCache.invalidateDevice(sourceId, functionMask);
    return this.#announce({
      range: ALL_FRAMES,
      concerns: (requester) => matchesSource(requester.sourceId, sourceId, functionMask),
    });
  }

  /** IOTLB, global. */
  translations(): Completion {
    this.#iotlb.invalidateAll();
    return this.#announce({ range: ALL_FRAMES, concerns: () => true });
  }

  /** IOTLB, one domain. */
  translationsOfDomain(domainId: number): Completion {
    this.#iotlb.invalidateDomain(domainId);
    return this.#announce({ range: ALL_FRAMES, concerns: (_requester, domain) => isOf(domain, domainId) });
  }

  /** IOTLB, pages of a domain. */
  translationsOfPages(domainId: number, range: FrameRange): Completion {
    this.#iotlb.invalidatePages(domainId, range.firstPfn, range.pageCount);
    return this.#announce({ range, concerns: (_requester, domain) => isOf(domain, domainId) });
  }
}

function isOf(domain: Domain, domainId: number): boolean {
  return (domain as VtdDomain).domainId === domainId;
}

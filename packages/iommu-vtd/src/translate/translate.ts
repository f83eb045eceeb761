/**
 * Flow A: where does this page go? (§3.4, §7.1.3 order)
 *
 * Translation off -> pass. IOTLB hit with the right -> answer. Else context look-up, pass-through or second-stage walk, output check, IOTLB fill.
 * Every step answers a reason; only this file turns reason and request into a recorded fault.
 */

import type { Access, GuestMemory, Requester, Translation } from "@iommu-kit/iommu-core";
import type { FaultLog } from "../fault/fault-log.js";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { AddressType } from "../spec/encodings.js";
import { faultCode, FaultReason, isQualified } from "../spec/fault-reasons.js";
import { inInterruptWindow, touchesInterruptWindow } from "../spec/interrupt-window.js";
import { FaultRequestType } from "../spec/registers-event.js";
import { faultName } from "../fault/fault-name.js";
import type { Binding } from "./binding.js";
import type { ContextCache } from "./context-cache.js";
import type { ContextLookup } from "./context-lookup.js";
import type { Iotlb } from "./iotlb.js";
import type { RootPointer } from "./root-pointer.js";
import { LEGACY_REASONS, SecondStageWalk } from "./second-stage-walk.js";

/** Untranslated requests are answered in blocks of 1 GiB. */
const PASS_PAGES = 2 ** 18;

/** What translation works with. */
export interface TranslateParts {
  readonly root: RootPointer;
  readonly contexts: ContextLookup;
  readonly contextCache: ContextCache;
  readonly iotlb: Iotlb;
  readonly faults: FaultLog;
}

/** See the file's header. */
export class Translator {
  readonly #parts: TranslateParts;
  readonly #walk: SecondStageWalk;
  /** Input frames that a fault record can show: below the widest table. */
  readonly #recordedFrames: number;

  constructor(memory: GuestMemory, capabilities: UnitCapabilities, widestInputBits: number, parts: TranslateParts) {
    this.#parts = parts;
    this.#walk = new SecondStageWalk(memory, capabilities);
    this.#recordedFrames = 2 ** (widestInputBits - 12);
  }

  translate(requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
    const { root, iotlb } = this.#parts;
    if (!root.enabled) {
      out.allow(iovaPfn, PASS_PAGES, 3);
      return;
    }
    if (
      requester.pasid === undefined &&
      access !== 0 &&
      iotlb.lookup(requester.sourceId, iovaPfn) &&
      (access & ~iotlb.access) === 0
    ) {
      out.allow(iotlb.gpaPfn, iotlb.pageCount, iotlb.access);
      return;
    }
    const binding = requester.pasid === undefined ? this.bindingOf(requester.sourceId) : undefined;
    const reason = binding === undefined ? FaultReason.RTA_2 : this.#resolve(requester, binding, iovaPfn, access, out);
    if (reason !== 0) this.#refuse(requester, reason, binding?.faultsDisabled === true, { iovaPfn, access, out });
  }

  /** The binding of requests without PASID, from the context cache if it is there. */
  bindingOf(sourceId: number): Binding {
    const { contexts, contextCache, root } = this.#parts;
    const cached = contextCache.lookup(sourceId);
    if (cached !== undefined) return cached;
    const binding = contexts.lookup(root, sourceId);
    contextCache.fill(sourceId, binding);
    return binding;
  }

  #resolve(requester: Requester, binding: Binding, iovaPfn: number, access: Access, out: Translation): number {
    if (binding.kind === "refused") return binding.reason;
    if (binding.kind === "pass-through") {
      if (iovaPfn >= binding.limitPfn) return FaultReason.LGN_1_3;
      if (inInterruptWindow(iovaPfn)) return FaultReason.LGN_4;
      out.allow(iovaPfn, PASS_PAGES, 3);
      return 0;
    }
    if (iovaPfn >= binding.limitPfn) return FaultReason.LGN_1_1;
    const walk = this.#walk;
    const reason = walk.walk(binding.rootPfn, binding.levels, iovaPfn, access, LEGACY_REASONS);
    if (reason !== 0) return reason;
    if (inInterruptWindow(walk.gpaPfn)) return FaultReason.LGN_4;
    // A superpage that contains the window is good for every page outside it: cached page by page.
    const offset = iovaPfn % walk.pageCount;
    if (walk.pageCount > 1 && touchesInterruptWindow(walk.gpaPfn - offset, walk.pageCount)) walk.pageCount = 1;
    this.#parts.iotlb.fill(requester.sourceId, binding.domainId, iovaPfn, walk);
    out.allow(walk.gpaPfn, walk.pageCount, walk.access);
    return 0;
  }

  #refuse(
    requester: Requester,
    reason: number,
    faultsDisabled: boolean,
    request: { iovaPfn: number; access: Access; out: Translation },
  ): void {
    request.out.refuse(faultCode(reason), faultName(reason));
    if (faultsDisabled && isQualified(reason)) return;
    this.#parts.faults.record({
      reason,
      sourceId: requester.sourceId,
      pasid: requester.pasid,
      information: request.iovaPfn % this.#recordedFrames,
      requestType: requestTypeOf(request.access),
      addressType: AddressType.UNTRANSLATED,
      privileged: false,
    });
  }
}

function requestTypeOf(access: Access): number {
  if (access === 3) return FaultRequestType.ATOMIC;
  return access === 2 ? FaultRequestType.WRITE : FaultRequestType.READ;
}

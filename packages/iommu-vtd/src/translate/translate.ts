/**
 * Flow A: where does this page go? (§3.4, §7.1.3 order)
 *
 * Translation off -> pass. IOTLB hit with the right -> answer. Else binding (root, context, PASID), then pass-through, first-stage, second-stage or nested walk, output
 * check, IOTLB fill. Every step answers a reason; only this file turns reason and request into a recorded fault.
 */

import { Access, type GuestMemory, LocalReason, type Requester, type Translation } from "@iommu-kit/iommu-core";
import type { FaultLog } from "../fault/fault-log.js";
import { faultName } from "../fault/fault-name.js";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { AddressType } from "../spec/encodings.js";
import { faultCode, FaultReason, isQualified } from "../spec/fault-reasons.js";
import { inInterruptWindow, touchesInterruptWindow } from "../spec/interrupt-window.js";
import { FaultRequestType } from "../spec/registers-event.js";
import type { Binding } from "./binding.js";
import type { Bindings } from "./bindings.js";
import { FirstStageWalk } from "./first-stage-walk.js";
import { spareFlags } from "./flag-update.js";
import type { Iotlb } from "./iotlb.js";
import type { OutputFilter } from "./output-filter.js";
import type { RootPointer } from "./root-pointer.js";
import { SecondStageWalk } from "./second-stage-walk.js";
import { offsetInBlock } from "./table-index.js";

/** Untranslated requests are answered in blocks of 1 GiB. */
const PASS_PAGES = 2 ** 18;
/** Reason of a request to a protected region (§11.4.8): the architecture has no code for it and does not record it. */
export const PROTECTED_MEMORY = LocalReason.PROTECTED_MEMORY;

/** What translation works with. */
export interface TranslateParts {
  readonly memory: GuestMemory;
  readonly capabilities: UnitCapabilities;
  readonly root: RootPointer;
  readonly bindings: Bindings;
  readonly iotlb: Iotlb;
  readonly filter: OutputFilter;
  readonly faults: FaultLog;
  /** Input bits that a fault record can show: of the widest table. */
  readonly widestInputBits: number;
}

interface RefusedRequest {
  readonly reason: number;
  readonly iovaPfn: number;
  readonly access: Access;
}

/** Translates the requests of all devices of one unit. Answers are valid until the next invalidation that covers the page. */
export class Translator {
  readonly #parts: TranslateParts;
  readonly #root: RootPointer;
  readonly #iotlb: Iotlb;
  readonly #secondStage: SecondStageWalk;
  readonly #firstStage: FirstStageWalk;
  /** The same walks for who only wants to know. */
  readonly #secondProbe: SecondStageWalk;
  readonly #firstProbe: FirstStageWalk;
  readonly #recordedFrames: number;
  /** Result of the last `resolve`: requests to the page must be snooped. */
  snooped = false;

  constructor(parts: TranslateParts) {
    this.#parts = parts;
    const { memory, capabilities, filter } = parts;
    this.#root = parts.root;
    this.#iotlb = parts.iotlb;
    this.#secondStage = new SecondStageWalk(memory, capabilities, filter);
    this.#firstStage = new FirstStageWalk(memory, capabilities, this.#secondStage, filter);
    this.#secondProbe = new SecondStageWalk(memory, capabilities, filter, spareFlags);
    this.#firstProbe = new FirstStageWalk(memory, capabilities, this.#secondProbe, filter, spareFlags);
    this.#recordedFrames = 2 ** (parts.widestInputBits - 12);
  }

  translate(requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
    // The IOTLB answers first: what it holds was checked when it was filled, and pages that are messages are never filled.
    const cached = access !== 0 && this.#root.enabled && this.#iotlb.lookup(requester.key, iovaPfn, access, out);
    if (!cached) this.#translateUncached(requester, iovaPfn, access, out);
  }

  #translateUncached(requester: Requester, iovaPfn: number, access: Access, out: Translation): void {
    if (requester.pasid === undefined && inInterruptWindow(iovaPfn)) {
      // Messages never come here (§3.15): who asks would take the page for memory. Nothing was requested, so nothing is recorded.
      out.refuse(faultCode(FaultReason.INTERRUPT_MALFORMED), "interrupt window");
      return;
    }
    if (!this.#root.enabled) {
      if (this.#pass(iovaPfn, out) !== 0) out.refuse(PROTECTED_MEMORY, "protected memory");
      return;
    }
    const binding = this.#parts.bindings.of(requester);
    const reason = this.resolve(requester, binding, iovaPfn, access, out);
    if (reason !== 0) this.#refuse(requester, binding, { reason, iovaPfn, access }, out);
  }

  #refuse(requester: Requester, binding: Binding, request: RefusedRequest, out: Translation): void {
    const { reason, iovaPfn, access } = request;
    if (reason === PROTECTED_MEMORY) {
      out.refuse(PROTECTED_MEMORY, "protected memory");
      return;
    }
    out.refuse(faultCode(reason), faultName(reason));
    if (binding.faultsDisabled && isQualified(reason)) return;
    this.record(requester, reason, iovaPfn, requestTypeOf(access), AddressType.UNTRANSLATED);
  }

  /** Walks without looking into the IOTLB, and fills it. Answers 0, with `out` written, or a reason. */
  resolve(requester: Requester, binding: Binding, iovaPfn: number, access: Access, out: Translation): number {
    if (binding.kind === "refused") return binding.reason;
    this.snooped = binding.pageSnoop;
    if (binding.kind === "pass-through") return this.#passThrough(binding, iovaPfn, out);
    const walk = binding.firstStage ? this.#firstStage : this.#secondStage;
    const reason = this.#walk(walk, requester, binding, iovaPfn, access);
    if (reason !== 0) return reason;
    this.snooped ||= walk.snooped;
    this.#iotlb.fill(requester.key, binding, iovaPfn, walk);
    out.allow(walk.gpaPfn, walk.pageCount, walk.access);
    return 0;
  }

  /** What `resolve` would answer, found out without a trace: no flag is set and nothing is cached. */
  probe(requester: Requester, binding: Binding, iovaPfn: number, access: Access, out: Translation): number {
    if (binding.kind === "refused") return binding.reason;
    if (binding.kind === "pass-through") return this.#passThrough(binding, iovaPfn, out);
    const walk = binding.firstStage ? this.#firstProbe : this.#secondProbe;
    const reason = this.#walk(walk, requester, binding, iovaPfn, access);
    if (reason === 0) out.allow(walk.gpaPfn, walk.pageCount, walk.access);
    return reason;
  }

  #walk(
    walk: SecondStageWalk | FirstStageWalk,
    requester: Requester,
    binding: Binding,
    iovaPfn: number,
    access: Access,
  ): number {
    if (!binding.firstStage && iovaPfn >= binding.limitPfn)
      return binding.scalable ? FaultReason.SGN_5 : FaultReason.LGN_1_1;
    const reason = walk.walk(binding, iovaPfn, access);
    if (reason !== 0) return reason;
    const { filter } = this.#parts;
    if (filter.blocks(walk.gpaPfn)) return blockedOutput(filter, walk.gpaPfn, binding);
    if (walk.pageCount > 1 && holdsOtherPages(filter, requester, iovaPfn, walk)) walk.pageCount = 1;
    return 0;
  }

  #passThrough(binding: Binding, iovaPfn: number, out: Translation): number {
    if (iovaPfn >= binding.limitPfn) return binding.scalable ? FaultReason.SGN_4_2 : FaultReason.LGN_1_3;
    const { filter } = this.#parts;
    if (filter.blocks(iovaPfn)) return blockedOutput(filter, iovaPfn, binding);
    return this.#pass(iovaPfn, out);
  }

  /** Input is output. Answers in the largest block that holds no blocked target. */
  #pass(iovaPfn: number, out: Translation): number {
    const { filter } = this.#parts;
    if (filter.protects(iovaPfn)) return PROTECTED_MEMORY;
    let pageCount = PASS_PAGES;
    while (pageCount > 1 && filter.touches(iovaPfn - (iovaPfn % pageCount), pageCount)) pageCount /= 512;
    out.allow(iovaPfn, pageCount, 3);
    return 0;
  }

  /** Whether a target lies in a protected region. */
  protects(gpaPfn: number): boolean {
    return this.#parts.filter.protects(gpaPfn);
  }

  /** Records a fault of a request. */
  record(requester: Requester, reason: number, iovaPfn: number, requestType: number, addressType: number): void {
    this.#parts.faults.record({
      reason,
      sourceId: requester.sourceId,
      pasid: requester.pasid,
      information: iovaPfn % this.#recordedFrames,
      requestType,
      addressType,
      privileged: requester.privileged,
      execute: requester.execute,
    });
  }
}

/**
 * Whether the superpage around a page has a blocked target, or is in part the interrupt window as an input, which nobody may take for memory. It is then good for every
 * other page: cached page by page.
 */
function holdsOtherPages(
  filter: OutputFilter,
  requester: Requester,
  iovaPfn: number,
  { gpaPfn, pageCount }: SecondStageWalk | FirstStageWalk,
): boolean {
  const offset = offsetInBlock(iovaPfn, pageCount);
  if (filter.touches(gpaPfn - offset, pageCount)) return true;
  return requester.pasid === undefined && touchesInterruptWindow(iovaPfn - offset, pageCount);
}

function blockedOutput(filter: OutputFilter, gpaPfn: number, binding: Binding): number {
  if (filter.protects(gpaPfn)) return PROTECTED_MEMORY;
  return binding.scalable ? FaultReason.SGN_8_1 : FaultReason.LGN_4;
}

function requestTypeOf(access: Access): number {
  if (access === Access.readWrite) return FaultRequestType.ATOMIC;
  return access === Access.write ? FaultRequestType.WRITE : FaultRequestType.READ;
}

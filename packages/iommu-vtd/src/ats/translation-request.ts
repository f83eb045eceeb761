/**
 * ATS: answers to translation requests, and the check of translated requests (§4.2.3, §4.2.5).
 *
 * A device asks what it may reach, caches the answer, and then sends requests that are translated already. Missing rights are answers, not faults; only what
 * §7.1.3 calls non-recoverable is recorded.
 */

import { Access, type Requester, Translation } from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { AddressType, TableMode } from "../spec/encodings.js";
import {
  answerToTranslationRequest,
  FaultAnswer,
  FaultReason,
  isQualified,
  isRecoverable,
} from "../spec/fault-reasons.js";
import { inInterruptWindow } from "../spec/interrupt-window.js";
import { ECAP } from "../spec/registers-capability.js";
import { FaultRequestType } from "../spec/registers-event.js";
import { type Binding, refusedBinding } from "../translate/binding.js";
import type { Bindings } from "../translate/bindings.js";
import { PROTECTED_MEMORY, type Translator } from "../translate/translate.js";
import type { RootPointer } from "../translate/root-pointer.js";

/** `success`: see the rights. `unsupported`: the function switches its ATS off. `abort`: this request failed. */
export type CompletionStatus = "success" | "unsupported" | "abort";

/** What a device is answered for one block of pages. Valid until the unit invalidates the device TLB for it. */
export interface TranslationCompletion {
  /** Why there is no translation, or that there is one. */
  readonly status: CompletionStatus;
  /** First input frame of the block. */
  readonly iovaPfn: number;
  /** Pages of the block, a power of two. */
  readonly pageCount: number;
  /** First target frame. Meaningful when `access` is not none. */
  readonly gpaPfn: number;
  /** Rights granted (R and W). */
  readonly access: Access;
  /** U: this range must be asked for with untranslated requests. */
  readonly untranslatedOnly: boolean;
  /** N: requests that use this translation must be snooped (No Snoop clear): the page forces it (SNP of the leaf, PGSNP of the PASID entry). */
  readonly snooped: boolean;
  /** PRIV: the answer is for privileged requests. */
  readonly privileged: boolean;
  /** Fault reason behind an answer without rights, or 0. */
  readonly reason: number;
}

/** How a device asks. */
export interface TranslationRequestOptions {
  /** Pages wanted, from the address on. Default 1. At most 64 blocks are answered: what fits into one completion. */
  readonly pageCount?: number;
  /** The device will only read (NW). Default false. */
  readonly noWrite?: boolean;
}

/** Translations of 8 bytes in a completion of 512. */
const MOST_ANSWERS = 64;

/** What ATS works with. */
export interface AtsParts {
  readonly capabilities: UnitCapabilities;
  readonly root: RootPointer;
  readonly bindings: Bindings;
  readonly translator: Translator;
}

/** The ATS side of one unit. `translate` answers what the device may cache; `checkTranslated` says whether a translated request may pass. */
export class TranslationRequests {
  readonly #parts: AtsParts;
  readonly #out = new Translation();
  /** Rights that the last `#ask` found. */
  #rights: Access = 0;

  constructor(parts: AtsParts) {
    this.#parts = parts;
  }

  /** Answers for consecutive blocks of equal size, at least one; stops before the first that would not succeed. */
  translate(requester: Requester, iovaPfn: number, options: TranslationRequestOptions = {}): TranslationCompletion[] {
    const end = iovaPfn + (options.pageCount ?? 1);
    const answers = [this.#translateOne(requester, iovaPfn, options.noWrite === true)];
    for (let last = answers[0]; last !== undefined && last.status === "success"; last = answers.at(-1)) {
      const next = last.iovaPfn + last.pageCount;
      if (next >= end || answers.length === MOST_ANSWERS) break;
      // What is not answered leaves no trace: flags are set and faults are recorded only for what is.
      if (this.#blockAt(requester, next, options.noWrite === true) !== last.pageCount) break;
      const answer = this.#translateOne(requester, next, options.noWrite === true);
      if (answer.status !== "success") break;
      answers.push(answer);
    }
    return answers;
  }

  /** The answer of a unit that does not know the device. */
  unsupported(requester: Requester, iovaPfn: number): TranslationCompletion {
    return this.#answer(requester, iovaPfn, "unsupported", 0);
  }

  /** Whether a translated request may reach a target; 0 or a reason. Records what has to be recorded. */
  checkTranslated(requester: Requester, gpaPfn: number, access: Access): number {
    const { root, translator } = this.#parts;
    // Translation is off: translated requests are unsupported, and nobody records that.
    if (!root.enabled) return FaultReason.LCT_5;
    const { reason, faultsDisabled } = this.#translatedReason(requester, gpaPfn);
    if (reason === 0) return translator.protects(gpaPfn) ? PROTECTED_MEMORY : 0;
    if (!(faultsDisabled && isQualified(reason))) {
      const type = access === Access.write ? FaultRequestType.WRITE : FaultRequestType.READ;
      translator.record(requester, reason, gpaPfn, type, AddressType.TRANSLATED);
    }
    return reason;
  }

  /** Whether the guest lets a requester use a device TLB, which it then invalidates by name (DTE; in legacy mode TT = 01b). */
  allowed(requester: Requester): boolean {
    const { bindings, root } = this.#parts;
    if (!root.enabled) return false;
    if (root.mode === TableMode.LEGACY) return bindings.of(requester).deviceTlb;
    return bindings.refusalOfRegisters(requester) === 0 && bindings.contextOf(requester.sourceId).deviceTlb;
  }

  #translateOne(requester: Requester, iovaPfn: number, noWrite: boolean): TranslationCompletion {
    const { root } = this.#parts;
    if (!root.enabled) return this.unsupported(requester, iovaPfn);
    if (requester.pasid === undefined && inInterruptWindow(iovaPfn)) {
      const writable = !(noWrite && this.#has("NWFS"));
      const answer = this.#answer(requester, iovaPfn, "success", 0);
      return { ...answer, access: writable ? 2 : 0, untranslatedOnly: writable };
    }
    const binding = this.#gate(requester);
    if (binding.kind === "refused") return this.#refuse(requester, iovaPfn, binding.reason, binding.faultsDisabled);
    const reason = this.#ask("resolve", requester, binding, iovaPfn, noWrite);
    if (reason === 0) return this.#granted(requester, iovaPfn);
    if (reason === FaultReason.SGN_8_1) return this.#answer(requester, iovaPfn, "success", reason);
    return this.#refuse(requester, iovaPfn, reason, binding.faultsDisabled);
  }

  /** Pages of the block that a page would be answered with; 0 if that would be no success. */
  #blockAt(requester: Requester, iovaPfn: number, noWrite: boolean): number {
    if (requester.pasid === undefined && inInterruptWindow(iovaPfn)) return 1;
    const reason = this.#ask("probe", requester, this.#gate(requester), iovaPfn, noWrite);
    if (reason === 0) return this.#out.pageCount;
    return reason === FaultReason.SGN_8_1 || statusOf(reason) === "success" ? 1 : 0;
  }

  /** Asks for fewer rights while some are missing. Answers 0, with the rights found in `#rights`, or the reason. */
  #ask(how: "resolve" | "probe", requester: Requester, binding: Binding, iovaPfn: number, noWrite: boolean): number {
    const { translator } = this.#parts;
    let refusal = FaultReason.LGN_3 as number;
    for (const wanted of this.#tries(noWrite)) {
      refusal = translator[how](requester, binding, iovaPfn, wanted, this.#out);
      // A dirty flag was set only for the rights that were asked for.
      this.#rights = (this.#out.access & wanted) as Access;
      if (refusal === 0 || answerToTranslationRequest(refusal) !== FaultAnswer.REMAINING_PERMISSIONS) break;
    }
    // Same code, another condition: here the window is the result of a translation request. Passed through, it is no fault at all (§7.1.3).
    return refusal === FaultReason.SGN_8_1 && binding.kind !== "pass-through" ? FaultReason.SGN_8_2 : refusal;
  }

  /** Without NW hardware walks for read and write; rights that are missing are left out of the answer. */
  #tries(noWrite: boolean): readonly Access[] {
    return noWrite && this.#has("NWFS") ? [1] : [3, 1, 2];
  }

  /** How the page is translated, or why translation requests are refused before the walk. */
  #gate(requester: Requester): Binding {
    const { bindings, root } = this.#parts;
    if (root.mode === TableMode.SCALABLE && bindings.refusalOfRegisters(requester) === 0) {
      const { reason, deviceTlb, faultsDisabled } = bindings.contextOf(requester.sourceId);
      if (reason === 0 && !deviceTlb) return refusedBinding(FaultReason.SCT_5, faultsDisabled);
    }
    const binding = bindings.of(requester);
    if (binding.scalable || binding.kind === "refused" || binding.deviceTlb) return binding;
    return refusedBinding(FaultReason.LCT_5, binding.faultsDisabled);
  }

  #granted(requester: Requester, iovaPfn: number): TranslationCompletion {
    const { gpaPfn, pageCount } = this.#out;
    const offset = iovaPfn % pageCount;
    return {
      ...this.#answer(requester, iovaPfn - offset, "success", 0),
      pageCount,
      gpaPfn: gpaPfn - offset,
      snooped: this.#parts.translator.snooped,
      access: this.#rights,
    };
  }

  #refuse(requester: Requester, iovaPfn: number, reason: number, faultsDisabled: boolean): TranslationCompletion {
    if (reason !== PROTECTED_MEMORY && !isRecoverable(reason) && !(faultsDisabled && isQualified(reason))) {
      this.#parts.translator.record(requester, reason, iovaPfn, FaultRequestType.READ, AddressType.TRANSLATION_REQUEST);
    }
    return this.#answer(requester, iovaPfn, statusOf(reason), reason);
  }

  #answer(requester: Requester, iovaPfn: number, status: CompletionStatus, reason: number): TranslationCompletion {
    const privileged = requester.pasid !== undefined && requester.privileged;
    const nothing = { pageCount: 1, gpaPfn: 0, access: 0, untranslatedOnly: false, snooped: false } as const;
    return { status, iovaPfn, ...nothing, privileged, reason };
  }

  #translatedReason(
    requester: Requester,
    gpaPfn: number,
  ): { readonly reason: number; readonly faultsDisabled: boolean } {
    const { bindings, root, capabilities } = this.#parts;
    const tooWide = gpaPfn >= 2 ** (capabilities.hostAddressWidth - 12);
    if (root.mode === TableMode.LEGACY) {
      const binding = bindings.of(requester);
      const { faultsDisabled } = binding;
      if (binding.kind === "refused") return { reason: binding.reason, faultsDisabled };
      if (!binding.deviceTlb) return { reason: FaultReason.LCT_5, faultsDisabled };
      if (tooWide) return { reason: FaultReason.LGN_1_2, faultsDisabled };
      return { reason: inInterruptWindow(gpaPfn) ? FaultReason.LGN_4 : 0, faultsDisabled };
    }
    const early = bindings.refusalOfRegisters(requester);
    if (early !== 0) return { reason: early, faultsDisabled: false };
    const context = bindings.contextOf(requester.sourceId);
    const { faultsDisabled } = context;
    if (context.reason !== 0) return { reason: context.reason, faultsDisabled };
    if (!context.deviceTlb) return { reason: FaultReason.SCT_5, faultsDisabled };
    if (requester.pasid !== undefined) {
      if (!context.translatedWithPasid) return { reason: FaultReason.SCT_10, faultsDisabled };
      const refusal = bindings.refusalOfPasid(context, requester.pasid);
      if (refusal !== 0) return { reason: refusal, faultsDisabled };
    }
    if (tooWide) return { reason: FaultReason.SGN_4_1, faultsDisabled };
    return { reason: inInterruptWindow(gpaPfn) ? FaultReason.SGN_8_3 : 0, faultsDisabled };
  }

  #has(capability: "NWFS"): boolean {
    return ECAP.fields[capability].get(this.#parts.capabilities.ecap, 0) === 1;
  }
}

/** How a request is completed that meets a reason; `success` is one without rights. */
function statusOf(reason: number): CompletionStatus {
  if (reason === PROTECTED_MEMORY) return "abort";
  const kind = answerToTranslationRequest(reason);
  if (kind === FaultAnswer.UNSUPPORTED_REQUEST) return "unsupported";
  return kind === FaultAnswer.COMPLETER_ABORT ? "abort" : "success";
}

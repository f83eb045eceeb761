/**
 * Scalable mode, first half: from a source-id to its context, through root-entry and scalable-mode context-entry (§3.4.3, §9.2, §9.4).
 */

import { type GuestMemory, PAGE_BYTES, reservedMask } from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { ScalableContextEntry, scalableContextEntryReserved } from "../spec/context-entry.js";
import { FaultReason } from "../spec/fault-reasons.js";
import { ScalableRootEntry } from "../spec/root-entry.js";
import { anyBit } from "../spec/word.js";

const ROOT_ENTRY_BYTES = 16;
const CONTEXT_ENTRY_BYTES = 32;
const HALF_BUS = 128;
/** Directory bits for PDTS 0: 2^7 entries of 2^6 PASIDs. */
const LEAST_PASID_BITS = 13;
const { LP, LCTP, UP, UCTP } = ScalableRootEntry.fields;
const { P, FPD, DTE, PASIDE, PRE, EPTR, PDTS, PASIDDIRPTR, RID_PASID, RID_PRIV } = ScalableContextEntry.fields;

/** A device's context. Immutable: the context cache keeps it. */
export interface ScalableContext {
  /** 0, or why every request is refused. */
  readonly reason: number;
  readonly faultsDisabled: boolean;
  readonly deviceTlb: boolean;
  readonly pasidEnabled: boolean;
  readonly pageRequests: boolean;
  readonly translatedWithPasid: boolean;
  readonly directoryPfn: number;
  /** PASIDs at and above it are refused. */
  readonly pasidLimit: number;
  /** PASID of requests without PASID. */
  readonly requestPasid: number;
  /** Requests without PASID are privileged. */
  readonly requestPrivileged: boolean;
}

/** Fetches and checks; nothing is cached here. */
export class ScalableContextLookup {
  readonly #memory: GuestMemory;
  readonly #rootReserved: Int32Array;
  readonly #contextReserved: Int32Array;
  readonly #root = new Int32Array(4);
  readonly #entry = new Int32Array(8);

  constructor(memory: GuestMemory, capabilities: UnitCapabilities) {
    this.#memory = memory;
    this.#rootReserved = reservedMask(ScalableRootEntry, capabilities.hostAddressWidth);
    this.#contextReserved = scalableContextEntryReserved(capabilities);
  }

  lookup(rootPfn: number, sourceId: number): ScalableContext {
    const root = this.#root;
    const deviceFunction = sourceId & 0xff;
    const upper = deviceFunction >= HALF_BUS;
    if (!this.#memory.fetch(rootPfn * PAGE_BYTES + (sourceId >> 8) * ROOT_ENTRY_BYTES, root))
      return refused(FaultReason.SRT_1);
    if ((upper ? UP : LP).get(root, 0) === 0) return refused(FaultReason.SRT_2);
    // Only the half in use is checked.
    const half = upper ? 2 : 0;
    for (let word = half; word < half + 2; word++) {
      if (((root[word] ?? 0) & (this.#rootReserved[word] ?? 0)) !== 0) return refused(FaultReason.SRT_3);
    }
    const tablePfn = (upper ? UCTP : LCTP).get(root, 0);
    const gpa = tablePfn * PAGE_BYTES + (deviceFunction % HALF_BUS) * CONTEXT_ENTRY_BYTES;
    return this.#memory.fetch(gpa, this.#entry) ? this.#decode() : refused(FaultReason.SCT_1);
  }

  #decode(): ScalableContext {
    const entry = this.#entry;
    const faultsDisabled = FPD.get(entry, 0) === 1;
    if (P.get(entry, 0) === 0) return refused(FaultReason.SCT_2, faultsDisabled);
    if (anyBit(entry, this.#contextReserved)) return refused(FaultReason.SCT_3, faultsDisabled);
    const context: ScalableContext = {
      reason: 0,
      faultsDisabled,
      deviceTlb: DTE.get(entry, 0) === 1,
      pasidEnabled: PASIDE.get(entry, 0) === 1,
      pageRequests: PRE.get(entry, 0) === 1,
      translatedWithPasid: EPTR.get(entry, 0) === 1,
      directoryPfn: PASIDDIRPTR.get(entry, 0),
      pasidLimit: 2 ** (PDTS.get(entry, 0) + LEAST_PASID_BITS),
      requestPasid: RID_PASID.get(entry, 0),
      requestPrivileged: RID_PRIV.get(entry, 0) === 1,
    };
    if (context.pageRequests && !context.deviceTlb) return refused(FaultReason.SCT_4_1, faultsDisabled);
    if (context.requestPasid >= context.pasidLimit) return refused(FaultReason.SCT_4_2, faultsDisabled);
    if (context.translatedWithPasid && !context.pasidEnabled) return refused(FaultReason.SCT_4_3, faultsDisabled);
    return context;
  }
}

function refused(reason: number, faultsDisabled = false): ScalableContext {
  return {
    reason,
    faultsDisabled,
    deviceTlb: false,
    pasidEnabled: false,
    pageRequests: false,
    translatedWithPasid: false,
    directoryPfn: 0,
    pasidLimit: 0,
    requestPasid: 0,
    requestPrivileged: false,
  };
}

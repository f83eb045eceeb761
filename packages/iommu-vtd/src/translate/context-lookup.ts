/**
 * From a source-id to its binding: root-entry, then context-entry (§3.4.2, §9.1, §9.3).
 *
 * Order at each entry: access, present, reserved bits, meaning (§7.1.3). Each entry is fetched once, whole.
 */

import { type GuestMemory, PAGE_BYTES, reservedMask } from "@iommu-kit/iommu-core";
import { guestAddressBits, type UnitCapabilities } from "../spec/capabilities.js";
import { ContextEntry, contextEntryReserved } from "../spec/context-entry.js";
import { addressBitsOf, levelsOf, supportsAddressWidth, TableMode, TranslationType } from "../spec/encodings.js";
import { FaultReason } from "../spec/fault-reasons.js";
import { CAP, ECAP } from "../spec/registers-capability.js";
import { RootEntry } from "../spec/root-entry.js";
import { type Binding, refusedBinding } from "./binding.js";
import type { RootPointer } from "./root-pointer.js";

const ENTRY_BYTES = 16;
const { P, FPD, TT, SSPTPTR, AW, DID } = ContextEntry.fields;

/** Looks bindings up in guest memory; caches nothing. */
export class ContextLookup {
  readonly #memory: GuestMemory;
  readonly #capabilities: UnitCapabilities;
  readonly #rootReserved: Int32Array;
  readonly #contextReserved: Int32Array;
  readonly #entry = new Int32Array(4);

  constructor(memory: GuestMemory, capabilities: UnitCapabilities) {
    this.#memory = memory;
    this.#capabilities = capabilities;
    this.#rootReserved = reservedMask(RootEntry, capabilities.hostAddressBits);
    this.#contextReserved = contextEntryReserved(capabilities);
  }

  /** The binding of requests without PASID. */
  lookup(root: RootPointer, sourceId: number): Binding {
    const mode = this.#checkMode(root);
    if (mode !== 0) return refusedBinding(mode, false);
    const entry = this.#entry;
    if (!this.#fetch(root.rootPfn, sourceId >> 8)) return refusedBinding(FaultReason.LRT_1, false);
    if (RootEntry.fields.P.get(entry, 0) === 0) return refusedBinding(FaultReason.LRT_2, false);
    if (anyBit(entry, this.#rootReserved)) return refusedBinding(FaultReason.LRT_3, false);
    if (!this.#fetch(RootEntry.fields.CTP.get(entry, 0), sourceId & 0xff))
      return refusedBinding(FaultReason.LCT_1, false);
    return this.#decode();
  }

  #checkMode(root: RootPointer): number {
    if (root.mode === TableMode.LEGACY) return 0;
    if (root.mode === TableMode.ABORT)
      return ECAP.fields.ADMS.get(this.#capabilities.ecap, 0) === 1 ? FaultReason.RTA_4 : FaultReason.RTA_1_1;
    return root.mode === TableMode.SCALABLE ? FaultReason.RTA_1_3 : FaultReason.RTA_1_2;
  }

  /** Decodes the context-entry that was fetched. */
  #decode(): Binding {
    const entry = this.#entry;
    const { cap, ecap, hostAddressBits } = this.#capabilities;
    const faultsDisabled = FPD.get(entry, 0) === 1;
    const refuse = (reason: number): Binding => refusedBinding(reason, faultsDisabled);
    if (P.get(entry, 0) === 0) return refuse(FaultReason.LCT_2);
    if (anyBit(entry, this.#contextReserved)) return refuse(FaultReason.LCT_3);
    const type = TT.get(entry, 0);
    const deviceTlb = type === TranslationType.DEVICE_TLB;
    const passThrough = type === TranslationType.PASS_THROUGH;
    const known = type === TranslationType.UNTRANSLATED || deviceTlb || passThrough;
    if (
      !known ||
      (deviceTlb && ECAP.fields.DT.get(ecap, 0) === 0) ||
      (passThrough && ECAP.fields.PT.get(ecap, 0) === 0)
    ) {
      return refuse(FaultReason.LCT_4_2);
    }
    const domainId = DID.get(entry, 0);
    if (passThrough) {
      // The architecture wants the widest AW here; real software that names another one works everywhere, so it does here.
      const limitPfn = 2 ** (hostAddressBits - 12);
      return {
        kind: "pass-through",
        reason: 0,
        faultsDisabled,
        domainId,
        rootPfn: 0,
        levels: 0,
        limitPfn,
        deviceTlb: false,
      };
    }
    const aw = AW.get(entry, 0);
    if (!supportsAddressWidth(CAP.fields.SAGAW.get(cap, 0), aw)) return refuse(FaultReason.LCT_4_1);
    const limitPfn = 2 ** (Math.min(guestAddressBits(cap), addressBitsOf(aw)) - 12);
    const rootPfn = SSPTPTR.get(entry, 0);
    return {
      kind: "second-stage",
      reason: 0,
      faultsDisabled,
      domainId,
      rootPfn,
      levels: levelsOf(aw),
      limitPfn,
      deviceTlb,
    };
  }

  #fetch(tablePfn: number, index: number): boolean {
    return this.#memory.fetch(tablePfn * PAGE_BYTES + index * ENTRY_BYTES, this.#entry);
  }
}

/** Whether an entry has any bit of a mask. */
export function anyBit(words: Int32Array, mask: Int32Array): boolean {
  for (let i = 0; i < mask.length; i++) if (((words[i] ?? 0) & (mask[i] ?? 0)) !== 0) return true;
  return false;
}

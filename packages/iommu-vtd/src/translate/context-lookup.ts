/**
 * Legacy mode: from a source-id to its binding, through root-entry and context-entry (§3.4.2, §9.1, §9.3).
 *
 * Order at each entry: access, present, reserved bits, meaning (§7.1.3). Each entry is fetched once, whole.
 */

import { type GuestMemory, PAGE_BYTES, reservedMask } from "@iommu-kit/iommu-core";
import { anyBit } from "../spec/word.js";
import { guestAddressBits, type UnitCapabilities } from "../spec/capabilities.js";
import { ContextEntry, contextEntryReserved } from "../spec/context-entry.js";
import { addressBitsOf, levelsOf, supportsAddressWidth, TranslationType } from "../spec/encodings.js";
import { FaultReason } from "../spec/fault-reasons.js";
import { CAP, ECAP } from "../spec/registers-capability.js";
import { RootEntry } from "../spec/root-entry.js";
import { type Binding, bindingOf, refusedBinding } from "./binding.js";

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
    this.#rootReserved = reservedMask(RootEntry, capabilities.hostAddressWidth);
    this.#contextReserved = contextEntryReserved(capabilities);
  }

  /** The binding of requests without PASID. */
  lookup(rootPfn: number, sourceId: number): Binding {
    const entry = this.#entry;
    if (!this.#fetch(rootPfn, sourceId >> 8)) return refusedBinding(FaultReason.LRT_1);
    if (RootEntry.fields.P.get(entry, 0) === 0) return refusedBinding(FaultReason.LRT_2);
    if (anyBit(entry, this.#rootReserved)) return refusedBinding(FaultReason.LRT_3);
    const tablePfn = RootEntry.fields.CTP.get(entry, 0);
    if (!this.#fetch(tablePfn, sourceId & 0xff)) return refusedBinding(FaultReason.LCT_1);
    return this.#decode();
  }

  /** Decodes the context-entry that was fetched. */
  #decode(): Binding {
    const entry = this.#entry;
    const { cap, ecap, hostAddressWidth } = this.#capabilities;
    const faultsDisabled = FPD.get(entry, 0) === 1;
    if (P.get(entry, 0) === 0) return refusedBinding(FaultReason.LCT_2, faultsDisabled);
    if (anyBit(entry, this.#contextReserved)) return refusedBinding(FaultReason.LCT_3, faultsDisabled);
    const type = TT.get(entry, 0);
    const deviceTlb = type === TranslationType.DEVICE_TLB;
    const passThrough = type === TranslationType.PASS_THROUGH;
    const known = type === TranslationType.UNTRANSLATED || deviceTlb || passThrough;
    const lacking =
      (deviceTlb && ECAP.fields.DT.get(ecap, 0) === 0) || (passThrough && ECAP.fields.PT.get(ecap, 0) === 0);
    if (!known || lacking) return refusedBinding(FaultReason.LCT_4_2, faultsDisabled);
    const aw = AW.get(entry, 0);
    if (!supportsAddressWidth(CAP.fields.SAGAW.get(cap, 0), aw)) {
      return refusedBinding(FaultReason.LCT_4_1, faultsDisabled);
    }
    const domainId = DID.get(entry, 0);
    if (passThrough) {
      // The architecture wants the widest AW here; real software that names another supported one works everywhere, so it does here.
      return bindingOf({ kind: "pass-through", faultsDisabled, domainId, limitPfn: 2 ** (hostAddressWidth - 12) });
    }
    return bindingOf({
      kind: "second-stage",
      faultsDisabled,
      domainId,
      rootPfn: SSPTPTR.get(entry, 0),
      levels: levelsOf(aw),
      limitPfn: 2 ** (Math.min(guestAddressBits(cap), addressBitsOf(aw)) - 12),
      deviceTlb,
    });
  }

  #fetch(tablePfn: number, index: number): boolean {
    return this.#memory.fetch(tablePfn * PAGE_BYTES + index * ENTRY_BYTES, this.#entry);
  }
}

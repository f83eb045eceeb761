/**
 * Scalable mode, second half: from a context and a PASID to a binding, through PASID directory and PASID table (§9.5, §9.6).
 *
 * The 64-byte entry is fetched once: a guest that tears it down clears P first and the rest later.
 */

import { type GuestMemory, PAGE_BYTES } from "@iommu-kit/iommu-core";
import { guestAddressBits, type UnitCapabilities } from "../spec/capabilities.js";
import {
  addressBitsOf,
  FirstStageMode,
  levelsOf,
  PasidTranslationType,
  supportsAddressWidth,
} from "../spec/encodings.js";
import { FaultReason } from "../spec/fault-reasons.js";
import { PasidDirectoryEntry, pasidDirectoryReserved, PasidEntry, pasidEntryReserved } from "../spec/pasid.js";
import { CAP, ECAP } from "../spec/registers-capability.js";
import { type Binding, type BindingKind, bindingOf, refusedBinding } from "./binding.js";
import { anyBit } from "../spec/word.js";
import type { ScalableContext } from "./scalable-context-lookup.js";

const DIRECTORY_ENTRY_BYTES = 8;
const TABLE_ENTRY_BYTES = 64;
const TABLE_ENTRIES = 64;
const entryFields = PasidEntry.fields;

/** Which request of a context. */
export interface PasidRequest {
  readonly pasid: number;
  readonly privileged: boolean;
  readonly execute: boolean;
}

/** Fetches and checks; nothing is cached here. */
export class PasidLookup {
  readonly #memory: GuestMemory;
  readonly #capabilities: UnitCapabilities;
  readonly #directoryReserved: Int32Array;
  readonly #entryReserved: Int32Array;
  readonly #directory = new Int32Array(2);
  readonly #entry = new Int32Array(16);

  constructor(memory: GuestMemory, capabilities: UnitCapabilities) {
    this.#memory = memory;
    this.#capabilities = capabilities;
    this.#directoryReserved = pasidDirectoryReserved(capabilities);
    this.#entryReserved = pasidEntryReserved(capabilities);
  }

  lookup(context: ScalableContext, request: PasidRequest): Binding {
    const { pasid } = request;
    const directory = this.#directory;
    const directoryGpa = context.directoryPfn * PAGE_BYTES + Math.floor(pasid / TABLE_ENTRIES) * DIRECTORY_ENTRY_BYTES;
    let disabled = context.faultsDisabled;
    if (!this.#memory.fetch(directoryGpa, directory)) return refusedBinding(FaultReason.SPD_1, disabled);
    disabled ||= PasidDirectoryEntry.fields.FPD.get(directory, 0) === 1;
    if (PasidDirectoryEntry.fields.P.get(directory, 0) === 0) return refusedBinding(FaultReason.SPD_2, disabled);
    if (anyBit(directory, this.#directoryReserved)) return refusedBinding(FaultReason.SPD_3, disabled);
    const tablePfn = PasidDirectoryEntry.fields.SMPTBLPTR.get(directory, 0);
    const gpa = tablePfn * PAGE_BYTES + (pasid % TABLE_ENTRIES) * TABLE_ENTRY_BYTES;
    if (!this.#memory.fetch(gpa, this.#entry)) return refusedBinding(FaultReason.SPT_1, disabled);
    disabled ||= entryFields.FPD.get(this.#entry, 0) === 1;
    if (entryFields.P.get(this.#entry, 0) === 0) return refusedBinding(FaultReason.SPT_2, disabled);
    if (anyBit(this.#entry, this.#entryReserved)) return refusedBinding(FaultReason.SPT_3, disabled);
    return this.#decode(request, disabled);
  }

  #decode(request: PasidRequest, faultsDisabled: boolean): Binding {
    const entry = this.#entry;
    const get = (field: keyof typeof entryFields): number => entryFields[field].get(entry, 0);
    const refuse = (reason: number): Binding => refusedBinding(reason, faultsDisabled);
    const kind = this.#kindOf(get("PGTT"));
    if (kind === "refused") return refuse(FaultReason.SPT_4_2);
    const { cap, ecap, hostAddressWidth } = this.#capabilities;
    const withSecond = kind === "second-stage" || kind === "nested";
    const withFirst = kind === "first-stage" || kind === "nested";
    const aw = get("AW");
    if (withSecond && !supportsAddressWidth(CAP.fields.SAGAW.get(cap, 0), aw)) return refuse(FaultReason.SPT_4_1);
    const limitBits = withSecond ? Math.min(guestAddressBits(cap), addressBitsOf(aw)) : hostAddressWidth;
    const mode = get("FSPM");
    const fiveLevels = mode === FirstStageMode.FIVE_LEVEL && CAP.fields.FS5LP.get(cap, 0) === 1;
    if (withFirst && mode !== FirstStageMode.FOUR_LEVEL && !fiveLevels) return refuse(FaultReason.SPT_4_3);
    const limitPfn = 2 ** (limitBits - 12);
    if (kind === "nested" && get("FSPTPTR") >= limitPfn) return refuse(FaultReason.SPT_4_4);
    if (request.execute) return refuse(FaultReason.SPT_5);
    if (request.privileged && get("SRE") === 0) return refuse(FaultReason.SPT_6);
    return bindingOf({
      kind,
      faultsDisabled,
      scalable: true,
      domainId: get("DID"),
      pasid: request.pasid,
      privileged: request.privileged,
      rootPfn: withSecond ? get("SSPTPTR") : 0,
      levels: withSecond ? levelsOf(aw) : 0,
      limitPfn,
      secondStageFlags: withSecond && get("SSADE") === 1,
      firstRootPfn: withFirst ? get("FSPTPTR") : 0,
      firstLevels: withFirst ? (fiveLevels ? 5 : 4) : 0,
      writeProtect: get("WPE") === 1,
      extendedAccessed: withFirst && get("EAFE") === 1,
      snooped: ECAP.fields.SMPWCS.get(ecap, 0) === 1 && get("PWSNP") === 1,
      pageSnoop: get("PGSNP") === 1,
    });
  }

  /** What a PGTT means on this unit; `refused` for a reserved or missing type. */
  #kindOf(type: number): BindingKind {
    const { FSTS, SSTS, NEST, PT } = ECAP.fields;
    const has = (field: typeof PT): boolean => field.get(this.#capabilities.ecap, 0) === 1;
    if (type === PasidTranslationType.FIRST_STAGE && has(FSTS)) return "first-stage";
    if (type === PasidTranslationType.SECOND_STAGE && has(SSTS)) return "second-stage";
    if (type === PasidTranslationType.NESTED && has(NEST)) return "nested";
    return type === PasidTranslationType.PASS_THROUGH && has(PT) ? "pass-through" : "refused";
  }
}

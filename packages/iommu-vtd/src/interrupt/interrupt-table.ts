/**
 * Fetches and decodes interrupt remapping entries (§9.9, §9.10): access, present, reserved bits, in that order. One 16-byte fetch.
 */

import { type GuestMemory, type MsiMessage, PAGE_BYTES } from "@iommu-kit/iommu-core";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { FaultReason } from "../spec/fault-reasons.js";
import {
  CompatibilityAddress,
  CompatibilityData,
  DeliveryMode,
  MESSAGE_WINDOW,
  SourceValidation,
} from "../spec/interrupt.js";
import {
  destinationOf,
  PostedEntry,
  postedDescriptorGpa,
  postedEntryReserved,
  RemappedEntry,
  remappedEntryReserved,
} from "../spec/interrupt-entry.js";
import type { InterruptEntry, SourceRule } from "./interrupt-entry-cache.js";
import { anyBit, wordAt } from "../spec/word.js";

const ENTRY_BYTES = 16;
const { P, FPD, IM, SVT, SQ, SID, DLM } = RemappedEntry.fields;

/** What has been latched of IRTA. */
export interface InterruptPointer {
  /** IRE, as commanded. */
  enabled: boolean;
  /** Entries in the table. */
  entryCount: number;
  /** 32-bit destinations. */
  extended: boolean;
  /** Frame of the table. */
  tablePfn: number;
  /** CFI: compatibility-format messages pass. */
  compatibility: boolean;
}

/** A decoded entry, or why there is none. */
export type EntryResult =
  | { readonly entry: InterruptEntry }
  | { readonly reason: number; readonly faultsDisabled: boolean };

/** Reads entries for one unit; nothing is cached here. */
export class InterruptTable {
  readonly #memory: GuestMemory;
  readonly #hostFrames: number;
  readonly #remappedReserved: readonly [Int32Array, Int32Array];
  readonly #postedReserved: Int32Array;
  readonly #words = new Int32Array(4);

  constructor(memory: GuestMemory, capabilities: UnitCapabilities) {
    this.#memory = memory;
    this.#hostFrames = 2 ** (capabilities.hostAddressWidth - 12);
    this.#remappedReserved = [remappedEntryReserved(false), remappedEntryReserved(true)];
    this.#postedReserved = postedEntryReserved(capabilities);
  }

  /** The entry at an index below `pointer.entryCount`. */
  fetch(pointer: InterruptPointer, index: number): EntryResult {
    const words = this.#words;
    if (pointer.tablePfn >= this.#hostFrames) return { reason: FaultReason.INTERRUPT_INDEX, faultsDisabled: false };
    if (!this.#memory.fetch(pointer.tablePfn * PAGE_BYTES + index * ENTRY_BYTES, words)) {
      return { reason: FaultReason.INTERRUPT_ENTRY_ACCESS, faultsDisabled: false };
    }
    const faultsDisabled = FPD.get(words, 0) === 1;
    if (P.get(words, 0) === 0) return { reason: FaultReason.INTERRUPT_NOT_PRESENT, faultsDisabled };
    const posted = IM.get(words, 0) === 1;
    const reserved = posted ? this.#postedReserved : this.#remappedReserved[pointer.extended ? 1 : 0];
    if (
      anyBit(words, reserved) ||
      SVT.get(words, 0) > SourceValidation.BUS_RANGE ||
      (!posted && !isDeliveryMode(DLM.get(words, 0)))
    ) {
      return { reason: FaultReason.INTERRUPT_ENTRY_RESERVED, faultsDisabled };
    }
    const sourceValidation: SourceRule = {
      type: SVT.get(words, 0),
      qualifier: SQ.get(words, 0),
      sourceId: SID.get(words, 0),
    };
    return {
      entry: posted
        ? this.#posted(sourceValidation, faultsDisabled)
        : this.#remapped(pointer.extended, sourceValidation, faultsDisabled),
    };
  }

  #remapped(extended: boolean, sourceValidation: SourceRule, faultsDisabled: boolean): InterruptEntry {
    const words = this.#words;
    const { DM, RH, TM, V, DST } = RemappedEntry.fields;
    return {
      kind: "remapped",
      sourceValidation,
      faultsDisabled,
      message: interruptMessage({
        destination: destinationOf(DST.get(words, 0), extended),
        logical: DM.get(words, 0),
        redirection: RH.get(words, 0),
        levelTriggered: TM.get(words, 0),
        deliveryMode: DLM.get(words, 0),
        vector: V.get(words, 0),
      }),
    };
  }

  #posted(sourceValidation: SourceRule, faultsDisabled: boolean): InterruptEntry {
    const { V, URG } = PostedEntry.fields;
    const words = this.#words;
    return {
      kind: "posted",
      sourceValidation,
      faultsDisabled,
      vector: V.get(words, 0),
      urgent: URG.get(words, 0) === 1,
      descriptorGpa: postedDescriptorGpa(words, 0),
    };
  }
}

/** What an interrupt is, in the terms of the local APICs. */
export interface InterruptTarget {
  /** 8 bits, or 32 in extended mode. */
  readonly destination: number;
  readonly logical: number;
  readonly redirection: number;
  readonly levelTriggered: number;
  readonly deliveryMode: number;
  readonly vector: number;
}

/** The message for an interrupt: destination bits 31:8 travel in the upper address (§5.1.6). */
export function interruptMessage(target: InterruptTarget): MsiMessage {
  const address = CompatibilityAddress.pack({
    WINDOW: MESSAGE_WINDOW,
    DEST: target.destination & 0xff,
    RH: target.redirection,
    DM: target.logical,
  });
  const data = CompatibilityData.pack({
    V: target.vector,
    DLM: target.deliveryMode,
    LEVEL: 1,
    TM: target.levelTriggered,
  });
  return Object.freeze({
    address: wordAt(address, 0) >>> 0,
    addressHigh: (target.destination & ~0xff) >>> 0,
    data: wordAt(data, 0) >>> 0,
  });
}

function isDeliveryMode(value: number): boolean {
  return Object.values<number>(DeliveryMode).includes(value);
}

/**
 * Flow of a message: from a device's write into the interrupt window to the message that leaves the unit (§5.1.4).
 *
 * Remapping off -> pass. Format -> index -> entry (cache or table) -> source check -> remapped message or posting. Every refusal becomes a recorded fault here.
 */

import type { GuestMemory, MsiMessage, MsiSink } from "@iommu-kit/iommu-core";
import type { FaultLog } from "../fault/fault-log.js";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { FaultReason, isQualified } from "../spec/fault-reasons.js";
import { CompatibilityAddress, RemappableAddress, RemappableData, SourceValidation } from "../spec/interrupt.js";
import { ignoredFunctionBits } from "../spec/invalidation.js";
import { ECAP } from "../spec/registers-capability.js";
import { FaultRequestType, interruptFaultInformation } from "../spec/registers-event.js";
import { AddressType } from "../spec/encodings.js";
import { type InterruptEntry, InterruptEntryCache, type SourceRule } from "./interrupt-entry-cache.js";
import { type InterruptPointer, InterruptTable } from "./interrupt-table.js";
import { InterruptPosting } from "./posted-interrupt.js";

/** What a host that caches routes learns. */
export interface RemapResult {
  /** 0, or a fault reason. */
  readonly reason: number;
  /** What leaves the unit; `undefined` when refused, posted without notification, or posted. */
  readonly message: MsiMessage | undefined;
}

interface Refusal {
  readonly reason: number;
  readonly index: number;
  readonly faultsDisabled: boolean;
}

/** What remapping works with. */
export interface RemapParts {
  readonly memory: GuestMemory;
  readonly capabilities: UnitCapabilities;
  readonly faults: FaultLog;
  readonly entryCount: number;
  readonly send: MsiSink;
}

/** See the file's header. */
export class InterruptRemap {
  readonly pointer: InterruptPointer = {
    enabled: false,
    entryCount: 0,
    extended: false,
    tablePfn: 0,
    compatibility: false,
  };
  readonly cache: InterruptEntryCache;
  readonly #table: InterruptTable;
  readonly #posting: InterruptPosting;
  readonly #parts: RemapParts;
  readonly #words = new Int32Array(2);

  constructor(parts: RemapParts) {
    this.#parts = parts;
    this.cache = new InterruptEntryCache(parts.entryCount);
    this.#table = new InterruptTable(parts.memory, parts.capabilities);
    this.#posting = new InterruptPosting(parts.memory);
  }

  /** A message of a requester (`undefined`: one without a requester-id, which no source check can refuse). `false`: refused. */
  request(requesterId: number | undefined, message: MsiMessage): boolean {
    const refusal = this.#deliver(requesterId, message);
    if (refusal === undefined) return true;
    if (!refusal.faultsDisabled || !isQualified(refusal.reason))
      this.#record(requesterId ?? 0, refusal.reason, refusal.index);
    return false;
  }

  /** Translates a message for a host that caches routes: no delivery, no posting, no fault record. Valid until the next interrupt-entry invalidation of its index. */
  translate(requesterId: number | undefined, message: MsiMessage): RemapResult {
    if (!this.pointer.enabled) return { reason: 0, message };
    const found = this.#find(requesterId, message);
    if ("reason" in found) return { reason: found.reason, message: undefined };
    return { reason: 0, message: found.entry === undefined ? message : messageOf(found.entry) };
  }

  /** A request to the window that is not an interrupt: reason 29h. */
  malformed(requesterId: number): void {
    this.#record(requesterId, FaultReason.INTERRUPT_MALFORMED, -1);
  }

  #deliver(requesterId: number | undefined, message: MsiMessage): Refusal | undefined {
    const { send, capabilities } = this.#parts;
    if (!this.pointer.enabled) {
      if (ECAP.fields.IRREQ.get(capabilities.ecap, 0) === 1) return unindexed(FaultReason.INTERRUPT_REMAPPING_REQUIRED);
      send(message);
      return undefined;
    }
    const found = this.#find(requesterId, message);
    if ("reason" in found) return found;
    const { entry, index } = found;
    if (entry === undefined) {
      send(message);
      return undefined;
    }
    if (entry.kind === "remapped") {
      send(messageOf(entry) ?? message);
      return undefined;
    }
    const posted = this.#posting.post(entry, this.pointer.extended);
    if (typeof posted === "number") return { reason: posted, index, faultsDisabled: entry.faultsDisabled };
    if (posted !== undefined) send(posted);
    return undefined;
  }

  /** The entry for a message, or `undefined` for one that passes as it is, or why it is refused. */
  #find(
    requesterId: number | undefined,
    message: MsiMessage,
  ): Refusal | { readonly entry: InterruptEntry | undefined; readonly index: number } {
    const { pointer } = this;
    const words = this.#words;
    words[0] = message.address;
    words[1] = message.data;
    if (ECAP.fields.EIMER.get(this.#parts.capabilities.ecap, 0) === 1 && !pointer.extended)
      return unindexed(FaultReason.INTERRUPT_EXTENDED_REQUIRED);
    if (CompatibilityAddress.fields.FORMAT.get(words, 0) === 0) {
      const passes = pointer.compatibility && !pointer.extended;
      return passes ? { entry: undefined, index: 0 } : unindexed(FaultReason.INTERRUPT_COMPATIBILITY);
    }
    const { HANDLE_HI, HANDLE_LO, SHV } = RemappableAddress.fields;
    const handle = HANDLE_HI.get(words, 0) * 2 ** 15 + HANDLE_LO.get(words, 0);
    const withSubhandle = SHV.get(words, 0) === 1;
    const stray = withSubhandle && (RemappableData.mask(RESERVED_BITS)[0] ?? 0) & message.data;
    if (message.addressHigh !== 0 || stray) return unindexed(FaultReason.INTERRUPT_REQUEST_RESERVED);
    // The sum does not wrap at 16 bits: 65535 + 1 is out of range.
    const index = handle + (withSubhandle ? RemappableData.fields.SUBHANDLE.get(words, 1) : 0);
    if (index >= pointer.entryCount) return { reason: FaultReason.INTERRUPT_INDEX, index, faultsDisabled: false };
    return this.#checked(requesterId, index);
  }

  #checked(
    requesterId: number | undefined,
    index: number,
  ): Refusal | { readonly entry: InterruptEntry; readonly index: number } {
    let entry = this.cache.lookup(index);
    if (entry === undefined) {
      const result = this.#table.fetch(this.pointer, index);
      if ("reason" in result) return { ...result, index };
      entry = result.entry;
      this.cache.fill(index, entry);
    }
    if (requesterId !== undefined && !allows(entry.sourceValidation, requesterId)) {
      return { reason: FaultReason.INTERRUPT_SOURCE, index, faultsDisabled: entry.faultsDisabled };
    }
    return { entry, index };
  }

  #record(sourceId: number, reason: number, index: number): void {
    this.#parts.faults.record({
      reason,
      sourceId,
      pasid: undefined,
      information: index < 0 || index > 0xffff ? 0 : interruptFaultInformation(index),
      requestType: FaultRequestType.WRITE,
      addressType: AddressType.UNTRANSLATED,
      privileged: false,
      execute: false,
    });
  }
}

const RESERVED_BITS = 16;

function unindexed(reason: number): Refusal {
  return { reason, index: -1, faultsDisabled: false };
}

function messageOf(entry: InterruptEntry): MsiMessage | undefined {
  return entry.kind === "remapped"
    ? { address: entry.address, addressHigh: entry.addressHigh, data: entry.data }
    : undefined;
}

/** Source validation (§9.9): none, one source-id under a mask, or a range of buses. */
function allows(rule: SourceRule, requesterId: number): boolean {
  if (rule.type === SourceValidation.NONE) return true;
  if (rule.type === SourceValidation.SOURCE_ID)
    return ((rule.sourceId ^ requesterId) & ~ignoredFunctionBits(rule.qualifier)) === 0;
  const bus = requesterId >> 8;
  return bus >= rule.sourceId >> 8 && bus <= (rule.sourceId & 0xff);
}

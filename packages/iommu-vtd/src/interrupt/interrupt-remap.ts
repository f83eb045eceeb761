/**
 * Flow of a message: from a device's write into the interrupt window to the message that leaves the unit (§5.1.4).
 *
 * Remapping off -> pass. Format -> index -> entry (cache or table) -> source check -> remapped message or posting. Every refusal becomes a recorded fault here.
 */

import { BitAccess, type GuestMemory, type MsiMessage, type MsiSink } from "@iommu-kit/iommu-core";
import type { FaultLog } from "../fault/fault-log.js";
import type { UnitCapabilities } from "../spec/capabilities.js";
import { FaultReason, isQualified } from "../spec/fault-reasons.js";
import { RemappableAddress, RemappableData, SourceValidation } from "../spec/interrupt.js";
import { ignoredFunctionBits } from "../spec/invalidation.js";
import { FaultRequestType, interruptFaultInformation } from "../spec/registers-event.js";
import { AddressType } from "../spec/encodings.js";
import {
  type InterruptEntry,
  InterruptEntryCache,
  type PostedInterrupt,
  type SourceRule,
} from "./interrupt-entry-cache.js";
import { type InterruptPointer, InterruptTable } from "./interrupt-table.js";
import { InterruptPosting } from "./posted-interrupt.js";

/** What a host that caches routes learns. */
export interface RemapResult {
  /** 0, or a fault reason. */
  readonly reason: number;
  /** What leaves the unit; `undefined` when refused, posted without notification, or posted. */
  readonly message: MsiMessage | undefined;
}

/** Interrupt entries that the guest has invalidated. */
export interface ChangedRoutes {
  /** The first index. */
  readonly first: number;
  /** Indexes, 1 to 2^31. */
  readonly count: number;
}

/** What remapping works with. */
export interface RemapParts {
  readonly memory: GuestMemory;
  readonly capabilities: UnitCapabilities;
  readonly faults: FaultLog;
  readonly entryCount: number;
  readonly send: MsiSink;
  /** Tells the host which entries have changed; `undefined`: all may have. */
  readonly routesChanged: (changed: ChangedRoutes | undefined) => void;
}

/** The requester of a message whose sender has no source-id yet, beyond the 16 bits of one: no entry that validates the source allows it. */
export const UNLOCATED = 0x1_0000;

const { HANDLE_HI, HANDLE_LO, SHV, FORMAT } = RemappableAddress.fields;
const { SUBHANDLE } = RemappableData.fields;
/** A remappable message without subhandle: its address alone names the entry. */
const PLAIN_MASK = FORMAT.mask | SHV.mask;
/** From handle bit 15 in the address to its place in the index. */
const HANDLE_HI_SHIFT = 15 - HANDLE_HI.shift;
/** Bits of the data that a message with a subhandle must not have. */
const STRAY_DATA = RemappableData.mask(BitAccess.RESERVED)[0] ?? 0;

/** Remaps the messages of one unit, with a cache of entries that invalidations empty. */
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
  readonly #faults: FaultLog;
  readonly #send: MsiSink;
  readonly #routesChanged: RemapParts["routesChanged"];
  readonly #words = new Int32Array(2);
  // What the last `#find` found: its index (-1: none was named), its entry (none for a message that passes as it is), and FPD of an entry that refused.
  #index = -1;
  #entry: InterruptEntry | undefined;
  #faultsDisabled = false;

  constructor(parts: RemapParts) {
    this.#faults = parts.faults;
    this.#send = parts.send;
    this.#routesChanged = parts.routesChanged;
    this.cache = new InterruptEntryCache(parts.entryCount);
    this.#table = new InterruptTable(parts.memory, parts.capabilities);
    this.#posting = new InterruptPosting(parts.memory);
  }

  /** Messages to these indexes, or all, may become others than before: cached entries go, then the host hears of it. */
  changed(routes: ChangedRoutes | undefined): void {
    this.cache.invalidate(routes);
    this.#routesChanged(routes);
  }

  /** A message of a requester (`undefined`: one without a requester-id, which no source check can refuse; or `UNLOCATED`). `false`: refused. */
  request(requesterId: number | undefined, message: MsiMessage): boolean {
    const ready = requesterId === undefined ? undefined : this.#cached(requesterId, message);
    if (ready === undefined) return this.#judge(requesterId, message);
    this.#send(ready);
    return true;
  }

  /**
   * What a plain message of this requester becomes, if the cache says so at the first look. What the pointer could refuse was checked when the entry was cached: latching
   * another pointer drops all entries, and while remapping is off there are none.
   */
  #cached(requesterId: number, message: MsiMessage): MsiMessage | undefined {
    const { address } = message;
    if ((address & PLAIN_MASK) !== FORMAT.mask || message.addressHigh !== 0) return undefined;
    const index = ((address & HANDLE_LO.mask) >>> HANDLE_LO.shift) | ((address & HANDLE_HI.mask) << HANDLE_HI_SHIFT);
    return this.cache.messageOf(index, requesterId);
  }

  #judge(requesterId: number | undefined, message: MsiMessage): boolean {
    if (!this.pointer.enabled) {
      this.#send(message);
      return true;
    }
    const reason = this.#remap(requesterId, message);
    if (reason === 0) return true;
    if (!this.#faultsDisabled || !isQualified(reason)) this.#record((requesterId ?? 0) & 0xffff, reason, this.#index);
    return false;
  }

  /** Translates a message for a host that caches routes: no delivery, no posting, no fault record. See `VtdIommu.translateInterrupt` for how long it holds. */
  translate(requesterId: number | undefined, message: MsiMessage): RemapResult {
    if (!this.pointer.enabled) return { reason: 0, message };
    const reason = this.#find(requesterId, message);
    if (reason !== 0) return { reason, message: undefined };
    const entry = this.#entry;
    if (entry === undefined) return { reason: 0, message };
    return { reason: 0, message: entry.kind === "remapped" ? entry.message : undefined };
  }

  /** A request to the window that is not an interrupt: reason 29h. */
  malformed(requesterId: number): void {
    this.#record(requesterId, FaultReason.INTERRUPT_MALFORMED, -1);
  }

  /** Remaps and delivers; answers 0 or a reason. */
  #remap(requesterId: number | undefined, message: MsiMessage): number {
    const reason = this.#find(requesterId, message);
    if (reason !== 0) return reason;
    const entry = this.#entry;
    if (entry?.kind === "posted") return this.#post(entry);
    this.#send(entry === undefined ? message : entry.message);
    return 0;
  }

  #post(entry: PostedInterrupt): number {
    const posted = this.#posting.post(entry, this.pointer.extended);
    if (typeof posted === "number") {
      this.#faultsDisabled = entry.faultsDisabled;
      return posted;
    }
    if (posted !== undefined) this.#send(posted);
    return 0;
  }

  /** Finds the entry for a message; answers 0 or a reason. Checks format, reserved bits, index, entry, source, in that order. */
  #find(requesterId: number | undefined, message: MsiMessage): number {
    const { pointer } = this;
    const words = this.#words;
    words[0] = message.address;
    words[1] = message.data;
    this.#index = -1;
    this.#entry = undefined;
    this.#faultsDisabled = false;
    if (FORMAT.get(words, 0) === 0)
      return pointer.compatibility && !pointer.extended ? 0 : FaultReason.INTERRUPT_COMPATIBILITY;
    const withSubhandle = SHV.get(words, 0) === 1;
    if (message.addressHigh !== 0 || (withSubhandle && (message.data & STRAY_DATA) !== 0))
      return FaultReason.INTERRUPT_REQUEST_RESERVED;
    // The sum does not wrap at 16 bits: 65535 + 1 is out of range.
    const handle = HANDLE_HI.get(words, 0) * 2 ** 15 + HANDLE_LO.get(words, 0);
    const index = handle + (withSubhandle ? SUBHANDLE.get(words, 1) : 0);
    this.#index = index;
    if (index >= pointer.entryCount) return FaultReason.INTERRUPT_INDEX;
    const entry = this.cache.lookup(index);
    return entry === undefined ? this.#fetch(requesterId, index) : this.#check(requesterId, entry);
  }

  #fetch(requesterId: number | undefined, index: number): number {
    const result = this.#table.fetch(this.pointer, index);
    if ("reason" in result) {
      this.#faultsDisabled = result.faultsDisabled;
      return result.reason;
    }
    this.cache.fill(index, result.entry);
    return this.#check(requesterId, result.entry);
  }

  #check(requesterId: number | undefined, entry: InterruptEntry): number {
    this.#entry = entry;
    if (requesterId === undefined || allows(entry.sourceValidation, requesterId)) return 0;
    this.#faultsDisabled = entry.faultsDisabled;
    return FaultReason.INTERRUPT_SOURCE;
  }

  #record(sourceId: number, reason: number, index: number): void {
    this.#faults.record({
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

/** Source validation (§9.9): none, one source-id under a mask, or a range of buses. */
function allows(rule: SourceRule, requesterId: number): boolean {
  if (rule.type === SourceValidation.NONE) return true;
  if (requesterId === UNLOCATED) return false;
  if (rule.type === SourceValidation.SOURCE_ID)
    return ((rule.sourceId ^ requesterId) & ~ignoredFunctionBits(rule.qualifier)) === 0;
  const bus = requesterId >> 8;
  return bus >= rule.sourceId >> 8 && bus <= (rule.sourceId & 0xff);
}

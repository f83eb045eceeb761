/**
 * Fault recording registers and fault status: primary fault logging (§7.2.1), the fault event (§7.3).
 *
 * PPF is derived from the F bits whenever one changes. The record to be written next starts at 0 and starts over when translation and
 * interrupt remapping are both off.
 */

import type { RegisterFile } from "../registers/register-file.js";
import { faultCode } from "../spec/fault-reasons.js";
import { FRCD, FSTS } from "../spec/registers-event.js";
import { type EventDelivery, EventMessage, FAULT_EVENT } from "./event-message.js";

/** What a record says. */
export interface FaultRecord {
  readonly reason: number;
  readonly sourceId: number;
  readonly pasid: number | undefined;
  /** FI: the input page, or the interrupt index in its place. */
  readonly information: number;
  /** `FaultRequestType`. */
  readonly requestType: number;
  /** `AddressType`. */
  readonly addressType: number;
  readonly privileged: boolean;
  readonly execute: boolean;
}

/** Status bits of FSTS that raise the fault event. */
export type StatusBit = "IQE" | "ICE" | "ITE";

const record = FRCD.fields;
const status = FSTS.fields;

/** The fault records of one unit: `record` writes one or overflows, `raise` sets a status bit of another cause; both send the fault event when it is due. */
export class FaultLog {
  readonly event: EventMessage;
  readonly #file: RegisterFile;
  readonly #recordCount: number;
  readonly #firstWord: number;
  #next = 0;

  constructor(file: RegisterFile, recordCount: number, delivery: EventDelivery) {
    this.#file = file;
    this.#recordCount = recordCount;
    this.#firstWord = file.wordOf("FRCD");
    this.event = new EventMessage(file, FAULT_EVENT, delivery);
  }

  /** The record that is written next. */
  get next(): number {
    return this.#next;
  }

  set next(index: number) {
    this.#next = index;
  }

  /** Records a fault, if there is room. */
  record(fault: FaultRecord): void {
    const { words } = this.#file;
    if (this.#status("PFO")) return;
    // Compression: a second fault of a requester whose first one has not been read says nothing new.
    for (let index = 0; index < this.#recordCount; index++) {
      const at = this.#wordOf(index);
      if (record.F.get(words, at) === 1 && record.SID.get(words, at) === fault.sourceId) return;
    }
    const at = this.#wordOf(this.#next);
    if (record.F.get(words, at) === 1) {
      this.#file.set("FSTS", status.PFO, 1);
      return;
    }
    this.#write(at, fault);
    const index = this.#next;
    this.#next = (index + 1) % this.#recordCount;
    if (this.#status("PPF")) return;
    const quiet = !this.#anyStatus();
    this.#file.set("FSTS", status.FRI, index);
    this.#file.set("FSTS", status.PPF, 1);
    if (quiet) this.event.raise();
  }

  /** Sets an error bit of the invalidation queue. */
  raise(bit: StatusBit): void {
    const quiet = !this.#anyStatus();
    this.#file.set("FSTS", status[bit], 1);
    if (quiet) this.event.raise();
  }

  /** Software wrote FSTS or cleared F bits. */
  statusWritten(): void {
    let pending = 0;
    for (let index = 0; index < this.#recordCount; index++)
      pending |= record.F.get(this.#file.words, this.#wordOf(index));
    this.#file.set("FSTS", status.PPF, pending);
    if (!this.#anyStatus()) this.event.serviced();
  }

  /** Word indexes whose writes clear F bits. */
  get flagWords(): number[] {
    return Array.from({ length: this.#recordCount }, (_, index) => this.#wordOf(index) + record.F.word);
  }

  #write(at: number, fault: FaultRecord): void {
    const { words } = this.#file;
    words.fill(0, at, at + FRCD.wordCount);
    record.FI.set(words, at, fault.information);
    record.SID.set(words, at, fault.sourceId);
    record.FR.set(words, at, faultCode(fault.reason));
    record.AT.set(words, at, fault.addressType);
    record.T1.set(words, at, fault.requestType >> 1);
    record.T2.set(words, at, fault.requestType & 1);
    if (fault.pasid !== undefined) {
      record.PP.set(words, at, 1);
      record.PV.set(words, at, fault.pasid);
      record.PRIV.set(words, at, fault.privileged ? 1 : 0);
      record.EXE.set(words, at, fault.execute ? 1 : 0);
    }
    record.F.set(words, at, 1);
  }

  #wordOf(index: number): number {
    return this.#firstWord + index * FRCD.wordCount;
  }

  #status(bit: "PFO" | "PPF"): boolean {
    return this.#file.get("FSTS", status[bit]) === 1;
  }

  #anyStatus(): boolean {
    const { PFO, PPF, IQE, ICE, ITE } = status;
    return [PFO, PPF, IQE, ICE, ITE].some((field) => this.#file.get("FSTS", field) === 1);
  }
}

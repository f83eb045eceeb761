/**
 * One of the unit's own interrupts: control, data and address registers, and the rules of masking (§7.3, §6.5.2.10, §7.5).
 *
 * IP holds a message back while IM is set; unmasking sends it; when everything it reported has been cleared it is dropped. These messages are never remapped.
 */

import type { MsiSink } from "@iommu-kit/iommu-core";
import type { RegisterFile } from "../registers/register-file.js";
import { EventAddress, EventControl, EventData, EventUpperAddress } from "../spec/registers-event.js";
import type { RegisterName } from "../spec/registers.js";

/** The four registers of an event. */
export interface EventRegisters {
  readonly control: RegisterName;
  readonly data: RegisterName;
  readonly address: RegisterName;
  readonly upperAddress: RegisterName;
}

/** Registers of the fault event. */
export const FAULT_EVENT: EventRegisters = {
  control: "FECTL",
  data: "FEDATA",
  address: "FEADDR",
  upperAddress: "FEUADDR",
};
/** Registers of the invalidation completion event. */
export const COMPLETION_EVENT: EventRegisters = {
  control: "IECTL",
  data: "IEDATA",
  address: "IEADDR",
  upperAddress: "IEUADDR",
};
/** Registers of the page request event. */
export const PAGE_REQUEST_EVENT: EventRegisters = {
  control: "PECTL",
  data: "PEDATA",
  address: "PEADDR",
  upperAddress: "PEUADDR",
};

const { IP, IM } = EventControl.fields;

/** See the file's header. */
export class EventMessage {
  readonly #file: RegisterFile;
  readonly #registers: EventRegisters;
  readonly #send: MsiSink;

  constructor(file: RegisterFile, registers: EventRegisters, send: MsiSink) {
    this.#file = file;
    this.#registers = registers;
    this.#send = send;
  }

  /** A condition arose while none was pending. */
  raise(): void {
    this.#file.set(this.#registers.control, IP, 1);
    this.controlWritten();
  }

  /** Software wrote the control register: unmasking sends what waits. */
  controlWritten(): void {
    const { control, data, address, upperAddress } = this.#registers;
    if (this.#file.get(control, IP) === 0 || this.#file.get(control, IM) === 1) return;
    this.#file.set(control, IP, 0);
    this.#send({
      address: this.#file.get(address, EventAddress.fields.MA) * 4,
      addressHigh: this.#file.get(upperAddress, EventUpperAddress.fields.MUA),
      data: this.#file.get(data, EventData.fields.IMD),
    });
  }

  /** Everything that was reported has been cleared. */
  serviced(): void {
    this.#file.set(this.#registers.control, IP, 0);
  }
}

/**
 * One of the unit's own interrupts: control, data and address registers, and the rules of masking (§7.3, §6.5.2.10, §7.5).
 *
 * IP holds a message back while IM is set; unmasking sends it; when everything it reported has been cleared it is dropped. These messages are never remapped.
 * A host may have messages of an event keep a distance: one that comes sooner is held back in the same way, by a condition of the hardware (§11.4.7.2, IP).
 */

import type { MsiSink, Scheduler } from "@iommu-kit/iommu-core";
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

/** Where messages go, and how far apart they keep. */
export interface EventDelivery {
  readonly send: MsiSink;
  readonly scheduler: Scheduler;
  /** Milliseconds; 0: no distance. */
  readonly intervalMilliseconds: number;
  /** Cancels what waits for its distance, for all events of the unit. */
  readonly resting: Set<() => void>;
}

/** One event of a unit, over its four registers. */
export class EventMessage {
  readonly #file: RegisterFile;
  readonly #registers: EventRegisters;
  readonly #delivery: EventDelivery;
  /** A message went out less than the interval ago. */
  #resting = false;

  constructor(file: RegisterFile, registers: EventRegisters, delivery: EventDelivery) {
    this.#file = file;
    this.#registers = registers;
    this.#delivery = delivery;
  }

  /** A condition arose while none was pending. */
  raise(): void {
    this.#file.set(this.#registers.control, IP, 1);
    this.controlWritten();
  }

  /** Software wrote the control register: unmasking sends what waits. */
  controlWritten(): void {
    if (!this.#due) return;
    const { control, data, address, upperAddress } = this.#registers;
    this.#file.set(control, IP, 0);
    this.#rest();
    this.#delivery.send({
      address: this.#file.get(address, EventAddress.fields.MA) * 4,
      addressHigh: this.#file.get(upperAddress, EventUpperAddress.fields.MUA),
      data: this.#file.get(data, EventData.fields.IMD),
    });
  }

  /** Everything that was reported has been cleared. */
  serviced(): void {
    this.#file.set(this.#registers.control, IP, 0);
  }

  /** The registers are those of a snapshot: a message that was held back for its distance keeps it from now on. */
  restored(): void {
    if (!this.#due) return;
    this.#rest();
    this.controlWritten();
  }

  /** Whether a message waits for nothing any more. */
  get #due(): boolean {
    const { control } = this.#registers;
    return !this.#resting && this.#file.get(control, IP) === 1 && this.#file.get(control, IM) === 0;
  }

  #rest(): void {
    const { scheduler, intervalMilliseconds, resting } = this.#delivery;
    if (intervalMilliseconds === 0) return;
    this.#resting = true;
    const cancel = scheduler.after(intervalMilliseconds, () => {
      this.#resting = false;
      resting.delete(cancel);
      this.controlWritten();
    });
    resting.add(cancel);
  }
}

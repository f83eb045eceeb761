/**
 * One fault recording register, the fault status and the fault event (§7.2.1, §7.3), as numbers.
 */

import type { DeviationName, Traits } from "../deviations.js";

/** A fault to record. */
export interface Fault {
  readonly reason: number;
  readonly sourceId: number;
  readonly iovaPfn: number;
  readonly write: boolean;
}

const F = 0x8000_0000;

/** See the file's header. */
export class FaultRegisters {
  /** Words of the record. */
  readonly record = [0, 0, 0, 0];
  overflow = false;
  queueError = false;
  masked = true;
  pending = false;
  /** What made the record other than the architecture would. */
  cause: DeviationName | undefined;
  /** What made the pending bit other. */
  pendingCause: DeviationName | undefined;
  readonly #traits: Traits;
  readonly #widestFrames: number;

  constructor(traits: Traits, widestTableBits: number) {
    this.#traits = traits;
    this.#widestFrames = 2 ** (widestTableBits - 12);
  }

  get status(): number {
    return (this.overflow ? 1 : 0) + (this.full ? 2 : 0) + (this.queueError ? 16 : 0);
  }

  get full(): boolean {
    return (this.record[3] ?? 0) >= F;
  }

  /** Records a fault; `cause` is the trait without which it would not be one. */
  add(fault: Fault, cause: DeviationName | undefined): void {
    if (this.overflow) return;
    if (this.full) {
      if (this.record[2] === fault.sourceId) return;
      this.overflow = true;
      if (cause !== undefined) this.cause = cause;
      return;
    }
    const quiet = this.status === 0;
    const allBits = this.#traits.has("fault-address-above-widest-table");
    const pfn = allBits ? fault.iovaPfn : fault.iovaPfn % this.#widestFrames;
    this.record[0] = (pfn % 2 ** 20) * 4096;
    this.record[1] = Math.floor(pfn / 2 ** 20);
    this.record[2] = fault.sourceId;
    this.record[3] = F + (fault.write ? 0 : 0x4000_0000) + fault.reason;
    this.cause = cause ?? (pfn >= this.#widestFrames ? "fault-address-above-widest-table" : undefined);
    if (quiet) this.#event();
  }

  /** The queue found an error. */
  fail(): void {
    const quiet = this.status === 0;
    this.queueError = true;
    if (quiet) this.#event();
  }

  /** A write of FSTS. `true`: IQE went from 1 to 0. */
  writeStatus(value: number): boolean {
    const resumed = this.queueError && (value & 16) !== 0;
    if ((value & 1) !== 0) this.overflow = false;
    if (resumed) this.queueError = false;
    if (this.status === 0) this.pending = false;
    return resumed;
  }

  /** A write of the last word of the record. */
  writeRecord(value: number): void {
    if (value >>> 31 === 0 || !this.full) return;
    this.record[3] = (this.record[3] ?? 0) - F;
    if (this.status !== 0) return;
    if (!this.#traits.has("fault-event-stays-pending")) this.pending = false;
    else if (this.pending) this.pendingCause = "fault-event-stays-pending";
  }

  /** A write of FECTL. */
  writeControl(value: number): void {
    this.masked = value >>> 31 === 1;
    if (!this.masked) this.pending = false;
  }

  #event(): void {
    this.pending = this.masked;
  }
}

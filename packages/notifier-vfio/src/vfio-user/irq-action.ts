/**
 * What a client may do with the interrupts of a device.
 */

import { packIrqSet } from "./messages.js";
import { IrqFlag } from "./protocol.js";

/** What `setIrqs` does. */
export interface IrqAction {
  /** Interrupt type: for PCI 0 INTx, 1 MSI, 2 MSI-X, 3 error, 4 request. */
  readonly index: number;
  /** First interrupt of the type. Default 0. */
  readonly start?: number;
  /** Interrupts. Default: as many as `bools` or `eventfds` has. 0 with neither of them disables the whole type. */
  readonly count?: number;
  readonly action: "trigger" | "mask" | "unmask";
  /** Act on those that are true. */
  readonly bools?: readonly boolean[];
  /** Written by the server when the action happens; an empty list takes them back. */
  readonly eventfds?: readonly number[];
}

/** Payload of DEVICE_SET_IRQS. */
export function packIrqAction({ index, start = 0, count, action, bools, eventfds }: IrqAction): Uint8Array {
  const { DATA_NONE, DATA_BOOL, DATA_EVENTFD, ACTION_MASK, ACTION_UNMASK, ACTION_TRIGGER } = IrqFlag;
  const data = bools !== undefined ? DATA_BOOL : eventfds !== undefined ? DATA_EVENTFD : DATA_NONE;
  const flags = data | { trigger: ACTION_TRIGGER, mask: ACTION_MASK, unmask: ACTION_UNMASK }[action];
  return packIrqSet(flags, index, start, count ?? bools?.length ?? eventfds?.length ?? 0, bools ?? []);
}

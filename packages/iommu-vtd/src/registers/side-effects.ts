/**
 * Which register write sets off what (flow B): one entry for each register that does something.
 */

import type { EventMessage } from "../fault/event-message.js";
import type { FaultLog } from "../fault/fault-log.js";
import type { InvalidationQueue } from "../invalidate/invalidation-queue.js";
import type { RegisterInvalidation } from "../invalidate/register-invalidation.js";
import type { PageRequestQueue } from "../page-request/page-request-queue.js";
import { ICS } from "../spec/registers-invalidation.js";
import type { RegisterName } from "../spec/registers.js";
import type { GlobalCommand } from "./global-command.js";
import type { SideEffect } from "./mmio-port.js";
import type { ProtectedMemory } from "./protected-memory.js";
import type { RegisterFile } from "./register-file.js";

/** What writes act on. */
export interface EffectTargets {
  readonly command: GlobalCommand;
  readonly registerInvalidation: RegisterInvalidation;
  readonly queue: InvalidationQueue;
  readonly faults: FaultLog;
  readonly completionEvent: EventMessage;
  readonly protectedMemory: ProtectedMemory;
  readonly pageRequests: PageRequestQueue;
  readonly pageRequestEvent: EventMessage;
}

/** Effects by word index. A 64-bit command acts on the write of its upper half. */
export function sideEffects(file: RegisterFile, targets: EffectTargets): (SideEffect | undefined)[] {
  const {
    command,
    registerInvalidation,
    queue,
    faults,
    completionEvent,
    protectedMemory,
    pageRequests,
    pageRequestEvent,
  } = targets;
  const effects: (SideEffect | undefined)[] = [];
  const on = (name: RegisterName, word: number, effect: SideEffect): void => {
    const first = file.wordOf(name);
    if (first >= 0) effects[first + word] = effect;
  };
  on("GCMD", 0, (value) => command.written(value));
  on("CCMD", 1, () => registerInvalidation.contextCommand());
  on("IOTLB", 1, () => registerInvalidation.translationCommand());
  on("FSTS", 0, () => {
    faults.statusWritten();
    // Clearing a queue error lets the queue go on by itself (§6.5.2.11).
    queue.run();
  });
  on("FECTL", 0, () => faults.event.controlWritten());
  on("IQT", 0, () => queue.run());
  on("ICS", 0, () => {
    if (file.get("ICS", ICS.fields.IWC) === 0) completionEvent.serviced();
  });
  on("PMEN", 0, () => protectedMemory.enableWritten());
  on("IECTL", 0, () => completionEvent.controlWritten());
  on("PRS", 0, () => pageRequests.statusWritten());
  on("PECTL", 0, () => pageRequestEvent.controlWritten());
  for (const word of faults.flagWords) effects[word] = () => faults.statusWritten();
  return effects;
}

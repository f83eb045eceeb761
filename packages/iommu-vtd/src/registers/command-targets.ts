/**
 * What the bits of GCMD do to the parts of a unit: pointers are latched, tables and queue switched on and off.
 */

import type { ResolvedConfig } from "../config.js";
import type { FaultLog } from "../fault/fault-log.js";
import type { InterruptRemap } from "../interrupt/interrupt-remap.js";
import type { InvalidationQueue } from "../invalidate/invalidation-queue.js";
import type { Invalidator } from "../invalidate/invalidator.js";
import { IRTA, RTADDR } from "../spec/registers-command.js";
import type { RootPointer } from "../translate/root-pointer.js";
import type { CommandTargets } from "./global-command.js";
import type { RegisterFile } from "./register-file.js";

/** What is commanded. */
export interface CommandedParts {
  readonly root: RootPointer;
  readonly file: RegisterFile;
  readonly interrupts: InterruptRemap;
  readonly faults: FaultLog;
  readonly queue: InvalidationQueue;
  readonly invalidator: Invalidator;
  readonly config: ResolvedConfig;
}

/** The targets of one unit. */
export function commandTargets(parts: CommandedParts): CommandTargets {
  const { root, file, interrupts, faults, queue, invalidator, config } = parts;
  const { pointer } = interrupts;
  const settle = (): void => {
    // §7.2.1: the record to be written next starts over when nothing can fault any more.
    if (!root.enabled && !pointer.enabled) faults.next = 0;
  };
  const hostFrames = 2 ** (config.hostAddressWidth - 12);
  return {
    enableQueue: (on) => (on ? queue.enable() : queue.disable()),
    latchRoot: () => {
      root.mode = file.get("RTADDR", RTADDR.fields.TTM);
      root.rootPfn = file.get("RTADDR", RTADDR.fields.RTA) % hostFrames;
      return invalidator.everything();
    },
    latchInterruptTable: () => {
      pointer.entryCount = 2 ** (file.get("IRTA", IRTA.fields.S) + 1);
      pointer.extended = file.get("IRTA", IRTA.fields.EIME) === 1;
      pointer.tablePfn = file.get("IRTA", IRTA.fields.IRTA);
      interrupts.changed(undefined);
    },
    enableInterruptRemapping: (on) => {
      pointer.enabled = on;
      interrupts.changed(undefined);
      settle();
    },
    passCompatibilityInterrupts: (on) => {
      pointer.compatibility = on;
      interrupts.changed(undefined);
    },
    enableTranslation: (on) => {
      root.enabled = on;
      settle();
      return invalidator.everything();
    },
  };
}

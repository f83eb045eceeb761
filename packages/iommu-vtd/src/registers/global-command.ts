/**
 * GCMD and GSTS (§11.4.4): what each command does, and when its status bit follows.
 *
 * Several bits at once are taken in the order QIE, SRTP, SIRTP, IRE, CFI, TE. A level that is written as it stands does nothing. The unit acts on a command at once; its
 * status bit follows when every notifier has completed, and shows the last command then.
 */

import type { Completion } from "@iommu-kit/iommu-core";
import { GCMD, GSTS } from "../spec/registers-command.js";
import { PendingCommand } from "./pending-command.js";
import type { RegisterFile } from "./register-file.js";

/** What the commands act on. */
export interface CommandTargets {
  enableQueue(on: boolean): void;
  latchRoot(): Completion;
  latchInterruptTable(): void;
  enableInterruptRemapping(on: boolean): void;
  passCompatibilityInterrupts(on: boolean): void;
  enableTranslation(on: boolean): Completion;
}

type Level = "TE" | "QIE" | "IRE" | "CFI";
const LEVELS: readonly Level[] = ["TE", "QIE", "IRE", "CFI"];

/** What has been commanded. Levels are 0 or 1. */
export type CommandState = Readonly<Record<Level, number>> & { readonly latching: boolean };

const LEVEL_STATUS = { TE: "TES", QIE: "QIES", IRE: "IRES", CFI: "CFIS" } as const;

const command = GCMD.fields;
const status = GSTS.fields;

/** Carries out what is written to GCMD, and keeps GSTS. What it commands are the `CommandTargets`. */
export class GlobalCommand {
  readonly #file: RegisterFile;
  readonly #targets: CommandTargets;
  readonly #word = new Int32Array(1);
  /** Bits that the unit has: others cannot be commanded. */
  readonly #writable: Int32Array;
  #levels: Record<Level, number> = { TE: 0, QIE: 0, IRE: 0, CFI: 0 };
  /** GSTS shows the last command of a level, and that a pointer is latched, when all of them are done. */
  readonly #pending = {
    TE: new PendingCommand(),
    QIE: new PendingCommand(),
    IRE: new PendingCommand(),
    CFI: new PendingCommand(),
    RTPS: new PendingCommand(),
    IRTPS: new PendingCommand(),
  };

  constructor(file: RegisterFile, targets: CommandTargets, writable: Int32Array) {
    this.#file = file;
    this.#targets = targets;
    this.#writable = writable;
  }

  /** Whether TE, as commanded, is on. */
  get translationEnabled(): boolean {
    return this.#levels.TE === 1;
  }

  /** Levels return to 0; commands in flight are forgotten. */
  reset(): void {
    this.#levels = { TE: 0, QIE: 0, IRE: 0, CFI: 0 };
    for (const pending of Object.values(this.#pending)) pending.forget();
  }

  /** The levels as commanded, and whether a root pointer is being latched: what GSTS does not show yet. For a snapshot. */
  get state(): CommandState {
    return { ...this.#levels, latching: this.#pending.RTPS.busy };
  }

  /** Takes up the state of a snapshot; GSTS follows when `completion` is done. */
  restore(state: CommandState, completion: Completion): void {
    const { latching, ...levels } = state;
    this.#levels = levels;
    for (const level of LEVELS) this.#settle(level, completion);
    if (latching) this.#latch("RTPS", completion);
  }

  /** GCMD was written. */
  written(value: number): void {
    this.#word[0] = value & (this.#writable[0] ?? 0);
    const targets = this.#targets;
    this.#level("QIE", (on) => targets.enableQueue(on));
    this.#oneShot("SRTP", "RTPS", () => targets.latchRoot());
    this.#oneShot("SIRTP", "IRTPS", () => targets.latchInterruptTable());
    this.#level("IRE", (on) => targets.enableInterruptRemapping(on));
    this.#level("CFI", (on) => targets.passCompatibilityInterrupts(on));
    this.#level("TE", (on) => targets.enableTranslation(on));
  }

  #level(level: Level, act: (on: boolean) => Completion): void {
    const wanted = command[level].get(this.#word, 0);
    if (wanted === this.#levels[level]) return;
    this.#levels[level] = wanted;
    // The queue may run at once and looks at its own status; nothing else depends on the order.
    if (level === "QIE") this.#file.set("GSTS", status.QIES, wanted);
    this.#settle(level, act(wanted === 1));
  }

  #settle(level: Level, completion: Completion): void {
    this.#pending[level].follow(completion, () =>
      this.#file.set("GSTS", status[LEVEL_STATUS[level]], this.#levels[level]),
    );
  }

  #oneShot(name: "SRTP" | "SIRTP", done: "RTPS" | "IRTPS", act: () => Completion): void {
    if (command[name].get(this.#word, 0) === 0) return;
    this.#file.set("GSTS", status[done], 0);
    this.#latch(done, act());
  }

  #latch(done: "RTPS" | "IRTPS", completion: Completion): void {
    this.#pending[done].follow(completion, () => this.#file.set("GSTS", status[done], 1));
  }
}

/** Bringing a machine to rest: its tasks done, its consumers' answers given. */

import type { Attachments } from "./attachments.js";
import type { Devices } from "./devices.js";
import { Failure } from "./failure.js";
import type { Machine } from "./machine.js";

const TURNS = 300_000;

/** How one machine comes to rest. */
export class Rest {
  readonly #machine: Machine;
  readonly #attachments: Attachments;
  readonly #devices: Devices;

  constructor(machine: Machine, attachments: Attachments, devices: Devices) {
    this.#machine = machine;
    this.#attachments = attachments;
    this.#devices = devices;
  }

  /** Does what is planned for now; nobody need have answered. */
  async idle(): Promise<void> {
    const machine = this.#machine;
    await machine.scheduler.idle(TURNS);
    if (machine.memory.armed === 0 || machine.scheduler.deferredCount === 0) machine.unsettled = false;
    this.#attachments.checkEnded();
  }

  /** Lets everybody answer, until nothing is under way. */
  async quiesce(): Promise<void> {
    const machine = this.#machine;
    this.#devices.releaseLeases();
    for (let round = 0; round < 1000; round++) {
      await machine.scheduler.idle(TURNS);
      let answered = 0;
      for (const { notifier } of [...machine.consumers.values(), ...this.#attachments.ended]) {
        answered += notifier.answers.size;
        notifier.answers.settle();
      }
      if (answered > 0) continue;
      await this.idle();
      return;
    }
    throw new Failure("busy", "the unit never comes to rest");
  }
}

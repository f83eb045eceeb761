/** Consumers that come, share, leave and lose their devices, as a host has it. */

import { IommuError, type IommuErrorCode } from "@iommu-kit/iommu-core";
import { checkEnded } from "./checks.js";
import { type Consumer, makeConsumer, type Reach } from "./consumers.js";
import { demand } from "./failure.js";
import type { Machine } from "./machine.js";
import type { Read } from "./model/facts.js";
import type { StepOf, Who } from "./step.js";

/** What a host is told when it asks for what cannot be. */
const REFUSALS: ReadonlySet<string> = new Set<IommuErrorCode>([
  "caching-mode-required",
  "not-supported",
  "different-view",
  "already-attached",
  "bad-range",
  "notifier-failed",
  "unplugged",
]);

/** The consumers of one machine. */
export class Attachments {
  /** Those that have left, and still owe answers. */
  readonly ended: Consumer[] = [];
  readonly #machine: Machine;

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  attach({ slot, who, plan }: StepOf<"attach">): void {
    const machine = this.#machine;
    if (machine.consumers.has(slot)) return;
    const consumer = makeConsumer(plan, who, `consumer ${slot}`, (it) => (pfn) => this.#truth(it, pfn));
    this.#refusable(() => {
      const space = machine.space(who);
      machine.consumers.set(slot, consumer);
      const attachment = space.attach(consumer.notifier, consumer.range === undefined ? {} : { range: consumer.range });
      consumer.attachments.push({ who, space, attachment });
    });
    if (consumer.attachments.length === 0) machine.consumers.delete(slot);
  }

  share({ slot, who }: StepOf<"share">): void {
    const consumer = this.#machine.consumers.get(slot);
    if (consumer === undefined || consumer.plan.kind !== "map") return;
    // It is parked whenever its devices see different domains.
    consumer.leaving = true;
    this.#refusable(() => {
      const space = this.#machine.space(who);
      const attachment = space.attach(consumer.notifier, consumer.range === undefined ? {} : { range: consumer.range });
      consumer.attachments.push({ who, space, attachment });
    });
  }

  detach(slot: number): void {
    const consumer = this.#machine.consumers.get(slot);
    if (consumer === undefined) return;
    consumer.leaving = true;
    this.#machine.consumers.delete(slot);
    this.ended.push(consumer);
    for (const { attachment } of consumer.attachments) void attachment.detach();
  }

  unplug(who: Who): void {
    const machine = this.#machine;
    const space = machine.space(who);
    for (const [slot, consumer] of machine.consumers) {
      const index = consumer.attachments.findIndex((it) => it.space === space);
      if (index < 0) continue;
      consumer.leaving = true;
      consumer.attachments.splice(index, 1);
      const [next] = consumer.attachments;
      if (next !== undefined) {
        consumer.who = next.who;
        continue;
      }
      machine.consumers.delete(slot);
      this.ended.push(consumer);
    }
    void space.unplug();
    machine.space(who);
  }

  /** The machine goes. */
  allLeave(): void {
    const { consumers } = this.#machine;
    for (const consumer of consumers.values()) {
      consumer.leaving = true;
      this.ended.push(consumer);
    }
    consumers.clear();
  }

  /** Nobody was told anything against the contract. */
  checkBreaches(): void {
    for (const { notifier } of [...this.#machine.consumers.values(), ...this.ended])
      demand(notifier.breaches.length === 0, "contract", () => notifier.breaches.join("; "));
  }

  /** Those that have left hold nothing. One that still owes answers keeps the others of its view waiting. */
  checkEnded(): void {
    for (const consumer of this.ended) checkEnded(consumer);
    for (let i = this.ended.length - 1; i >= 0; i--)
      if (this.ended[i]?.notifier.answers.size === 0) this.ended.splice(i, 1);
  }

  #truth(consumer: Consumer, pfn: number): ReturnType<ReturnType<Parameters<typeof makeConsumer>[3]>> {
    const machine = this.#machine;
    const unknown =
      machine.unsettled ||
      consumer.leaving ||
      (machine.plan.caches > 0 && machine.contextsStale) ||
      machine.overBudget.has(machine.space(consumer.who));
    if (unknown) return { known: false };
    const reachBy = (read: Read): Reach => machine.model.reach(machine.latched, read, consumer.who, pfn);
    return {
      known: true,
      reach: reachBy(machine.read),
      was: (matches) => machine.history.explains(machine.read, reachBy, matches) !== false,
    };
  }

  #refusable(attempt: () => void): void {
    try {
      attempt();
    } catch (error) {
      if (error instanceof IommuError && REFUSALS.has(error.code)) return;
      throw error;
    }
  }
}

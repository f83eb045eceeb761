/** One entry on the way to a page changes, and an invalidation that covers the page follows: from then on, nobody sees the old one. */

import { type Consumer, WatchedNotifier } from "./consumers.js";
import { QIE } from "./driver.js";
import { demand } from "./failure.js";
import { PROBE_BYTES } from "./judge.js";
import { Offset } from "./machine.js";
import type { Read } from "./model/facts.js";
import { requestOf } from "./model/naive-machine.js";
import type { RoundParts } from "./round-parts.js";
import type { Invalidation, StepOf, Who } from "./step.js";

/** Covered pages of one machine. */
export class CoveredPage {
  readonly #parts: RoundParts;

  constructor(parts: RoundParts) {
    this.#parts = parts;
  }

  async cover(step: StepOf<"cover">): Promise<void> {
    const { machine, judge, driver, devices, rest } = this.#parts;
    const { who } = step;
    const space = machine.space(who);
    const pfn = devices.mappedPage(who, step.pfn);
    const queued = (machine.read32(Offset.GSTS) & QIE) !== 0 && (machine.read32(Offset.FSTS) & 0x70) === 0;
    const busy = machine.scheduler.deferredCount > 0 || machine.memory.armed > 0 || machine.history.edits > 0;
    const waiting = [...machine.consumers.values()].some(({ notifier }) => notifier.answers.size > 0);
    if (!queued || busy || waiting || machine.read32(Offset.IQH) !== machine.read32(Offset.IQT)) return;
    // Scalable mode takes descriptors of 256 bits only (IQEI 5).
    if (machine.latched.mode !== 0 && (machine.read32(Offset.IQA) & 0x800) === 0) return;
    const way = machine.model.wayOf(machine.latched, machine.read, who);
    const gpa = this.#entryOnTheWay(who, pfn, step.level);
    if (way?.kind !== "table" || gpa === undefined) return;
    judge.translate(who, pfn, 1);
    judge.transfer(who, pfn, "read", PROBE_BYTES);
    if (machine.history.edits > 0) return;
    const { domainId } = way;
    machine.memory.poke(gpa, BigInt(step.value));
    if (machine.contextsStale) return;
    const list: Invalidation[] = [
      { what: step.by === "context" ? "contexts" : step.by, did: domainId, pfn, order: step.order },
    ];
    if (step.by === "context") list.push({ what: "all" });
    driver.submit(list);
    await rest.idle();
    demand((machine.read32(Offset.FSTS) & 0x10) === 0, "queue", () => `a sound ${step.by} invalidation gives an error`);
    if (machine.scheduler.deferredCount > 0) return;
    judge.begin();
    for (const access of [1, 2] as const) {
      judge.translate(who, pfn, access, true);
      // Tables may be contexts at the same time. The walk has set a flag in one, and the unit may know it without.
      if (machine.contextsStale) return;
    }
    judge.transfer(who, pfn, "read", PROBE_BYTES, true);
    if (step.by === "all" || step.by === "context") machine.cachesAreClean();
    for (const consumer of machine.consumers.values()) {
      if (consumer.leaving || consumer.attachments[0]?.space !== space) continue;
      this.#checkPage(consumer, pfn);
    }
  }

  /** A MAP consumer holds the page as the tables have it. */
  #checkPage(consumer: Consumer, pfn: number): void {
    const { machine } = this.#parts;
    const { notifier, plan, range } = consumer;
    if (!(notifier instanceof WatchedNotifier) || notifier.revoked !== undefined || plan.capacity !== undefined) return;
    if (machine.overBudget.size > 0) return;
    if (range !== undefined && (pfn < range.firstPfn || pfn >= range.firstPfn + range.pageCount)) return;
    const held = notifier.lookup(pfn);
    const expected = machine.model.reach(machine.latched, machine.read, consumer.who, pfn);
    const same = held?.gpaPfn === expected?.gpaPfn && held?.access === expected?.access;
    demand(
      same,
      "shadow",
      () =>
        `${notifier.name} at ${pfn.toString(16)}: holds ${JSON.stringify(held)}, tables ${JSON.stringify(expected)}`,
    );
  }

  /** The byte address of an entry that a walk reads, counted from the leaf; `undefined` when it lies among contexts. */
  #entryOnTheWay(who: Who, pfn: number, level: number): number | undefined {
    const { model, latched, read } = this.#parts.machine;
    const seen: number[] = [];
    const spy: Read = (at) => {
      seen.push(Number(at));
      return read(at);
    };
    model.answer(latched, spy, requestOf(who, BigInt(pfn), 1), false);
    const gpa = seen.at(-1 - level);
    return gpa === undefined || gpa < 16 * 4096 ? undefined : gpa;
  }
}

/** What devices do: requests of every kind, each judged. */

import { type Access, byteAddress, type Lease } from "@iommu-kit/iommu-core";
import { demand } from "./failure.js";
import type { Judge } from "./judge.js";
import { type Machine, Offset } from "./machine.js";
import { inWindow } from "./model/facts.js";
import type { StepOf, Who } from "./step.js";

/** The devices of one machine. */
export class Devices {
  /** Pages that were asked for lately. */
  readonly recent: { readonly who: Who; readonly pfn: number }[] = [];
  readonly #machine: Machine;
  readonly #judge: Judge;
  #leases: Lease[] = [];

  constructor(machine: Machine, judge: Judge) {
    this.#machine = machine;
    this.#judge = judge;
  }

  dma({ who, pfn: named, how, access, bytes = 64, mapped = false }: StepOf<"dma">): void {
    const machine = this.#machine;
    const pfn = mapped ? this.mappedPage(who, named) : named;
    const space = machine.space(who);
    this.recent.push({ who, pfn });
    if (this.recent.length > 16) this.recent.shift();
    switch (how) {
      case "translate":
        this.#fill(who, pfn, this.#judge.translate(who, pfn, access));
        return;
      case "read":
      case "write":
        this.#judge.transfer(who, pfn, how, bytes);
        return;
      case "cas":
        space.dma.compareExchange(byteAddress(pfn, (bytes * 4) % 4096), 0, bytes);
        return;
      case "zero":
        if (who.pasid !== undefined || !inWindow(BigInt(pfn))) this.#judge.translate(who, pfn, 0);
        return;
      case "lease": {
        const lease = space.dma.segments(byteAddress(pfn), bytes, access === 0 ? 1 : access);
        if (lease === undefined) return;
        if (bytes % 2 === 0) lease.onRecall = () => lease.release();
        this.#leases.push(lease);
      }
    }
  }

  /** One of the pages that somebody can reach, by a number; the number itself where there is none, or too many to list. */
  mappedPage(who: Who, number: number): number {
    const { model, latched, read } = this.#machine;
    const runs = model.reachable(latched, read, who, 1000)?.entries ?? [];
    const run = runs[number % Math.max(1, runs.length)];
    return run === undefined ? number : run.iovaPfn + (number % run.pageCount);
  }

  /** UNMAP-only consumers of the space cache what it was answered. */
  #fill(
    who: Who,
    pfn: number,
    out: { readonly reason: number; readonly gpaPfn: number; readonly access: Access },
  ): void {
    if (out.reason !== 0 || (who.pasid === undefined && inWindow(BigInt(pfn)))) return;
    const space = this.#machine.space(who);
    for (const consumer of this.#machine.consumers.values()) {
      if (consumer.plan.kind !== "unmap" || consumer.attachments[0]?.space !== space) continue;
      const { range } = consumer;
      if (range !== undefined && (pfn < range.firstPfn || pfn >= range.firstPfn + range.pageCount)) continue;
      consumer.cache.set({ iovaPfn: pfn, pageCount: 1, gpaPfn: out.gpaPfn, access: out.access });
    }
  }

  ats({ who, pfn: named, count, noWrite, mapped = false }: StepOf<"ats">): void {
    const machine = this.#machine;
    if (!machine.plan.deviceTlb) return;
    const pfn = mapped ? this.mappedPage(who, named) : named;
    this.#judge.begin();
    const ats = machine.unit.ats(machine.space(who));
    for (const answer of ats.translate(pfn, { pageCount: Math.min(count, 2 ** 52 - pfn), noWrite })) {
      if (answer.status !== "success" || answer.untranslatedOnly || answer.access === 0) continue;
      const at = Math.max(pfn, answer.iovaPfn);
      this.#judge.granted(who, at, answer.gpaPfn + (at - answer.iovaPfn), answer.access);
    }
    const bytes = new Uint8Array(16);
    ats.read(byteAddress(pfn), bytes);
  }

  pageRequest({ who, pfn, write, group, last }: StepOf<"page-request">): void {
    const machine = this.#machine;
    if (!machine.plan.pageRequests) return;
    const ats = machine.unit.ats(machine.space(who));
    const tail = machine.read32(Offset.PQT);
    const response = ats.requestPage({ iovaPfn: pfn, write, read: !write, group, last });
    if (machine.read32(Offset.PQT) !== tail) {
      this.#judge.count("page requests queued");
      void response.then((answer) => {
        if (answer === "success") this.#judge.count("page groups answered");
      });
    }
    if (group % 8 === 7) ats.stopMarker();
    if (group % 16 === 5) ats.strayCompletion();
  }

  /** What a host that caches routes is told is what happens. */
  interrupt({ who, address, data }: StepOf<"interrupt">): void {
    const machine = this.#machine;
    const message = { address, addressHigh: 0, data };
    this.#judge.begin();
    const route = machine.unit.translateInterrupt(who?.source, message);
    machine.lastMessage = undefined;
    const accepted = machine.unit.interrupt(who?.source, message);
    if (machine.requestHistory.edits > 0) return;
    const where = (): string => `interrupt ${address.toString(16)} ${data.toString(16)}`;
    demand(accepted === (route.reason === 0), "dma", () => `${where()}: accepted ${accepted}, route ${route.reason}`);
    if (!accepted) return;
    const [sent, routed] = [machine.lastMessage, route.message].map((it) => JSON.stringify(it));
    demand(sent === routed, "dma", () => `${where()}: ${sent} was sent, its route says ${routed}`);
  }

  /** They let go of what they hold. */
  releaseLeases(): void {
    for (const lease of this.#leases) lease.release();
    this.#leases = [];
  }
}

/**
 * One round: carries out the steps of a scenario and checks what must hold after each.
 *
 * What a host may do wrong (attaching what cannot be served) is answered with an error that is taken note of; anything else that throws is a failure.
 */

import { type Access, byteAddress, IommuError, type IommuErrorCode, type Lease } from "@iommu-kit/iommu-core";
import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { restore, save, type VtdSnapshot } from "@iommu-kit/iommu-vtd/snapshot";
import { type Consumer, DeviceTlb, makeConsumer, WatchedNotifier } from "./consumers.js";
import { descriptorWords, FLUSH } from "./descriptors.js";
import { demand, Failure } from "./failure.js";
import { checkEnded, checkRegisters, checkShadow } from "./checks.js";
import { Judge } from "./judge.js";
import { Frames } from "./layout.js";
import { Machine, Offset } from "./machine.js";
import { inWindow, type Latched, type Read } from "./model/facts.js";
import { requestOf } from "./model/naive-machine.js";
import type { Invalidation, Scenario, Step, Who } from "./step.js";

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

const QIE = 0x0400_0000;
const TURNS = 300_000;
/** The unit's own, in milliseconds: no plan changes it. */
const DEVICE_DEADLINE = 2000;
/** The page of the invalidation that comes last. */
const ONE_MORE = 0x9999;

/** A device-TLB invalidation of one page, type 3. */
function dropPage(source: number, pfn: number): Invalidation {
  return {
    what: "raw",
    words: [`0x${((BigInt(source) << 32n) | 3n).toString(16)}`, `0x${(BigInt(pfn) << 12n).toString(16)}`],
  };
}

type Of<Kind extends Step["do"]> = Extract<Step, { do: Kind }>;

/** Runs a scenario. @throws {Failure} for a broken invariant. Answers how many requests were judged, and what was in them. */
export async function runScenario(scenario: Scenario): Promise<Pick<Judge, "judged" | "open" | "census">> {
  const round = new Round(scenario);
  for (const [index, step] of scenario.steps.entries()) {
    try {
      await round.perform(step);
    } catch (error) {
      const where = `step ${index} (${step.do})`;
      if (error instanceof Failure) throw new Failure(error.kind, `${where}: ${error.message}`, { cause: error });
      throw new Failure(
        "threw",
        `${where}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`,
        {
          cause: error,
        },
      );
    }
  }
  return round.judge;
}

class Round {
  readonly judge: Judge;
  readonly #machine: Machine;
  readonly #ended: Consumer[] = [];
  #leases: Lease[] = [];
  #saved: { readonly snapshot: VtdSnapshot; readonly latched: Latched } | undefined;
  #status = 0x1000;
  /** Pages that were asked for lately. */
  readonly #recent: { readonly who: Who; readonly pfn: number }[] = [];

  constructor(scenario: Scenario) {
    this.#machine = new Machine(scenario.unit);
    this.judge = new Judge(this.#machine);
  }

  async perform(step: Step): Promise<void> {
    this.#machine.begin();
    await this.#act(step);
    checkRegisters(this.#machine);
    for (const consumer of [...this.#machine.consumers.values(), ...this.#ended]) this.#checkBreaches(consumer);
  }

  async #act(step: Step): Promise<void> {
    const machine = this.#machine;
    const { memory, scheduler } = machine;
    switch (step.do) {
      case "poke":
        memory.poke(step.frame * 4096 + step.index * 8, BigInt(step.value));
        return;
      case "fill":
        for (let i = 0; i < step.count && step.index + i < 512; i++)
          memory.poke(step.frame * 4096 + (step.index + i) * 8, BigInt(step.value) + BigInt(step.stride) * BigInt(i));
        return;
      case "ambush":
        memory.arm(step.after, step);
        return;
      case "write":
        machine.write(step.offset, step.bytes, BigInt(step.value));
        return;
      case "read":
        if (step.bytes === 4) machine.read32(step.offset);
        else machine.read64(step.offset);
        return;
      case "root":
        machine.write(Offset.RTADDR, 8, BigInt(step.frame) * 4096n + BigInt(step.mode) * 1024n);
        machine.command(0x4000_0000, true);
        return;
      case "enable":
        machine.command(0x8000_0000, step.on);
        return;
      case "queue":
        this.#queue(step);
        return;
      case "submit":
        this.#submit(step.list);
        return;
      case "registers":
        this.#registers(step.it);
        return;
      case "turn":
        for (let i = 0; i < step.turns; i++) {
          scheduler.turn();
          await Promise.resolve();
        }
        return;
      case "advance":
        scheduler.advance(step.milliseconds);
        await Promise.resolve();
        return;
      case "idle":
        await this.#idle();
        return;
      case "reset":
        machine.resetMirror();
        void machine.unit.reset({ warm: step.warm });
        return;
      case "save":
        this.#saved = {
          snapshot: JSON.parse(JSON.stringify(save(machine.unit))) as VtdSnapshot,
          latched: machine.latched,
        };
        return;
      case "restore":
        this.#restore();
        return;
      case "regions":
        machine.latched = { ...machine.latched, regions: step.list };
        void machine.unit.setRegions(step.list.map(([firstPfn, pageCount]) => ({ firstPfn, pageCount })));
        return;
      case "flush":
        await this.#flush(step.by);
        return;
      case "cover":
        await this.#cover(step);
        return;
      default:
        await this.#device(step);
    }
  }

  async #device(step: Exclude<Step, { do: "flush" | "cover" }>): Promise<void> {
    const machine = this.#machine;
    switch (step.do) {
      case "attach":
        this.#attach(step);
        return;
      case "share":
        this.#share(step);
        return;
      case "detach":
        this.#detach(step.slot);
        return;
      case "retry": {
        const consumer = machine.consumers.get(step.slot);
        if (consumer?.plan.capacity !== undefined && consumer.notifier instanceof RecordingNotifier)
          consumer.notifier.capacity = step.capacity;
        for (const { attachment } of consumer?.attachments ?? []) attachment.retry();
        return;
      }
      case "answer": {
        const consumer = machine.consumers.get(step.slot);
        if (step.how === "settle") consumer?.notifier.answers.settle();
        else consumer?.notifier.answers.fail(new Error("this consumer could not"));
        await Promise.resolve();
        return;
      }
      case "dma":
        this.#dma(step);
        return;
      case "ats":
        this.#ats(step);
        return;
      case "page-request":
        this.#pageRequest(step);
        return;
      case "interrupt": {
        this.#interrupt(step);
        return;
      }
      case "unplug":
        this.#unplug(step.who);
        return;
      case "drop":
        await this.#drop(step);
        return;
      default:
        throw new Error(`no such step: ${step.do}`);
    }
  }

  #queue(step: Of<"queue">): void {
    const machine = this.#machine;
    machine.command(QIE, false);
    if (!step.on) return;
    machine.write(Offset.FSTS, 4, 0x70n);
    machine.write(Offset.IQT, 8, 0n);
    machine.write(Offset.IQA, 8, BigInt(Frames.queue) * 4096n + BigInt(step.order) + (step.wide ? 0x800n : 0n));
    machine.command(QIE, true);
  }

  #submit(list: readonly Invalidation[]): void {
    const machine = this.#machine;
    const address = machine.read64(Offset.IQA);
    const base = Number(address >> 12n) * 4096;
    const wide = (address & 0x800n) !== 0n;
    const slot = wide ? 32 : 16;
    const size = 4096 * 2 ** Number(address & 7n);
    let tail = machine.read32(Offset.IQT);
    for (const it of list) {
      const words = descriptorWords(it, slot / 4);
      for (let i = 0; i < words.length; i += 2) {
        const low = BigInt.asUintN(32, BigInt(words[i] ?? 0));
        const word = (BigInt.asUintN(32, BigInt(words[i + 1] ?? 0)) << 32n) | low;
        if (base + tail + i * 4 < 2 ** 52) machine.memory.poke(base + tail + i * 4, word);
      }
      tail = (tail + slot) % size;
    }
    machine.write(Offset.IQT, 4, BigInt(tail));
  }

  #registers(it: Invalidation): void {
    const machine = this.#machine;
    const { did = 0, source = 0, pfn = 0, order = 0 } = it;
    const valid = 1n << 63n;
    const contexts = (kind: bigint): void =>
      machine.write(Offset.CCMD, 8, valid | (kind << 61n) | (BigInt(source) << 16n) | BigInt(did));
    const translations = (kind: bigint): void =>
      machine.write(Offset.IOTLB, 8, valid | (kind << 60n) | (BigInt(did) << 32n));
    if (it.what === "contexts") contexts(1n);
    else if (it.what === "contextsOfDomain") contexts(2n);
    else if (it.what === "contextsOfDevice") contexts(3n);
    else if (it.what === "all") translations(1n);
    else if (it.what === "domain") translations(2n);
    else {
      machine.write(Offset.IVA, 8, BigInt.asUintN(64, BigInt(pfn) << 12n) | BigInt(order));
      translations(3n);
    }
  }

  #restore(): void {
    if (this.#saved === undefined) return;
    const machine = this.#machine;
    const { regions } = machine.latched;
    machine.latched = { ...this.#saved.latched, regions };
    machine.unsettled = true;
    machine.contextsStale = false;
    void restore(machine.unit, this.#saved.snapshot);
    if (machine.plan.protectedRegions) machine.reloadProtected(true);
  }

  #attach({ slot, who, plan }: Of<"attach">): void {
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

  #share({ slot, who }: Of<"share">): void {
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

  #detach(slot: number): void {
    const consumer = this.#machine.consumers.get(slot);
    if (consumer === undefined) return;
    consumer.leaving = true;
    this.#machine.consumers.delete(slot);
    this.#ended.push(consumer);
    for (const { attachment } of consumer.attachments) void attachment.detach();
  }

  #unplug(who: Who): void {
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
      this.#ended.push(consumer);
    }
    void space.unplug();
    machine.space(who);
  }

  #dma({ who, pfn: named, how, access, bytes = 64, mapped = false }: Of<"dma">): void {
    const machine = this.#machine;
    const pfn = mapped ? this.#mappedPage(who, named) : named;
    const space = machine.space(who);
    this.#recent.push({ who, pfn });
    if (this.#recent.length > 16) this.#recent.shift();
    switch (how) {
      case "translate":
        this.#fill(who, pfn, this.judge.translate(who, pfn, access));
        return;
      case "read":
      case "write":
        this.judge.transfer(who, pfn, how, bytes);
        return;
      case "cas":
        space.dma.compareExchange(byteAddress(pfn, (bytes * 4) % 4096), 0, bytes);
        return;
      case "zero":
        if (who.pasid !== undefined || !inWindow(BigInt(pfn))) this.judge.translate(who, pfn, 0);
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
  #mappedPage(who: Who, number: number): number {
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

  #ats({ who, pfn: named, count, noWrite, mapped = false }: Of<"ats">): void {
    const machine = this.#machine;
    if (!machine.plan.deviceTlb) return;
    const pfn = mapped ? this.#mappedPage(who, named) : named;
    this.judge.begin();
    const ats = machine.unit.ats(machine.space(who));
    for (const answer of ats.translate(pfn, { pageCount: Math.min(count, 2 ** 52 - pfn), noWrite })) {
      if (answer.status !== "success" || answer.untranslatedOnly || answer.access === 0) continue;
      const at = Math.max(pfn, answer.iovaPfn);
      this.judge.granted(who, at, answer.gpaPfn + (at - answer.iovaPfn), answer.access);
    }
    const bytes = new Uint8Array(16);
    ats.read(byteAddress(pfn), bytes);
  }

  #pageRequest({ who, pfn, write, group, last }: Of<"page-request">): void {
    const machine = this.#machine;
    if (!machine.plan.pageRequests) return;
    const ats = machine.unit.ats(machine.space(who));
    const tail = machine.read32(Offset.PQT);
    const response = ats.requestPage({ iovaPfn: pfn, write, read: !write, group, last });
    if (machine.read32(Offset.PQT) !== tail) {
      this.judge.count("page requests queued");
      void response.then((answer) => {
        if (answer === "success") this.judge.count("page groups answered");
      });
    }
    if (group % 8 === 7) ats.stopMarker();
    if (group % 16 === 5) ats.strayCompletion();
  }

  /** What a host that caches routes is told is what happens. */
  #interrupt({ who, address, data }: Of<"interrupt">): void {
    const machine = this.#machine;
    const message = { address, addressHigh: 0, data };
    this.judge.begin();
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

  async #drop({ source, count, meanwhile }: Of<"drop">): Promise<void> {
    const machine = this.#machine;
    const scalable = machine.plan.mode === "scalable";
    if (!machine.plan.deviceTlb || machine.latched.mode > (scalable ? 1 : 0)) return;
    machine.memory.disarm();
    await this.#quiesce();
    const device = new DeviceTlb("manual");
    const attachment = machine.space({ source }).attach(device);
    const invalidations = Array.from({ length: count }, (_, page) => dropPage(source, page));
    this.#openQueue();
    this.#submit(invalidations);
    await this.#idle();
    if (meanwhile === "answer") device.answers.settle();
    if (meanwhile === "time") machine.scheduler.advance(DEVICE_DEADLINE);
    if (meanwhile === "reset") {
      machine.resetMirror();
      void machine.unit.reset();
    }
    await this.#idle();
    this.#openQueue();
    device.told.length = 0;
    this.#status += 1;
    this.#submit([dropPage(source, ONE_MORE), { what: "wait", did: this.#status, source: FLUSH }]);
    await this.#idle();
    const isDone = (): boolean =>
      Number((machine.memory.peek(Frames.flushed * 4096) ?? 0n) & 0xffffffffn) === this.#status;
    const where = (): string => `${count} device-TLB invalidations, ${meanwhile}, one more`;
    demand(!isDone(), "completion", () => `${where()}: its wait is done, and the device has not answered`);
    machine.scheduler.advance(DEVICE_DEADLINE);
    const faults = machine.read32(Offset.FSTS);
    demand((faults & 0x40) !== 0, "completion", () => `${where()}: no time-out, FSTS ${faults.toString(16)}`);
    await this.#idle();
    const told = device.told.some(({ firstPfn, pageCount }) => ONE_MORE >= firstPfn && ONE_MORE < firstPfn + pageCount);
    demand(told, "completion", () => `${where()}: the device was never told`);
    demand(!isDone(), "completion", () => `${where()}: the wait that timed out is done after all`);
    void attachment.detach();
    device.answers.settle();
    machine.write(Offset.FSTS, 4, 0x70n);
    await this.#quiesce();
  }

  /** Switches the queue off and on, in the mode that is latched. */
  #openQueue(): void {
    this.#queue({ do: "queue", on: true, wide: this.#machine.latched.mode === 1, order: 0 });
  }

  async #idle(): Promise<void> {
    const machine = this.#machine;
    await machine.scheduler.idle(TURNS);
    if (machine.memory.armed === 0 || machine.scheduler.deferredCount === 0) machine.unsettled = false;
    for (const consumer of this.#ended) checkEnded(consumer);
    // One that still owes answers keeps the others of its view waiting.
    for (let i = this.#ended.length - 1; i >= 0; i--)
      if (this.#ended[i]?.notifier.answers.size === 0) this.#ended.splice(i, 1);
  }

  /** Lets everybody answer, and time pass, until nothing is under way. */
  async #quiesce(): Promise<void> {
    const machine = this.#machine;
    for (const lease of this.#leases) lease.release();
    this.#leases = [];
    for (let round = 0; round < 1000; round++) {
      await machine.scheduler.idle(TURNS);
      let answered = 0;
      for (const { notifier } of [...machine.consumers.values(), ...this.#ended]) {
        answered += notifier.answers.size;
        notifier.answers.settle();
      }
      if (answered > 0) continue;
      await this.#idle();
      return;
    }
    throw new Failure("busy", "the unit never comes to rest");
  }

  async #flush(by: Of<"flush">["by"]): Promise<void> {
    const machine = this.#machine;
    machine.memory.disarm();
    await this.#quiesce();
    machine.overBudget.clear();
    const { mode } = machine.latched;
    const scalable = machine.plan.mode === "scalable";
    if (by === "registers" && mode === 0) {
      machine.command(QIE, false);
      this.#registers({ what: "contexts" });
      this.#registers({ what: "all" });
      await this.#quiesce();
      demand(machine.read64(Offset.CCMD) >> 63n === 0n, "completion", () => "CCMD.ICC stays 1");
      demand(machine.read64(Offset.IOTLB) >> 63n === 0n, "completion", () => "IOTLB.IVT stays 1");
      demand(((machine.read64(Offset.CCMD) >> 59n) & 3n) === 1n, "completion", () => "contexts were not invalidated");
      demand(((machine.read64(Offset.IOTLB) >> 57n) & 3n) === 1n, "completion", () => "the IOTLB was not invalidated");
    } else if (by === "root" || mode > 1 || (mode === 1 && !scalable)) {
      machine.command(0x4000_0000, true);
      await this.#quiesce();
      demand((machine.read32(Offset.GSTS) & 0x4000_0000) !== 0, "completion", () => "GSTS.RTPS stays 0");
    } else {
      await this.#flushByQueue(scalable && mode === 1);
    }
    machine.cachesAreClean();
    // A pass may have met its budget over what it was about to remove: the next one must not.
    if ([...machine.overBudget.values()].includes("mappings")) {
      machine.overBudget.clear();
      machine.command(0x4000_0000, true);
      await this.#quiesce();
    }
    this.#checkLevels();
    for (const consumer of machine.consumers.values()) checkShadow(machine, consumer);
    this.#probe();
  }

  async #flushByQueue(wide: boolean): Promise<void> {
    const machine = this.#machine;
    this.#queue({ do: "queue", on: true, wide, order: 0 });
    this.#status += 1;
    const pasids: Invalidation[] = wide ? [{ what: "pasids" }] : [];
    const done: Invalidation = { what: "wait", did: this.#status, source: FLUSH };
    this.#submit([{ what: "contexts" }, ...pasids, { what: "all" }, { what: "interrupts" }, done]);
    await this.#quiesce();
    const status = machine.memory.peek(Frames.flushed * 4096) ?? 0n;
    const where = (): string => `IQH ${machine.read32(Offset.IQH)}, FSTS ${machine.read32(Offset.FSTS).toString(16)}`;
    demand(Number(status & 0xffffffffn) === this.#status, "completion", () => `the wait was not completed: ${where()}`);
    demand(
      machine.read32(Offset.IQH) === machine.read32(Offset.IQT),
      "completion",
      () => `the queue stands: ${where()}`,
    );
  }

  /** GSTS follows what was commanded once all is quiet. */
  #checkLevels(): void {
    const machine = this.#machine;
    const shown = machine.read32(Offset.GSTS) >>> 31 === 1;
    demand(shown === machine.latched.enabled, "completion", () => `TES ${shown}, commanded ${machine.latched.enabled}`);
  }

  /** With clean caches every answer is that of the tables. */
  #probe(): void {
    const machine = this.#machine;
    for (const { who, pfn } of this.#recent) {
      this.judge.translate(who, pfn, 1);
      this.judge.translate(who, pfn, 2);
    }
    for (const { who, notifier } of [...machine.consumers.values()]) {
      if (!(notifier instanceof RecordingNotifier)) continue;
      for (const run of notifier.held().slice(0, 4)) this.judge.translate(who, run.iovaPfn + run.pageCount - 1, 1);
    }
  }

  async #cover(step: Of<"cover">): Promise<void> {
    const machine = this.#machine;
    const { who } = step;
    const space = machine.space(who);
    const pfn = this.#mappedPage(who, step.pfn);
    const queued = (machine.read32(Offset.GSTS) & QIE) !== 0 && (machine.read32(Offset.FSTS) & 0x70) === 0;
    const busy = machine.scheduler.deferredCount > 0 || machine.memory.armed > 0 || machine.history.edits > 0;
    const waiting = [...machine.consumers.values()].some(({ notifier }) => notifier.answers.size > 0);
    if (!queued || busy || waiting || machine.read32(Offset.IQH) !== machine.read32(Offset.IQT)) return;
    // Scalable mode takes descriptors of 256 bits only (IQEI 5).
    if (machine.latched.mode !== 0 && (machine.read32(Offset.IQA) & 0x800) === 0) return;
    const way = machine.model.wayOf(machine.latched, machine.read, who);
    const gpa = this.#entryOnTheWay(who, pfn, step.level);
    if (way?.kind !== "table" || gpa === undefined) return;
    this.judge.translate(who, pfn, 1);
    if (machine.history.edits > 0) return;
    const { domainId } = way;
    machine.memory.poke(gpa, BigInt(step.value));
    if (machine.contextsStale) return;
    const list: Invalidation[] = [
      { what: step.by === "context" ? "contexts" : step.by, did: domainId, pfn, order: step.order },
    ];
    if (step.by === "context") list.push({ what: "all" });
    this.#submit(list);
    await this.#idle();
    demand((machine.read32(Offset.FSTS) & 0x10) === 0, "queue", () => `a sound ${step.by} invalidation gives an error`);
    if (machine.scheduler.deferredCount > 0) return;
    this.judge.begin();
    for (const access of [1, 2] as const) this.judge.translate(who, pfn, access, true);
    if (step.by === "all" || step.by === "context") machine.cachesAreClean();
    for (const consumer of machine.consumers.values()) {
      if (consumer.leaving || consumer.attachments[0]?.space !== space) continue;
      this.#checkPage(consumer, pfn);
    }
  }

  /** A MAP consumer holds the page as the tables have it. */
  #checkPage(consumer: Consumer, pfn: number): void {
    const machine = this.#machine;
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
    const { model, latched, read } = this.#machine;
    const seen: number[] = [];
    const spy: Read = (at) => {
      seen.push(Number(at));
      return read(at);
    };
    model.answer(latched, spy, requestOf(who, BigInt(pfn), 1), false);
    const gpa = seen.at(-1 - level);
    return gpa === undefined || gpa < 16 * 4096 ? undefined : gpa;
  }

  #truth(consumer: Consumer, pfn: number): ReturnType<ReturnType<Parameters<typeof makeConsumer>[3]>> {
    const machine = this.#machine;
    const unknown =
      machine.unsettled ||
      consumer.leaving ||
      (machine.plan.caches > 0 && machine.contextsStale) ||
      machine.overBudget.has(machine.space(consumer.who));
    if (unknown) return { known: false };
    return { known: true, reach: machine.model.reach(machine.latched, machine.read, consumer.who, pfn) };
  }

  #checkBreaches({ notifier }: Consumer): void {
    demand(notifier.breaches.length === 0, "contract", () => notifier.breaches.join("; "));
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

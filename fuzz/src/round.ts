/**
 * One round: carries out the steps of a scenario and checks what must hold after each.
 *
 * What a host may do wrong (attaching what cannot be served) is answered with an error that is taken note of; anything else that throws is a failure.
 */

import { whenDone } from "@iommu-kit/iommu-core";
import { RecordingNotifier } from "@iommu-kit/iommu-core/testing";
import { restore, save, type VtdSnapshot } from "@iommu-kit/iommu-vtd/snapshot";
import { Attachments } from "./attachments.js";
import { CheckedFlush } from "./checked-flush.js";
import { checkRegisters } from "./checks.js";
import { CoveredPage } from "./covered-page.js";
import { Devices } from "./devices.js";
import { Driver } from "./driver.js";
import { demand, Failure } from "./failure.js";
import { Judge } from "./judge.js";
import { Machine, Offset, SRTP } from "./machine.js";
import type { Latched } from "./model/facts.js";
import { Rest } from "./rest.js";
import { SilentDevice } from "./silent-device.js";
import type { Scenario, Step } from "./step.js";

/** Runs a scenario. @throws {Failure} for a broken invariant. Answers how many requests were judged, and what was in them. */
export async function runScenario(scenario: Scenario): Promise<Pick<Judge, "judged" | "open" | "census">> {
  const round = new Round(scenario);
  for (const [index, step] of scenario.steps.entries())
    await within(`step ${index} (${step.do})`, () => round.perform(step));
  await within("the end", () => round.end());
  return round.judge;
}

/** Says where a failure happened; whatever else throws there is one. */
async function within(where: string, act: () => Promise<void>): Promise<void> {
  try {
    await act();
  } catch (error) {
    if (error instanceof Failure) throw new Failure(error.kind, `${where}: ${error.message}`, { cause: error });
    const what = error instanceof Error ? (error.stack ?? error.message) : String(error);
    throw new Failure("threw", `${where}: ${what}`, { cause: error });
  }
}

class Round {
  readonly judge: Judge;
  readonly #machine: Machine;
  readonly #driver: Driver;
  readonly #devices: Devices;
  readonly #attachments: Attachments;
  readonly #rest: Rest;
  readonly #flush: CheckedFlush;
  readonly #cover: CoveredPage;
  readonly #silent: SilentDevice;
  #saved: { readonly snapshot: VtdSnapshot; readonly latched: Latched } | undefined;

  constructor(scenario: Scenario) {
    const machine = new Machine(scenario.unit);
    const judge = new Judge(machine);
    const driver = new Driver(machine);
    const devices = new Devices(machine, judge);
    const attachments = new Attachments(machine);
    const rest = new Rest(machine, attachments, devices);
    const parts = { machine, judge, driver, devices, rest };
    this.judge = judge;
    this.#machine = machine;
    this.#driver = driver;
    this.#devices = devices;
    this.#attachments = attachments;
    this.#rest = rest;
    this.#flush = new CheckedFlush(parts);
    this.#cover = new CoveredPage(parts);
    this.#silent = new SilentDevice(parts);
  }

  async perform(step: Step): Promise<void> {
    this.#machine.begin();
    await this.#act(step);
    checkRegisters(this.#machine);
    this.#attachments.checkBreaches();
  }

  /** The machine goes, in the middle of whatever is under way: nobody holds anything, and nothing is planned any more. */
  async end(): Promise<void> {
    const { unit, memory, scheduler } = this.#machine;
    memory.disarm();
    this.#attachments.allLeave();
    let done = false;
    whenDone(unit.destroy(), () => (done = true));
    await this.#rest.quiesce();
    this.#attachments.checkBreaches();
    demand(done, "completion", () => "the unit is not destroyed, and everybody has answered");
    const { deferredCount, timerCount } = scheduler;
    const left = (): string => `${deferredCount} tasks and ${timerCount} time-outs are left of a destroyed unit`;
    demand(deferredCount === 0 && timerCount === 0, "busy", left);
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
        machine.command(SRTP, true);
        return;
      case "enable":
        machine.command(0x8000_0000, step.on);
        return;
      case "queue":
        this.#driver.queue(step);
        return;
      case "submit":
        this.#driver.submit(step.list);
        return;
      case "registers":
        this.#driver.registers(step.it);
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
        await this.#rest.idle();
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
        await this.#flush.flush(step.by);
        return;
      case "cover":
        await this.#cover.cover(step);
        return;
      default:
        await this.#device(step);
    }
  }

  async #device(step: Exclude<Step, { do: "flush" | "cover" }>): Promise<void> {
    const machine = this.#machine;
    switch (step.do) {
      case "attach":
        this.#attachments.attach(step);
        return;
      case "share":
        this.#attachments.share(step);
        return;
      case "detach":
        this.#attachments.detach(step.slot);
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
        this.#devices.dma(step);
        return;
      case "ats":
        this.#devices.ats(step);
        return;
      case "page-request":
        this.#devices.pageRequest(step);
        return;
      case "interrupt": {
        this.#devices.interrupt(step);
        return;
      }
      case "unplug":
        this.#attachments.unplug(step.who);
        return;
      case "drop":
        await this.#silent.drop(step);
        return;
      default:
        throw new Error(`no such step: ${step.do}`);
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
}

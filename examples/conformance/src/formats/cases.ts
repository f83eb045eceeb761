/**
 * `vtd-cases`: DMA requests with their answers, fault registers, the invalidation queue, and what is cached when tables change.
 */

import type { MsiMessage } from "@iommu-kit/iommu-core";
import type { DeviationName } from "../deviations.js";
import type { Header } from "../files/header.js";
import { addressIn, hex, hexPfn, highWord, lowWord, numberIn, offsetIn, pagesOfMask, pfnIn } from "../files/numbers.js";
import { type DmaAnswer, formatMessage, formatRead, isMessage, Machine, maskPasid } from "../machine/machine.js";
import { Judges } from "../reference/judges.js";
import type { Delivered } from "../reference/messages.js";
import type { ReferenceAnswer } from "../reference/reference-unit.js";
import type { Tally } from "../report/tally.js";
import { coversMapping } from "./block-size.js";
import type { Case, CaseStep, DmaOutcome } from "./steps.js";

type DmaStep = Extract<CaseStep, readonly ["D", ...unknown[]]>;
type Step<Name extends string> = Extract<CaseStep, readonly [Name, ...unknown[]]>;

/** Runs one case on a fresh machine. */
export function runCase(header: Header, given: Case, tally: Tally): void {
  const runner = new CaseRunner(header, tally);
  given.s.forEach((step, index) => {
    tally.place = { id: given.id, step: index };
    runner.step(step);
  });
}

class CaseRunner {
  readonly #machine: Machine;
  readonly #judges: Judges;
  readonly #tally: Tally;

  constructor(header: Header, tally: Tally) {
    this.#machine = new Machine(header);
    this.#judges = new Judges(header, this.#machine.faultOffset);
    this.#tally = tally;
  }

  step(step: CaseStep): void {
    switch (step[0]) {
      case "M":
        this.#judges.store(numberIn(step[1]), step, 2);
        return this.#machine.store(numberIn(step[1]), step, 2);
      case "W":
        this.#judges.write(numberIn(step[1]), step[2], step[3]);
        return this.#machine.writeRegister(numberIn(step[1]), step[2], step[3]);
      case "R":
        return this.#read(step);
      case "D":
        return step[5].msi === undefined ? this.#dma(step) : this.#messageWrite(step);
      case "F":
        return this.#faultRegisters(step);
      case "X":
        return this.#memory(step);
      case "I":
        return this.#message(step);
      default:
        throw new Error(`step ${step[0]} does not belong to this format`);
    }
  }

  #read([, at, size, text]: Step<"R">): void {
    const offset = numberIn(at);
    const ours = this.#machine.readRegister(offset, size);
    const same = ours.low === lowWord(text) && ours.high === highWord(text);
    if (same) return this.#tally.pass("register");
    const deviation = ours.high === highWord(text) ? this.#judges.register(offset, ours.low, lowWord(text)) : undefined;
    this.#differ("register", deviation, () => [`read of ${at}`, formatRead(ours), text]);
  }

  #faultRegisters([, fsts, low, high]: Step<"F">): void {
    const ours = this.#machine.faultWords();
    const theirs = [
      lowWord(fsts),
      lowWord(low),
      highWord(low),
      lowWord(high),
      maskPasid(highWord(high), lowWord(high)),
    ];
    const same = (words: readonly number[], others: readonly number[]): boolean =>
      words.every((word, index) => word === others[index]);
    if (same(ours, theirs)) return this.#tally.pass("fault registers");
    const { architecture, oracle } = this.#judges;
    const predicted =
      same(ours, [architecture.faults.status, ...architecture.faults.record]) &&
      same(theirs, [oracle.faults.status, ...oracle.faults.record]);
    const cause = oracle.faults.cause ?? oracle.queue.cause;
    this.#differ("fault registers", predicted ? cause : undefined, () => [
      "FSTS, FRCD",
      ours.map(hex).join(" "),
      theirs.map(hex).join(" "),
    ]);
  }

  #memory([, at, ...texts]: Step<"X">): void {
    const gpa = numberIn(at);
    const ours = this.#machine.memory;
    const { architecture, oracle } = this.#judges;
    const theirs = texts.flatMap((text) => [lowWord(text), highWord(text)]);
    const bad = theirs.findIndex((word, index) => ours.wordAt(gpa + index * 4) !== word);
    if (bad < 0) return this.#tally.pass("memory");
    const predicted = theirs.every((word, index) => {
      const place = gpa + index * 4;
      return oracle.memory.wordAt(place) === word && architecture.memory.wordAt(place) === ours.wordAt(place);
    });
    const where = gpa + bad * 4;
    this.#differ("memory", predicted ? oracle.queue.cause : undefined, () => [
      `memory at ${hex(where)}`,
      hex(ours.wordAt(where)),
      hex(theirs[bad] ?? 0),
    ]);
  }

  #message([, sid, address, data, { msi }]: Step<"I">): void {
    const ours = this.#machine.interrupt(numberIn(sid), address, numberIn(data));
    this.#judgeMessage("interrupt", ours, { sid, address, data, msi });
  }

  /** A write to the interrupt window. The oracle's requests of this kind carry no requester-id, so source validation finds nothing to compare; ours carry none either. */
  #messageWrite([, , , iova, , { msi = null }, data = "0x0"]: DmaStep): void {
    const ours = this.#machine.interrupt(undefined, iova, lowWord(data));
    this.#judgeMessage("message write", ours, { sid: undefined, address: iova, data, msi });
  }

  /** `sid` is `undefined` for a message without requester-id. */
  #judgeMessage(kind: string, ours: MsiMessage | undefined, asked: AskedMessage): void {
    const { sid, address, data, msi } = asked;
    if (msi === null ? ours === undefined : isMessage(ours, ...msi)) return this.#tally.pass(kind);
    const answers = [this.#judges.architecture, this.#judges.oracle].map((unit) =>
      unit.messages.answer(sid === undefined ? undefined : numberIn(sid), lowWord(address), numberIn(data)),
    );
    const [here, there] = answers;
    const predicted =
      isDelivered(here?.delivered, ours) &&
      isDelivered(
        there?.delivered,
        msi === null ? undefined : { address: lowWord(msi[0]), addressHigh: 0, data: numberIn(msi[1]) },
      );
    this.#differ(kind, predicted ? there?.cause : undefined, () => [
      `message ${address} ${data} of ${sid ?? "a device"}`,
      formatMessage(ours),
      msi === null ? "none" : msi.join(" "),
    ]);
  }

  #dma([, sid, direction, iova, byteLength, outcome, data = "0x0"]: DmaStep): void {
    const write = direction === "w";
    const bytes = write ? littleEndian(lowWord(data), byteLength) : new Uint8Array(byteLength);
    const [sourceId, pfn] = [numberIn(sid), pfnIn(iova)];
    const before = this.#machine.faultWords().join();
    const ours = this.#machine.dma(sourceId, addressIn(iova), pfn, { write, bytes });
    const changed = before !== this.#machine.faultWords().join();
    const here = this.#judges.architecture.request(sourceId, pfn, write);
    const there = this.#judges.oracle.request(sourceId, pfn, write);
    const theirs = `${write ? "write" : "read"} of ${sid} at ${iova}`;
    const details = (): Details => [theirs, formatAnswer(ours), JSON.stringify(outcome)];
    // Only a reference unit can tell "refused and recorded" from "refused in silence" while a record is still occupied.
    const silence = here.kind === "refused" && there.kind === "refused" && here.recorded !== there.recorded;
    const same = sameAnswer(ours, iova, outcome) && !silence && !(changed && outcome.blocked !== undefined);
    if (same && this.#arrived(ours, iova, write ? bytes : undefined)) return this.#tally.pass("dma");
    const predicted =
      predicts(here, ours, pfn) && matches(there, outcome) && !(changed && here.kind === "refused" && !here.recorded);
    this.#differ("dma", predicted ? there.cause : undefined, details);
  }

  /** Whether written data is where the answer says. Where there is no RAM, there is nothing to see. */
  #arrived(ours: DmaAnswer, iova: string, bytes: Uint8Array | undefined): boolean {
    if (ours.reason !== undefined || bytes === undefined) return true;
    const found = new Uint8Array(bytes.length);
    if (!this.#machine.memory.read(ours.gpaPfn * 4096 + offsetIn(iova), found)) return true;
    return found.every((byte, index) => byte === bytes[index]);
  }

  #differ(kind: string, deviation: DeviationName | undefined, describe: () => Details): void {
    if (deviation === undefined) this.#tally.fail(kind, ...describe());
    else this.#tally.deviate(kind, deviation);
  }
}

type Details = readonly [what: string, ours: string, theirs: string];

interface AskedMessage {
  readonly sid: string | undefined;
  readonly address: string;
  readonly data: string;
  readonly msi: readonly [string, string] | null;
}

function sameAnswer(ours: DmaAnswer, iova: string, outcome: DmaOutcome): boolean {
  if (ours.reason !== undefined)
    return outcome.blocked !== undefined || (outcome.fault !== undefined && outcome.fault === ours.reason);
  if (outcome.untranslated === 1) return ours.gpaPfn === pfnIn(iova);
  return (
    outcome.gpa !== undefined &&
    ours.gpaPfn === pfnIn(outcome.gpa) &&
    (outcome.mask === undefined || coversMapping({ ...ours, iovaPfn: pfnIn(iova) }, pagesOfMask(outcome.mask)))
  );
}

/** Whether a reference unit predicted our answer. */
function predicts(answer: ReferenceAnswer, ours: DmaAnswer, iovaPfn: number): boolean {
  if (ours.reason !== undefined) return answer.kind === "refused" && answer.reason === ours.reason;
  if (answer.kind === "passed") return ours.gpaPfn === iovaPfn;
  return (
    answer.kind === "translated" &&
    ours.gpaPfn === answer.gpaPfn &&
    coversMapping({ ...ours, iovaPfn }, answer.pageCount) &&
    ours.access === answer.access
  );
}

/** Whether a reference unit predicted the oracle's answer. */
function matches(answer: ReferenceAnswer, outcome: DmaOutcome): boolean {
  switch (answer.kind) {
    case "passed":
      return outcome.untranslated === 1;
    case "refused":
      return answer.recorded ? outcome.fault === answer.reason : outcome.blocked !== undefined;
    default:
      return (
        outcome.gpa !== undefined &&
        outcome.mask !== undefined &&
        pfnIn(outcome.gpa) === answer.gpaPfn &&
        pagesOfMask(outcome.mask) === answer.pageCount
      );
  }
}

function isDelivered(answer: Delivered | undefined, message: MsiMessage | undefined): boolean {
  if (answer === undefined || message === undefined) return answer === message;
  return answer.address === message.address && answer.data === message.data && message.addressHigh === 0;
}

function littleEndian(value: number, byteLength: number): Uint8Array {
  return Uint8Array.from({ length: byteLength }, (_, index) => (value >>> (8 * index)) & 255);
}

function formatAnswer(answer: DmaAnswer): string {
  if (answer.reason !== undefined) return `refused, reason ${hex(answer.reason)}`;
  return `to ${hexPfn(answer.gpaPfn)}, ${answer.pageCount} pages, rights ${answer.access}`;
}

/**
 * `vtd-linux-trace`: what the unmodified Linux driver did, given to our unit event by event; what the recorded unit concluded, compared.
 *
 * Inputs are M, W, R, T and I. All other events tell what the oracle made of the input before them (E and G of a fault: of the input after them).
 * A and the page walks P and K explain the oracle's notifications and have nothing to be compared with; Q is seen in the queue's head (and names what was invalidated).
 */

import { ALL_FRAMES, formatSourceId } from "@iommu-kit/iommu-core";
import type { Header } from "../files/header.js";
import { hex, hexPfn, highWord, lowWord, numberIn, pagesOfMask, pfnIn } from "../files/numbers.js";
import { type DmaAnswer, formatMessage, formatRead, isMessage, Machine, maskPasid } from "../machine/machine.js";
import { ReferenceWalk, rootOf } from "../reference/walk.js";
import type { Tally } from "../report/tally.js";
import { CachedAnswers } from "../view/cached-answers.js";
import { WatchedDevices } from "../view/watched-devices.js";
import { coversMapping } from "./block-size.js";
import { follow } from "./replay.js";
import { type TraceEvent, unfold } from "./trace-events.js";
import { ViewExplanations } from "./view-explanations.js";

type Named<Name extends string> = Extract<TraceEvent, readonly [Name, ...unknown[]]>;

const GCMD = 0x18;
const RTADDR = 0x20;
const TRANSLATION_ENABLE = 0x8000_0000;
const SET_ROOT = 0x4000_0000;
const FSTS = 0x34;
const IQA = 0x90;
/** F of a fault record's last word; PP of the word before. */
const RECORD_VALID = 0x8000_0000;
const PASID_PRESENT = 0x8000_0000;
/** PPF of FSTS. */
const RECORD_PENDING = 2;

/** See the file's header. Feed it every line in order, then `finish`. */
export class TraceRunner {
  readonly #machine: Machine;
  readonly #walk: ReferenceWalk;
  readonly #devices: WatchedDevices;
  readonly #cached: CachedAnswers;
  readonly #explanations: ViewExplanations;
  readonly #tally: Tally;
  /** The fault and the messages that belong to the next T. */
  #fault: Named<"E"> | undefined;
  #expected: Named<"G">[] = [];
  /** Status writes of the present input: the last value of each. */
  readonly #stores = new Map<string, string>();
  #rootText = "0";
  /** Codes of scalable mode that have been recorded, and the legacy codes that the oracle has in their place. */
  readonly #codes = new Map<number, number>();
  /** Whether something has happened since views were last compared. */
  #pending = false;

  constructor(header: Header, tally: Tally) {
    this.#machine = new Machine(header);
    this.#walk = new ReferenceWalk(header, this.#machine.memory);
    this.#cached = new CachedAnswers(this.#machine, header.sourceIds);
    this.#explanations = new ViewExplanations(this.#walk);
    this.#tally = tally;
    const watched = (header.cap[0] & 0x80) === 0 ? [] : header.sourceIds;
    this.#devices = new WatchedDevices(this.#machine, watched, tally);
  }

  event(event: TraceEvent): void {
    switch (event[0]) {
      case "M":
        this.#endOfInput();
        return this.#machine.store(numberIn(event[1]), event, 2);
      case "W":
        return this.#write(event);
      case "R":
        return this.#read(event);
      case "T":
        return this.#translate(event);
      case "I":
        return this.#interrupt(event);
      case "S":
        return this.#registers(event);
      case "X":
        this.#stores.set(event[1], event[2]);
        return;
      case "E":
        this.#endOfInput();
        this.#fault = event;
        return;
      case "G":
        this.#expected.push(event);
        if (this.#fault === undefined) this.#messages();
        return;
      case "Q":
        return this.#explanations.descriptor(event[1], event[2]);
      case "N":
      case "L":
        return follow(this.#devices, event);
      default:
        this.#tally.note(`events without a counterpart (${event[0]})`);
    }
  }

  /** Ends the trace. */
  finish(): void {
    this.#endOfInput();
    this.#devices.finish();
  }

  #write([, at, size, text]: Named<"W">): void {
    this.#endOfInput();
    const offset = numberIn(at);
    const value = lowWord(text);
    if (offset === RTADDR) this.#rootText = text;
    if (offset === GCMD && (value & SET_ROOT) !== 0)
      this.#explanations.root = rootOf(lowWord(this.#rootText), highWord(this.#rootText));
    const wasOn = this.#machine.unit.mmio.read32(0x1c) >= TRANSLATION_ENABLE;
    if (offset === GCMD && value < TRANSLATION_ENABLE && wasOn) this.#finalViews();
    this.#machine.writeRegister(offset, size, text);
    this.#devices.settle();
    this.#pending = true;
  }

  #read([, at, size, text]: Named<"R">): void {
    this.#endOfInput();
    const offset = numberIn(at);
    const ours = this.#machine.readRegister(offset, size);
    if (ours.high === highWord(text)) this.#compareRegister("register read", offset, ours.low, lowWord(text));
    else this.#tally.fail("register read", `read of ${at}`, formatRead(ours), text);
  }

  #registers([, ...pairs]: Named<"S">): void {
    for (let index = 0; index < pairs.length; index += 2) {
      const offset = numberIn(pairs[index] ?? "0");
      // The recorder shows IQA when the queue is enabled, and never its DW bit; the driver does not read it.
      if (offset === IQA || offset === IQA + 4) continue;
      this.#compareRegister(
        "register after write",
        offset,
        this.#machine.unit.mmio.read32(offset),
        lowWord(pairs[index + 1] ?? "0"),
      );
    }
  }

  #compareRegister(kind: string, offset: number, ours: number, theirs: number): void {
    const { unit, faultOffset } = this.#machine;
    const flags = unit.mmio.read32(faultOffset + 8);
    const last = offset === faultOffset + 12;
    const [here, there] = last ? [maskPasid(ours, flags), maskPasid(theirs, flags)] : [ours, theirs];
    if (here === there) return this.#tally.pass(kind);
    if (last && here - (here & 0xff) === there - (there & 0xff) && this.#codes.get(here & 0xff) === (there & 0xff))
      return this.#tally.deviate(kind, "scalable-mode-with-legacy-codes");
    if (offset === faultOffset + 8 && this.#explanations.root.scalable && there === here + PASID_PRESENT)
      return this.#tally.deviate(kind, "records-without-pasid-say-pasid-0");
    this.#tally.fail(kind, `register ${hex(offset)}`, hex(here), hex(there));
  }

  #translate(event: Named<"T">): void {
    this.#endOfInput();
    const { parts, times } = unfold(event as readonly (string | number | { x: number })[]);
    const [, sid, access, iova, gpa, mask, rights] = parts as [
      string,
      string,
      1 | 2,
      string,
      string?,
      string?,
      number?,
    ];
    const asked = { sourceId: numberIn(sid), iovaPfn: pfnIn(iova), access };
    for (let time = 0; time < times; time++) {
      const ours = this.#machine.translate(asked.sourceId, asked.iovaPfn, access);
      if (gpa === undefined || mask === undefined || rights === undefined) this.#refused(asked, ours);
      else this.#answered(asked, ours, { gpaPfn: pfnIn(gpa), pageCount: pagesOfMask(mask), access: rights });
      this.#fault = undefined;
      this.#messages();
    }
  }

  #refused(asked: Asked, ours: DmaAnswer): void {
    const reason = this.#fault?.[2];
    if (ours.reason !== undefined && ours.reason === reason) return this.#tally.pass("dma");
    const context = this.#walk.context(this.#explanations.root, asked.sourceId);
    if (context.valid && context.scalable && reason !== undefined) {
      const here = this.#walk.walk(context, asked.iovaPfn, asked.access);
      const there = this.#walk.walk({ ...context, scalable: false }, asked.iovaPfn, asked.access);
      if (ours.reason === here && there === reason && typeof here === "number") {
        this.#codes.set(here, there);
        this.#tally.note(`faults with legacy code ${hex(there)} where ours is ${hex(here)}`);
        return this.#tally.deviate("dma", "scalable-mode-with-legacy-codes");
      }
    }
    this.#tally.fail("dma", describe(asked), formatAnswer(ours), `refused, reason ${reason ?? "missing"}`);
  }

  #answered(asked: Asked, ours: DmaAnswer, theirs: Block): void {
    if ((theirs.access & asked.access) === 0) return this.#silence(asked, ours, theirs);
    const untranslated = this.#machine.space(asked.sourceId).domain.kind === "bypass";
    // Where nothing is translated, the size of the answer is nobody's mapping.
    const same =
      ours.reason === undefined &&
      ours.access === theirs.access &&
      (untranslated ? ours.gpaPfn === theirs.gpaPfn : isBlock(ours, asked.iovaPfn, theirs));
    this.#judge("dma", same, () => [describe(asked), formatAnswer(ours), formatAnswer(theirs)]);
    if (ours.reason !== undefined) return;
    const cached = this.#cached.take(asked.sourceId, asked.iovaPfn, ours);
    if (cached === "kept") this.#tally.pass("cached answer");
    else if (cached === "stale")
      this.#tally.fail("cached answer", describe(asked), "held another answer", formatAnswer(ours));
  }

  /**
   * The oracle answered from its cache with rights that do not cover the request, and recorded nothing. By the architecture this is a fault like any other; it is
   * acknowledged here as the driver would, because the recorded driver never saw one.
   */
  #silence(asked: Asked, ours: DmaAnswer, theirs: Block): void {
    const { mmio } = this.#machine.unit;
    const context = this.#walk.context(this.#explanations.root, asked.sourceId);
    const here = context.valid ? this.#walk.walk(context, asked.iovaPfn, asked.access) : context.reason;
    const there = context.valid ? this.#walk.walk(context, asked.iovaPfn, theirs.access) : context.reason;
    const told =
      typeof there !== "number" &&
      there.gpaPfn === theirs.gpaPfn &&
      there.pageCount === theirs.pageCount &&
      there.access === theirs.access;
    const refused = typeof here === "number" && ours.reason === here && this.#isRecorded(asked, here);
    mmio.write32(this.#machine.faultOffset + 12, RECORD_VALID);
    const events = this.#machine.takeMessages();
    const acknowledged = events.length === 1 && mmio.read32(FSTS) === 0;
    if (asked.access === 2 && told && refused && acknowledged) this.#tally.deviate("dma", "write-refused-in-silence");
    else this.#tally.fail("dma", describe(asked), formatAnswer(ours), `${formatAnswer(theirs)}, in silence`);
  }

  /** Whether the fault record says exactly this. */
  #isRecorded({ sourceId, iovaPfn, access }: Asked, reason: number): boolean {
    const [status, ...record] = this.#machine.faultWords();
    const expected = [
      (iovaPfn % 2 ** 20) * 4096,
      Math.floor(iovaPfn / 2 ** 20),
      sourceId,
      RECORD_VALID + (access === 2 ? 0 : 0x4000_0000) + reason,
    ];
    return status === RECORD_PENDING && record.every((word, index) => word === expected[index]);
  }

  #interrupt(event: Named<"I">): void {
    this.#endOfInput();
    const { parts, times } = unfold(event as readonly (string | { x: number })[]);
    const [, sid, address, data, address2, data2] = parts as [string, string, string, string, string?, string?];
    for (let time = 0; time < times; time++) {
      const ours = this.#machine.interrupt(sid === "-" ? undefined : numberIn(sid), address, lowWord(data));
      const same =
        address2 === undefined || data2 === undefined ? ours === undefined : isMessage(ours, address2, data2);
      this.#judge("interrupt", same, () => [
        `message ${address} ${data} of ${sid}`,
        formatMessage(ours),
        address2 === undefined ? "none" : `${address2} ${data2 ?? ""}`,
      ]);
    }
  }

  /** Compares the messages of the unit itself with what the file says it sent. */
  #messages(): void {
    const theirs = this.#expected;
    this.#expected = [];
    const ours = this.#machine.takeMessages();
    for (let index = 0; index < Math.max(ours.length, theirs.length); index++) {
      const [, address, data] = theirs[index] ?? [];
      const same = address !== undefined && data !== undefined && isMessage(ours[index], address, data);
      this.#judge("message of the unit", same, () => [
        "fault event or completion",
        formatMessage(ours[index]),
        address === undefined ? "none" : `${address} ${data ?? ""}`,
      ]);
    }
  }

  /** Everything that followed the last input has been read: compare what it left behind. */
  #endOfInput(): void {
    for (const [at, value] of this.#stores) {
      const ours = this.#machine.memory.wordAt(numberIn(at));
      this.#judge("status write", ours === lowWord(value), () => [`memory at ${at}`, hex(ours), value]);
    }
    this.#stores.clear();
    if (!this.#pending) return;
    this.#pending = false;
    this.#messages();
    this.#devices.compareTouched("view after write", (device, told, difference) =>
      this.#explanations.afterWrite(device, told, difference),
    );
    this.#explanations.endOfWrite();
  }

  #finalViews(): void {
    for (const device of this.#devices) {
      this.#devices.compareAll(device, "final view", {
        explain: (_, __, difference) => this.#explanations.atEnd(device, difference),
      });
      const stale = device.page.view.difference(device.theirs, ALL_FRAMES).length;
      if (device.sections.size > 0 && stale > 0)
        this.#tally.note(`stale mappings the oracle still holds of ${formatSourceId(device.sourceId)}`, stale);
    }
  }

  #judge(kind: string, same: boolean, details: () => readonly [string, string, string]): void {
    if (same) this.#tally.pass(kind);
    else this.#tally.fail(kind, ...details());
  }
}

interface Asked {
  readonly sourceId: number;
  readonly iovaPfn: number;
  readonly access: 1 | 2;
}

interface Block {
  readonly gpaPfn: number;
  readonly pageCount: number;
  readonly access: number;
}

/** Whether an answer lies in this block; the file tells of the start of the block. */
function isBlock(
  ours: { readonly gpaPfn: number; readonly pageCount: number },
  iovaPfn: number,
  block: Block,
): boolean {
  return (
    coversMapping({ ...ours, iovaPfn }, block.pageCount) && ours.gpaPfn === block.gpaPfn + (iovaPfn % block.pageCount)
  );
}

function describe({ sourceId, iovaPfn, access }: Asked): string {
  return `${access === 2 ? "write" : "read"} of ${hex(sourceId)} at ${hexPfn(iovaPfn)}`;
}

function formatAnswer(answer: DmaAnswer | Block): string {
  if ("reason" in answer && answer.reason !== undefined) return `refused, reason ${hex(answer.reason)}`;
  const { gpaPfn, pageCount, access } = answer;
  return `to ${hexPfn(gpaPfn)}, ${pageCount} pages, rights ${access}`;
}

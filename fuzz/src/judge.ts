/**
 * Judges what devices get: every answer must follow from the tables, exactly while nothing has changed since the caches were clean, and otherwise from what the tables have
 * said since then.
 */

import { type Access, byteAddress, Translation } from "@iommu-kit/iommu-core";
import { demand } from "./failure.js";
import type { History } from "./history.js";
import { type Machine, Offset } from "./machine.js";
import type { ModelAnswer } from "./model/facts.js";
import { inWindow } from "./model/facts.js";
import { requestOf } from "./model/naive-machine.js";
import type { Who } from "./step.js";

/** A request as it is judged. */
interface Asked {
  readonly who: Who;
  readonly pfn: number;
  readonly access: number;
  /** The answer by the present tables. */
  readonly now: ModelAnswer;
  /** Only the present tables may be answered from. */
  readonly certain: boolean;
}

/** Fetches of guest memory that one page may cost: nested five-level walks, begun anew when a guest interferes. */
const MOST_FETCHES = 600;

/** How much of a page a probing transfer takes: within a page, near its end. */
export const PROBE_BYTES = 64;

/** See the file's header. */
export class Judge {
  /** Requests judged. */
  judged = 0;
  /** What was translated, and how often. */
  readonly census = new Map<string, number>();
  /** Requests with more possible histories than were tried. */
  open = 0;
  readonly #machine: Machine;
  readonly #out = new Translation();

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  /** One translation. `exact`: nothing older than the present tables may be answered. */
  translate(who: Who, pfn: number, access: Access, exact = false): Translation {
    const machine = this.#machine;
    const out = this.#out;
    if (who.pasid === undefined && inWindow(BigInt(pfn))) return out;
    const space = machine.space(who);
    this.begin();
    const clean = this.#noFaults();
    const before = this.#ask(who, pfn, access);
    space.translate(pfn, access, out);
    const where = (): string => `${space.label} ${access} at ${pfn.toString(16)}`;
    const { fetches } = machine.memory;
    demand(fetches <= MOST_FETCHES, "walk", () => `${where()}: ${fetches} fetches for one page`);
    const got = out.reason === 0 ? { code: 0, gpaPfn: out.gpaPfn, access: out.access } : { code: out.reason };
    const certain = this.#isCertain(exact);
    this.#accept(got, { who, pfn, access, now: before, certain }, where);
    if (certain && before.code !== 0) this.#checkRecord(clean, before, who, pfn, where);
    if (certain && machine.plan.caches === 0) this.#checkFlags(before, where);
    if (certain && before.code === 0 && out.pageCount > 1) this.#checkBlock(who, pfn, access, where);
    return out;
  }

  /** A transfer: the bytes must come from and go to where the tables say. `exact`: the present ones. */
  transfer(who: Who, pfn: number, how: "read" | "write", byteLength: number, exact = false): void {
    const machine = this.#machine;
    const space = machine.space(who);
    const offset = byteLength % 7 === 0 ? 0 : 4096 - (byteLength % 128) - 1;
    const pages = Math.ceil((offset + byteLength) / 4096);
    const pfns = Array.from({ length: pages }, (_, i) => (pfn + i) % 2 ** 52);
    if (pfn + pages > 2 ** 52 || pfns.some((page) => who.pasid === undefined && inWindow(BigInt(page)))) return;
    this.begin();
    const wanted = how === "read" ? 1 : 2;
    const before = pfns.map((page) => this.#ask(who, page, wanted));
    const bytes = new Uint8Array(byteLength).fill(0x5a);
    const done =
      how === "read" ? space.dma.read(addressOf(pfn, offset), bytes) : space.dma.write(addressOf(pfn, offset), bytes);
    const where = (): string => `${space.label} ${how} of ${byteLength} bytes at ${pfn.toString(16)}+${offset}`;
    this.judged += 1;
    if (this.#isCertain(exact) && (how === "read" || pages === 1)) {
      const expected = before.every(({ code, gpaPfn }) => code === 0 && machine.memory.has(gpaPfn * 4096));
      demand(done === expected, "dma", () => `${where()}: answered ${done}, the tables say ${expected}`);
      if (done && how === "read") this.#checkBytes(bytes, before, offset, where);
    }
    if (how === "write") this.#checkWritten(who, pfns, where);
  }

  /** A translation that a device was given to keep: the rights must be granted. */
  granted(who: Who, pfn: number, gpaPfn: number, access: Access): void {
    for (const wanted of [1, 2] as const) {
      if ((access & wanted) === 0) continue;
      const now = this.#ask(who, pfn, wanted);
      const where = (): string => `ATS ${JSON.stringify(who)} ${wanted} at ${pfn.toString(16)}`;
      const matches = (answer: ModelAnswer): boolean => answer.code === 0 && answer.gpaPfn === gpaPfn;
      const asked = { who, pfn, access: wanted, now, certain: this.#isCertain(false) };
      this.#explain(matches, asked, () => `${where()}: granted ${gpaPfn.toString(16)}`);
      this.count("translations for a device TLB");
    }
  }

  /** Starts to listen for changes. */
  begin(): void {
    const machine = this.#machine;
    machine.memory.resetCounters();
    machine.requestHistory.clear();
  }

  get #history(): History {
    const { plan, history, requestHistory } = this.#machine;
    return plan.caches > 0 ? history : requestHistory;
  }

  #isCertain(exact: boolean): boolean {
    return exact ? this.#machine.requestHistory.edits === 0 : this.#history.edits === 0;
  }

  #ask(who: Who, pfn: number, access: number): ModelAnswer {
    const { model, latched, read } = this.#machine;
    return model.answer(latched, read, requestOf(who, BigInt(pfn), access));
  }

  #accept(
    got: { readonly code: number; readonly gpaPfn?: number; readonly access?: number },
    asked: Asked,
    where: () => string,
  ): void {
    const matches = (answer: ModelAnswer): boolean => {
      if (got.code !== 0) return answer.code === got.code || isGivenUp(got.code);
      return answer.code === 0 && answer.gpaPfn === got.gpaPfn && answer.access === got.access;
    };
    const text =
      got.code === 0 ? `allowed ${got.gpaPfn?.toString(16)} ${got.access}` : `refused ${got.code.toString(16)}`;
    this.#explain(matches, asked, () => `${where()}: ${text}`);
  }

  #explain(matches: (answer: ModelAnswer) => boolean, asked: Asked, what: () => string): void {
    const machine = this.#machine;
    const { who, pfn, access, now, certain } = asked;
    this.judged += 1;
    if (matches(now)) {
      if (now.code === 0) this.#countWay(who);
      return;
    }
    const tables = now.code === 0 ? `${now.gpaPfn.toString(16)} ${now.access}` : `refusal ${now.code.toString(16)}`;
    demand(!certain, "dma", () => `${what()}, the tables say ${tables}`);
    const request = requestOf(who, BigInt(pfn), access);
    const explained = this.#history.explains(
      machine.read,
      (read) => machine.model.answer(machine.latched, read, request),
      matches,
    );
    if (explained === undefined) {
      this.open += 1;
      this.judged -= 1;
    }
    demand(
      explained !== false,
      "stale",
      () => `${what()}, the tables say ${tables} and never said that since the last flush`,
    );
  }

  /** Takes note of something that a guest did with success. */
  count(what: string): void {
    this.census.set(what, (this.census.get(what) ?? 0) + 1);
  }

  #countWay(who: Who): void {
    const { model, latched, read } = this.#machine;
    const way = model.wayOf(latched, read, who);
    if (way !== undefined) this.count(way.kind === "table" ? way.name : way.kind);
  }

  /** The rest of the block goes where it continues. */
  #checkBlock(who: Who, pfn: number, access: Access, where: () => string): void {
    const { pageCount, gpaPfn } = this.#out;
    const first = pfn - (pfn % pageCount);
    for (const page of [first, first + pageCount - 1]) {
      if (who.pasid === undefined && inWindow(BigInt(page))) continue;
      const answer = this.#ask(who, page, access);
      const target = gpaPfn + (page - pfn);
      demand(
        answer.code === 0 && answer.gpaPfn === target,
        "block",
        () => `${where()}: ${pageCount} pages, but ${page.toString(16)} is another matter`,
      );
    }
  }

  #noFaults(): boolean {
    return (this.#machine.read32(Offset.FSTS) & 3) === 0;
  }

  #checkRecord(clean: boolean, answer: ModelAnswer, who: Who, pfn: number, where: () => string): void {
    if (!clean) return;
    const machine = this.#machine;
    const status = machine.read32(Offset.FSTS);
    const recorded = (status & 2) !== 0;
    demand(
      recorded === answer.recorded,
      "record",
      () => `${where()}: recorded ${recorded}, expected ${answer.recorded}`,
    );
    if (!recorded) return;
    const at = Offset.FRCD + ((status >> 8) & 0xff) * 16;
    const low = machine.read64(at);
    const high = machine.read64(at + 8);
    const expected = [BigInt(answer.code), BigInt(who.source), BigInt(pfn % 2 ** 27)];
    const got = [(high >> 32n) & 0xffn, high & 0xffffn, (low >> 12n) % (1n << 27n)];
    demand(
      expected.join() === got.join(),
      "record",
      () => `${where()}: record ${got.join()}, expected ${expected.join()}`,
    );
  }

  /** The unit writes accessed and dirty flags, and nothing else. */
  #checkFlags(answer: ModelAnswer, where: () => string): void {
    const got = this.#machine.memory.unitWrites.map(
      ([gpa, word]) => `${gpa.toString(16)}=${(word >>> 0).toString(16)}`,
    );
    const expected = answer.flags.map(([gpa, word]) => `${gpa.toString(16)}=${(word & 0xffffffffn).toString(16)}`);
    demand(
      got.join() === expected.join(),
      "flags",
      () => `${where()}: wrote ${got.join()}, expected ${expected.join()}`,
    );
  }

  #checkBytes(bytes: Uint8Array, answers: readonly ModelAnswer[], offset: number, where: () => string): void {
    const { memory } = this.#machine;
    for (const at of [0, bytes.length >> 1, bytes.length - 1]) {
      const byte = offset + at;
      const gpa = (answers[Math.floor(byte / 4096)]?.gpaPfn ?? 0) * 4096 + (byte % 4096);
      const word = memory.peek(gpa - (gpa % 8)) ?? 0n;
      const expected = Number((word >> BigInt((gpa % 8) * 8)) & 0xffn);
      demand(bytes[at] === expected, "dma", () => `${where()}: byte ${at} is ${bytes[at]}, memory has ${expected}`);
    }
  }

  /** Whatever was written lies where some page of the request may go. */
  #checkWritten(who: Who, pfns: readonly number[], where: () => string): void {
    const machine = this.#machine;
    for (const frame of machine.memory.deviceFrames) {
      const explained = pfns.some((pfn) => {
        const request = requestOf(who, BigInt(pfn), 2);
        const matches = (answer: ModelAnswer): boolean => answer.code === 0 && answer.gpaPfn === frame;
        return (
          this.#history.explains(
            machine.read,
            (read) => machine.model.answer(machine.latched, read, request),
            matches,
          ) !== false
        );
      });
      demand(explained, "write", () => `${where()}: frame ${frame.toString(16)} was written`);
    }
  }
}

/** A number where one is exact, as devices use it. */
function addressOf(pfn: number, offset: number): number | bigint {
  const exact = byteAddress(pfn, offset);
  return pfn < 2 ** 41 ? Number(exact) : exact;
}

/** A walk that a guest spoiled again and again is given up with these. */
function isGivenUp(code: number): boolean {
  return code === 0x7d || code === 0x91;
}

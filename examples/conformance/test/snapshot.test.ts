/**
 * Snapshots at random places of recorded Linux traces: a fresh unit that takes one up finishes the trace as the first unit did.
 *
 * Cuts lie between events and inside of them, with work left to later slices. What is compared: every register read, translation, interrupt, message of the unit and status
 * word from the cut to the end, and what notifiers hold, right after the cut and at the end.
 */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { ALL_FRAMES, type Completion, type MsiMessage, Translation } from "@iommu-kit/iommu-core";
import { ManualScheduler } from "@iommu-kit/iommu-core/testing";
import { VtdIommu } from "@iommu-kit/iommu-vtd";
import { restore, save } from "@iommu-kit/iommu-vtd/snapshot";
import { describe, expect, it } from "vitest";
import { formatOf, type Header } from "../src/files/header.js";
import { highWord, lowWord, numberIn, pfnIn } from "../src/files/numbers.js";
import { type TraceEvent, unfold } from "../src/formats/trace-events.js";
import { SparseMemory } from "../src/machine/sparse-memory.js";
import { configOf } from "../src/machine/unit-config.js";
import { ViewNotifier } from "../src/view/view-notifier.js";

type Input = Extract<TraceEvent, readonly ["M" | "W" | "R" | "T" | "I" | "X", ...unknown[]]>;

/** Small enough that a flush of a larger domain takes several slices. */
const ENTRIES_PER_SLICE = 2048;

interface Trace {
  readonly header: Header;
  readonly inputs: readonly Input[];
}

/** Reads a trace: its inputs, and the status words that the first unit stored. */
function readTrace(name: string, most: number): Trace {
  const path = fileURLToPath(new URL(`../data/${name}.jsonl.gz`, import.meta.url));
  const [head, ...lines] = gunzipSync(readFileSync(path)).toString("utf8").trimEnd().split("\n");
  const events = lines.map((line) => JSON.parse(line) as TraceEvent);
  const inputs = events.filter((event): event is Input => ["M", "W", "R", "T", "I", "X"].includes(event[0]));
  return { header: formatOf(path, JSON.parse(head ?? "{}")), inputs: inputs.slice(0, most) };
}

/** Memory that can become another's. */
class CopiedMemory extends SparseMemory {
  readonly touched = new Set<number>();

  override writeWord(gpa: number, word: number): boolean {
    this.touched.add(Math.floor(gpa / 4096));
    return super.writeWord(gpa, word);
  }

  copyOf(other: CopiedMemory): void {
    const bytes = new Uint8Array(4096);
    for (const pfn of other.touched) {
      this.touched.add(pfn);
      other.read(pfn * 4096, bytes);
      this.write(pfn * 4096, bytes);
    }
  }
}

/** A notifier that acknowledges the events of a step later: wait descriptors are in flight at some cuts. */
class SlowView extends ViewNotifier {
  commit(): Completion {
    return Promise.resolve();
  }
}

/** A machine that plays inputs and answers each with a line. */
class Player {
  readonly memory: CopiedMemory;
  readonly unit: VtdIommu;
  readonly notifiers: readonly ViewNotifier[];
  readonly #scheduler = new ManualScheduler();
  readonly #messages: MsiMessage[] = [];
  readonly #out = new Translation();
  /** Whether memory has changed since the driver's last register write: notifiers need not know yet. */
  tablesChanged = false;

  constructor(header: Header) {
    this.memory = new CopiedMemory(header.ram);
    this.unit = new VtdIommu({
      ...configOf(header),
      memory: this.memory,
      msi: (message) => this.#messages.push(message),
      scheduler: this.#scheduler,
      limits: { entriesPerSlice: ENTRIES_PER_SLICE },
    });
    const watched = this.unit.config.cachingMode ? header.sourceIds : [];
    this.notifiers = watched.map((sourceId) => {
      const notifier = new SlowView("page", `page ${sourceId}`);
      this.unit.addressSpace(sourceId).attach(notifier);
      return notifier;
    });
  }

  /** The input, without what it leaves to later. */
  begin(event: Input): string {
    const answer = this.#take(event);
    return `${answer}${this.#sent()}`;
  }

  #take(event: Input): string {
    switch (event[0]) {
      case "M":
        for (let index = 2; index < event.length; index++)
          this.#store(numberIn(event[1]) + (index - 2) * 8, event[index] ?? "0");
        return "";
      case "W":
        this.tablesChanged = false;
        if (event[2] === 8) this.unit.mmio.write64(numberIn(event[1]), BigInt(`0x${event[3]}`));
        else this.unit.mmio.write32(numberIn(event[1]), lowWord(event[3]));
        return "";
      case "R": {
        const at = numberIn(event[1]);
        return (event[2] === 8 ? this.unit.mmio.read64(at) : this.unit.mmio.read32(at)).toString(16);
      }
      case "T":
        return this.#translate(event);
      case "I":
        return this.#interrupt(event);
      default:
        return this.memory.wordAt(numberIn(event[1])).toString(16);
    }
  }

  /** Everything that was left to later, and the messages that came of it. */
  async settle(): Promise<string> {
    await this.#scheduler.idle();
    return this.#sent();
  }

  async play(event: Input): Promise<string> {
    const answer = this.begin(event);
    // Only register writes leave something to later.
    return event[0] === "W" ? `${answer}${await this.settle()}` : answer;
  }

  #sent(): string {
    const messages = this.#messages.splice(0);
    return messages.map(({ address, data }) => `!${address.toString(16)}:${data.toString(16)}`).join(" ");
  }

  #store(gpa: number, text: string): void {
    this.memory.writeWord(gpa, lowWord(text));
    this.memory.writeWord(gpa + 4, highWord(text));
    // What the tables say now is announced with the next register write.
    this.tablesChanged = true;
  }

  #translate(event: Extract<Input, readonly ["T", ...unknown[]]>): string {
    const { parts, times } = unfold(event as readonly (string | number | { x: number })[]);
    const [, sid, access, iova] = parts as [string, string, 1 | 2, string];
    const out = this.#out;
    const answers = new Set<string>();
    for (let time = 0; time < Math.min(times, 2); time++) {
      const done = this.unit.addressSpace(numberIn(sid)).translate(pfnIn(iova), access, out);
      answers.add(
        done ? `${out.gpaPfn.toString(16)}+${out.pageCount} ${out.access}` : `fault ${out.reason} ${out.cause}`,
      );
    }
    return [...answers].join("/");
  }

  #interrupt(event: Extract<Input, readonly ["I", ...unknown[]]>): string {
    const { parts } = unfold(event as readonly (string | { x: number })[]);
    const [, sid, address, data] = parts as [string, string, string, string];
    const message = { address: lowWord(address), addressHigh: highWord(address), data: lowWord(data) };
    return String(this.unit.interrupt(sid === "-" ? undefined : numberIn(sid), message));
  }
}

/** A sequence of numbers below 1 that looks random and is always the same. */
function* numbers(seed: number): Generator<number, never> {
  for (let state = seed; ;) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    yield (state >>> 0) / 2 ** 32;
  }
}

/** Places to cut: ascending, distinct; every second one at a register write, to be cut inside. */
function cutsOf(inputs: readonly Input[], count: number, seed: number): number[] {
  const random = numbers(seed);
  const cuts = new Set<number>();
  while (cuts.size < count) {
    let at = Math.floor(random.next().value * inputs.length);
    while (cuts.size % 2 === 1 && inputs[at]?.[0] !== "W") at = (at + 1) % inputs.length;
    cuts.add(at);
  }
  return [...cuts].sort((a, b) => a - b);
}

function viewsDiffer(one: Player, other: Player): string[] {
  return one.notifiers.flatMap((notifier, index) => {
    const found = other.notifiers[index]?.view.difference(notifier.view, ALL_FRAMES, 1) ?? [];
    return found.map(({ iovaPfn }) => `${notifier.name}: 0x${iovaPfn.toString(16)}`);
  });
}

const TRACES = [
  { name: "vfio39pt", most: 3500, cuts: 40, least: { answers: 900, waits: 1, views: 20 } },
  { name: "strict48-part", most: 2000, cuts: 85, least: { answers: 700, waits: 3, views: 20 } },
  { name: "sm48", most: 2000, cuts: 65, least: { answers: 600, waits: 2, views: 10 } },
  { name: "lazy39-part", most: 9000, cuts: 30, least: { answers: 7000, waits: 0, views: 0 } },
] as const;

describe("a snapshot at a random place of a Linux trace", () => {
  for (const [seed, { name, most, cuts: cutCount, least }] of TRACES.entries()) {
    it(
      `lets a fresh unit finish ${name} with identical answers, from ${cutCount} places`,
      { timeout: 120_000 },
      async () => {
        const { header, inputs } = readTrace(name, most);
        const whole = new Player(header);
        await whole.settle();
        const answers: string[] = [];
        for (const input of inputs) answers.push(await whole.play(input));
        expect(answers.filter((answer) => answer !== "").length).toBeGreaterThan(least.answers);
        const cuts = cutsOf(inputs, cutCount, seed + 1);
        const first = new Player(header);
        await first.settle();
        let at = 0;
        let waits = 0;
        let compared = 0;
        for (const cut of cuts) {
          for (; at < cut; at++) await first.play(inputs[at] as Input);
          const second = new Player(header);
          await second.settle();
          // A cut inside of a register write: what the write leaves to later is left to both units.
          const begun = inputs[cut]?.[0] === "W" ? first.begin(inputs[cut]) : undefined;
          second.memory.copyOf(first.memory);
          const snapshot = JSON.parse(JSON.stringify(save(first.unit))) as { readonly waiting: unknown };
          if (snapshot.waiting !== null) waits += 1;
          void restore(second.unit, snapshot);
          if (begun !== undefined) {
            const rest = [await first.settle(), await second.settle()];
            expect(rest[1], `${name}, cut ${cut}`).toBe(rest[0]);
            at = cut + 1;
          } else await second.settle();
          // What translation off and the restored state map alike has never been gone.
          for (const notifier of second.notifiers) expect(notifier.settle()).toEqual([]);
          if (!first.tablesChanged) {
            expect(viewsDiffer(first, second), `${name}, cut ${cut}`).toEqual([]);
            compared += 1;
          }
          const wrong = await finish(second, inputs, answers, at);
          expect(wrong, `${name}, cut ${cut}`).toBeUndefined();
          expect(viewsDiffer(whole, second), `${name}, end after cut ${cut}`).toEqual([]);
          for (const { breaches } of second.notifiers) expect(breaches).toEqual([]);
        }
        expect(cuts).toHaveLength(cutCount);
        expect(waits).toBeGreaterThanOrEqual(least.waits);
        expect(compared).toBeGreaterThanOrEqual(least.views);
      },
    );
  }
});

/** Plays from an input to the end; the first answer that differs. */
async function finish(
  player: Player,
  trace: readonly Input[],
  answers: readonly string[],
  from: number,
): Promise<string | undefined> {
  for (let index = from; index < trace.length; index++) {
    const got = await player.play(trace[index] as Input);
    if (got !== answers[index])
      return `input ${index} ${JSON.stringify(trace[index])}: ${got}, not ${answers[index] ?? ""}`;
  }
  return undefined;
}

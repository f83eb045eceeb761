/**
 * A check that cannot fail is a defect: every kind of recorded answer, falsified, must be called a failure, and never a deviation.
 */

import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import type { Header } from "../src/files/header.js";
import { openOracleFile } from "../src/files/oracle-file.js";
import { runCase } from "../src/formats/cases.js";
import { TraceRunner } from "../src/formats/linux-trace.js";
import { runReplayCase } from "../src/formats/replay.js";
import type { Case, CaseStep, DmaOutcome } from "../src/formats/steps.js";
import type { TraceEvent } from "../src/formats/trace-events.js";
import { Tally, type TallyResult } from "../src/report/tally.js";

interface Loaded {
  readonly header: Header;
  readonly lines: readonly unknown[];
}

type Falsify = (step: CaseStep) => CaseStep | undefined;

describe("falsified cases", () => {
  let file: Loaded;
  beforeAll(async () => {
    file = await load("cases-48-part");
  });

  /** Falsifies the first step that can be, of a case without deviations. */
  function runWith(falsify: Falsify): TallyResult {
    for (const given of file.lines as Case[]) {
      const index = given.s.findIndex((step) => falsify(step) !== undefined);
      if (index < 0 || run(file.header, given).total.deviated > 0) continue;
      const steps = given.s.map((step, at) => (at === index ? (falsify(step) ?? step) : step));
      return run(file.header, { ...given, s: steps });
    }
    throw new Error("no case has such a step");
  }

  const dma =
    (change: (outcome: DmaOutcome) => DmaOutcome | undefined): Falsify =>
    (step) => {
      if (step[0] !== "D") return undefined;
      const changed = change(step[5]);
      return changed && ([...step.slice(0, 5), changed, ...step.slice(6)] as unknown as CaseStep);
    };

  const mistakes: Record<string, Falsify> = {
    "another target": dma((outcome) =>
      outcome.gpa === undefined ? undefined : { ...outcome, gpa: `0x${(BigInt(outcome.gpa) + 0x1000n).toString(16)}` },
    ),
    "another block size": dma((outcome) => (outcome.mask === "0xfff" ? { ...outcome, mask: "0x1fffff" } : undefined)),
    "another reason": dma((outcome) => (outcome.fault === 5 ? { ...outcome, fault: 6 } : undefined)),
    "a refusal where there is none": dma((outcome) => (outcome.gpa === undefined ? undefined : { fault: 5 })),
    "an answer where there is a refusal": dma((outcome) =>
      outcome.fault === 6 ? { gpa: "0x1000", mask: "0xfff" } : undefined,
    ),
    "a refusal that is recorded where it is not": dma((outcome) =>
      outcome.blocked === undefined ? undefined : { fault: 1 },
    ),
    "a refusal that is not recorded where it is": dma((outcome) =>
      outcome.fault === 5 ? { blocked: "fpd" } : undefined,
    ),
    "a message that is refused": dma((outcome) => (outcome.msi ? { msi: null } : undefined)),
    "a message with other data": dma((outcome) => (outcome.msi ? { msi: [outcome.msi[0], "0x1"] } : undefined)),
    "another fault status": (step) =>
      step[0] === "F" && step[1] === "0x2" ? ["F", "0x3", step[2], step[3]] : undefined,
    "another fault address": (step) =>
      step[0] === "F" && step[1] === "0x2"
        ? ["F", step[1], `0x${(BigInt(step[2]) + 0x1000n).toString(16)}`, step[3]]
        : undefined,
    "another fault source": (step) =>
      step[0] === "F" && step[1] === "0x2"
        ? ["F", step[1], step[2], `0x${(BigInt(step[3]) ^ 1n).toString(16)}`]
        : undefined,
    "another register value": (step) =>
      step[0] === "R" ? ["R", step[1], step[2], `0x${(BigInt(step[3]) ^ 0x10n).toString(16)}`] : undefined,
    "another status word": (step) =>
      step[0] === "X" ? (["X", step[1], "0x77", ...step.slice(3)] as CaseStep) : undefined,
  };

  for (const [what, falsify] of Object.entries(mistakes)) {
    it(`fails on ${what}`, () => {
      expect(runWith(falsify).total).toMatchObject({ failed: 1, deviated: 0 });
    });
  }

  it("fails where the oracle deviates in another way than predicted", () => {
    let checked = 0;
    for (const given of file.lines as Case[]) {
      const before = run(file.header, given).total;
      if (before.deviated === 0) continue;
      const index = given.s.findIndex((step) => step[0] === "F" && step[1] === "0x2" && BigInt(step[2]) >> 48n !== 0n);
      if (index < 0) continue;
      const steps = given.s.map((step, at): CaseStep =>
        at === index && step[0] === "F"
          ? ["F", step[1], `0x${(BigInt(step[2]) ^ (1n << 50n)).toString(16)}`, step[3]]
          : step,
      );
      expect(run(file.header, { ...given, s: steps }).total).toMatchObject({
        failed: 1,
        deviated: before.deviated - 1,
      });
      checked += 1;
      if (checked === 2) break;
    }
    expect(checked).toBe(2);
  });
});

describe("falsified views", () => {
  it("fails when the final view lacks a page, has another target, other rights or one page more", async () => {
    const { header, lines } = await load("replay-48-part");
    const given = (lines as Case[]).find(
      ({ s, qemu_abort }) => qemu_abort === undefined && s.some((step) => step[0] === "V" && step.length > 2),
    );
    if (given === undefined) throw new Error("no case has a view");
    const falsify = (
      change: (
        mapping: readonly [string, string, string, number],
      ) => readonly (readonly [string, string, string, number])[],
    ): TallyResult => {
      const index = given.s.findIndex((step) => step[0] === "V" && step.length > 2);
      const steps = given.s.map((step, at): CaseStep =>
        at === index && step[0] === "V"
          ? ["V", step[1], ...change(step[2] as never), ...(step.slice(3) as never[])]
          : step,
      );
      return runReplay(header, { ...given, s: steps });
    };
    const views = (result: TallyResult): number => result.kinds.get("final view")?.failed ?? 0;
    expect(views(falsify((mapping) => [mapping]))).toBe(0);
    expect(views(falsify(() => []))).toBe(2);
    expect(
      views(
        falsify(([iova, gpa, mask, access]) => [[iova, `0x${(BigInt(gpa) + 0x1000n).toString(16)}`, mask, access]]),
      ),
    ).toBe(2);
    expect(views(falsify(([iova, gpa, mask, access]) => [[iova, gpa, mask, access === 3 ? 1 : 3]]))).toBe(2);
    expect(views(falsify((mapping) => [mapping, ["0x7fff000", "0x1000", "0xfff", 3]]))).toBe(2);
  });
});

describe("falsified traces", () => {
  let file: Loaded;
  beforeAll(async () => {
    const { header, lines } = await load("vfio39pt");
    file = { header, lines: lines.slice(0, 9000) };
  });

  /** Falsifies the last event that can be, and answers how many checks failed. */
  function failuresWith(falsify: (event: TraceEvent) => unknown): number {
    const events = file.lines as TraceEvent[];
    const index = events.findLastIndex((event) => falsify(event) !== undefined);
    if (index < 0) throw new Error("no event can be falsified so");
    const tally = new Tally(3);
    const runner = new TraceRunner(file.header, tally);
    events.forEach((event, at) => {
      const given = at === index ? falsify(event) : event;
      if (given !== null) runner.event(given as TraceEvent);
    });
    runner.finish();
    return tally.result.total.failed;
  }

  const mistakes: Record<string, (event: TraceEvent) => unknown> = {
    "another target of a translation": (event) =>
      event[0] === "T" && event.length === 7 && event[6] === 3
        ? [...event.slice(0, 4), "5000", ...event.slice(5)]
        : undefined,
    "other rights of a translation": (event) =>
      event[0] === "T" && event.length === 7 && event[6] === 3 ? [...event.slice(0, 6), 7] : undefined,
    "a refusal that is a translation": (event) =>
      event[0] === "T" && event.length === 4 ? [...event, "5000", "fff", 3] : undefined,
    "another fault reason": (event) => (event[0] === "E" ? ["E", event[1], 7, event[3], event[4]] : undefined),
    "another register read": (event) => (event[0] === "R" && event[1] === "34" ? ["R", "34", 4, "1"] : undefined),
    "another register after a write": (event) =>
      event[0] === "S" && event[1] === "80" ? ["S", "80", "10"] : undefined,
    "another status value": (event) => (event[0] === "X" ? ["X", event[1], "5"] : undefined),
    "another message of the unit": (event) => (event[0] === "G" ? ["G", event[1], "99"] : undefined),
    "a message of the unit too few": (event) => (event[0] === "G" ? null : undefined),
    "another remapped interrupt": (event) =>
      event[0] === "I" && event.length === 6 ? [...event.slice(0, 5), "99"] : undefined,
    "a mapping that was not announced": (event) => (event[0] === "N" && event[2] === "m" ? null : undefined),
    "a mapping with another target": (event) =>
      event[0] === "N" && event[2] === "m" ? [...event.slice(0, 4), "77000", ...event.slice(5)] : undefined,
  };

  for (const [what, falsify] of Object.entries(mistakes)) {
    it(`fails on ${what}`, () => {
      expect(failuresWith(falsify)).toBeGreaterThan(0);
    });
  }
});

async function load(name: string): Promise<Loaded> {
  const { header, batches } = await openOracleFile(fileURLToPath(new URL(`../data/${name}.jsonl.gz`, import.meta.url)));
  const lines: unknown[] = [];
  for await (const batch of batches) lines.push(...batch);
  return { header, lines };
}

function run(header: Header, given: Case): TallyResult {
  const tally = new Tally(3);
  runCase(header, given, tally);
  return tally.result;
}

function runReplay(header: Header, given: Case): TallyResult {
  const tally = new Tally(3);
  runReplayCase(header, given, tally);
  return tally.result;
}

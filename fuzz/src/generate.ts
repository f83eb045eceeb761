/**
 * Random scenarios: a unit, tables that mostly make sense, then a storm of steps. The same seed gives the same scenario.
 */

import { DOMAINS, Frames, INDEXES, PASIDS, RAM, SOURCES } from "./layout.js";
import { Random } from "./random.js";
import { randomStep } from "./random-step.js";
import type { Scenario, Step, UnitPlan } from "./step.js";
import {
  firstStageWord,
  identityWord,
  legacyContextWords,
  pasidWords,
  scalableContextWords,
  secondStageWord,
  spoiled,
} from "./words.js";

/** The scenario of a seed. */
export function randomScenario(seed: number): Scenario {
  const random = new Random(seed);
  const unit = randomUnit(random);
  const steps: Step[] = [...tables(random, unit)];
  if (!random.chance(12)) steps.push(...start(random, unit));
  const length = 10 + random.below(60);
  for (let i = 0; i < length; i++) steps.push(...randomStep(random, unit));
  steps.push({ do: "flush", by: random.pick(["queue", "queue", "registers", "root"]) });
  // From numbers of its own, so that what comes before is what this seed has always meant.
  if (unit.deviceTlb) steps.push(drop(new Random(seed ^ 0xd209)));
  return { version: 1, unit, steps };
}

/** Around as many invalidations as a device may leave unanswered, 32. */
function drop(random: Random): Step {
  const count = random.pick([0, 1, 31, 32, 33, 40, 60]);
  return {
    do: "drop",
    source: random.pick(SOURCES),
    count,
    meanwhile: random.pick(["answer", "time", "reset", "nothing"]),
  };
}

/** A random unit. */
export function randomUnit(random: Random): UnitPlan {
  const flag = (): boolean => random.chance(2);
  const widths = ([39, 48, 57] as const).filter(flag);
  const mode = random.chance(3) ? "legacy" : "scalable";
  const supervisor = flag();
  const deviceTlb = random.chance(2);
  const slice = random.pick([1, 8, 512, 4096, 65_536]);
  const small = slice < 512;
  return {
    mode,
    hostBits: random.pick([36, 39, 46, 52]),
    guestBits: random.pick([39, 48, 57]),
    widths: widths.length > 0 ? widths : [48],
    fiveLevels: flag(),
    firstStage1G: flag(),
    superpages: random.pick([[], ["2M"], ["2M", "1G"], ["2M", "1G"]]),
    snoopControl: flag(),
    passThrough: !random.chance(5),
    nested: !random.chance(4),
    pasidBits: random.pick([8, 16, 20]),
    requestPasid: flag(),
    requestPrivilege: supervisor && flag(),
    supervisor,
    secondStageFlags: flag(),
    extendedAccessed: flag(),
    deviceTlb,
    pageRequests: mode === "scalable" && deviceTlb && !random.chance(4),
    zeroLengthRead: flag(),
    cachingMode: !random.chance(8),
    caches: random.pick([0, 0, 4, 64, 256]),
    faultRecords: random.pick([1, 1, 4, 8]),
    protectedRegions: random.chance(6),
    windows: random.chance(3),
    limits: {
      entriesPerSlice: slice,
      mappingsPerSlice: random.pick([slice, slice, 1, 64]),
      mappingsPerView: small ? random.pick([50, 800]) : random.pick([50, 800, 6000]),
      tablesPerView: small ? random.pick([3, 60]) : random.pick([3, 60, 500]),
    },
  };
}

function poke(frame: number, index: number, value: bigint): Step {
  return { do: "poke", frame, index, value: `0x${value.toString(16)}` };
}

/** Tables as a driver would set them up, with defects. */
function tables(random: Random, unit: UnitPlan): Step[] {
  const steps: Step[] = [];
  if (unit.mode === "scalable" && !random.chance(8)) scalableTables(random, unit, steps);
  else legacyTables(random, unit, steps);
  for (const frame of Frames.first)
    for (const index of INDEXES) if (!random.chance(3)) steps.push(poke(frame, index, firstStageWord(random)));
  for (const frame of Frames.second)
    for (const index of INDEXES) if (!random.chance(3)) steps.push(poke(frame, index, secondStageWord(random)));
  if (unit.nested && unit.mode === "scalable") identityTables(random, unit, steps);
  return steps;
}

function legacyTables(random: Random, unit: UnitPlan, steps: Step[]): void {
  for (const bus of [0, 1])
    steps.push(poke(Frames.root, bus * 2, spoiled(random, 1n | (BigInt(random.pick(Frames.contexts)) << 12n))));
  for (const frame of Frames.contexts)
    for (const source of SOURCES)
      for (const [i, word] of legacyContextWords(random, unit, random.pick(DOMAINS)).entries())
        steps.push(poke(frame, (source & 0xff) * 2 + i, word));
}

function scalableTables(random: Random, unit: UnitPlan, steps: Step[]): void {
  for (const bus of [0, 1])
    for (const half of [0, 1])
      steps.push(
        poke(Frames.root, bus * 2 + half, spoiled(random, 1n | (BigInt(random.pick(Frames.contexts)) << 12n))),
      );
  for (const frame of Frames.contexts)
    for (const source of SOURCES)
      for (const [i, word] of scalableContextWords(random, unit).entries())
        steps.push(poke(frame, (source & 0x7f) * 4 + i, word));
  for (const frame of Frames.directories)
    for (const pasid of PASIDS)
      steps.push(
        poke(frame, (pasid >> 6) % 512, spoiled(random, 1n | (BigInt(random.pick(Frames.pasidTables)) << 12n))),
      );
  for (const frame of Frames.pasidTables)
    for (const pasid of [0, 1, 5, 63])
      for (const [i, word] of pasidWords(random, unit, random.pick(DOMAINS)).entries())
        steps.push(poke(frame, pasid * 8 + i, word));
}

/** Second-stage tables that find the first-stage tables: low frames onto themselves. */
function identityTables(random: Random, unit: UnitPlan, steps: Step[]): void {
  const leaf = random.pick(Frames.second.slice(12));
  for (let index = 0; index < 60; index++) steps.push(poke(leaf, index, identityWord(random, index)));
  // A table of level 2, of 3 and of 4: roots of every width begin somewhere in this chain.
  const first = 6 + random.below(4);
  const chain = Frames.second.slice(first, first + 3);
  for (const [i, frame] of chain.entries()) steps.push(poke(frame, 0, BigInt(chain[i - 1] ?? leaf) * 4096n + 3n));
  for (const root of Frames.second.slice(0, 6)) {
    const below = chain[(random.pick(unit.widths) - 39) / 9];
    if (below !== undefined && !random.chance(3)) steps.push(poke(root, 0, BigInt(below) * 4096n + 3n));
  }
}

function start(random: Random, unit: UnitPlan): Step[] {
  const scalable = unit.mode === "scalable" && !random.chance(8);
  const steps: Step[] = [{ do: "root", frame: Frames.root, mode: scalable ? 1 : 0 }];
  if (!random.chance(6)) steps.push({ do: "queue", on: true, wide: scalable, order: random.below(2) });
  if (!random.chance(6)) steps.push({ do: "enable", on: true });
  if (unit.caches > 0 && random.chance(2)) steps.push({ do: "flush", by: random.pick(["queue", "root"]) });
  if (random.chance(6))
    steps.push({ do: "regions", list: RAM.map(({ firstPfn, pageCount }) => [firstPfn, pageCount]) });
  return steps;
}

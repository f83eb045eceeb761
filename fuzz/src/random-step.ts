/**
 * One random step, or a few that belong together.
 */

import { DOMAINS, Frames, INDEXES, LOW_FRAMES, PASIDS, SOURCES } from "./layout.js";
import type { Random } from "./random.js";
import type { ConsumerPlan, Edit, Invalidation, Step, UnitPlan, Who } from "./step.js";
import {
  firstStageWord,
  legacyContextWords,
  pasidWords,
  scalableContextWords,
  secondStageWord,
  spoiled,
} from "./words.js";

const hex = (value: bigint): string => `0x${BigInt.asUintN(64, value).toString(16)}`;
const SLOTS = 6;

/** Registers that writes go to, besides random offsets. */
const OFFSETS = [
  0x00, 0x08, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24, 0x28, 0x2c, 0x34, 0x38, 0x3c, 0x40, 0x58, 0x64, 0x68, 0x6c, 0x70,
  0x78, 0x80, 0x88, 0x90, 0x9c, 0xa0, 0xa4, 0xb0, 0xb8, 0xc0, 0xc8, 0xd0, 0xdc, 0xe0, 0xf0, 0xf4, 0xf8, 0xfc, 0x220,
  0x228, 0x22c, 0x23c,
];

type Maker = (random: Random, unit: UnitPlan) => Step[];

const MAKERS: readonly (readonly [number, Maker])[] = [
  [10, (random) => [{ do: "poke", ...randomEdit(random) }]],
  [3, editAndFlush],
  [4, structureEdit],
  [2, randomFill],
  [4, (random) => [{ do: "ambush", after: 1 + random.below(random.pick([4, 30, 400])), ...randomEdit(random) }]],
  [4, registerTraffic],
  [1, (random) => [{ do: "read", offset: randomOffset(random), bytes: random.pick([4, 8]) }]],
  [
    1,
    (random) => [{ do: "root", frame: random.chance(5) ? random.below(120) : Frames.root, mode: randomMode(random) }],
  ],
  [2, (random) => [{ do: "enable", on: !random.chance(3) }]],
  [1, (random) => [{ do: "queue", on: !random.chance(4), wide: random.chance(2), order: random.below(3) }]],
  [12, (random) => [{ do: "submit", list: randomInvalidations(random) }]],
  [3, (random) => [{ do: "registers", it: randomInvalidation(random) }]],
  [9, (random, unit) => [attach(random, unit)]],
  [2, (random) => [{ do: "share", slot: random.below(SLOTS), who: randomWho(random) }]],
  [2, (random) => [{ do: "detach", slot: random.below(SLOTS) }]],
  [1, (random) => [{ do: "retry", slot: random.below(SLOTS), capacity: random.pick([0, 5, 1e6]) }]],
  [3, (random) => [{ do: "answer", slot: random.below(SLOTS), how: random.chance(6) ? "fail" : "settle" }]],
  [18, (random) => [dma(random)]],
  [
    2,
    (random) => [
      {
        do: "ats",
        who: randomWho(random),
        pfn: randomPfn(random),
        count: 1 + random.below(5),
        noWrite: random.chance(2),
        ...(random.chance(2) && { mapped: true }),
      },
    ],
  ],
  [2, pageRequest],
  [2, protect],
  [2, interrupt],
  [8, cover],
  [4, (random) => [{ do: "turn", turns: 1 + random.below(4) }]],
  [2, (random) => [{ do: "advance", milliseconds: random.pick([1, 900, 1100, 2100, 5100]) }]],
  [3, () => [{ do: "idle" }]],
  [1, (random) => [{ do: "reset", warm: random.chance(2) }]],
  [1, () => [{ do: "save" }]],
  [1, () => [{ do: "restore" }]],
  [1, (random) => [{ do: "unplug", who: randomWho(random) }]],
  [1, (random) => [{ do: "regions", list: randomRegions(random) }]],
  [4, (random) => [{ do: "flush", by: random.pick(["queue", "queue", "root", "registers"]) }]],
];
const TOTAL = MAKERS.reduce((sum, [weight]) => sum + weight, 0);

/** See the file's header. */
export function randomStep(random: Random, unit: UnitPlan): Step[] {
  let left = random.below(TOTAL);
  for (const [weight, make] of MAKERS) {
    if (left < weight) return make(random, unit);
    left -= weight;
  }
  return [];
}

/** A requester. */
function randomWho(random: Random): Who {
  const source = random.pick([SOURCES[0], SOURCES[0], ...SOURCES]);
  if (random.chance(2)) return { source };
  const pasid = random.chance(4) ? random.pick(PASIDS) : random.pick([1, 5]);
  return random.chance(3) ? { source, pasid, privileged: true } : { source, pasid };
}

/** An input frame that tables are likely to say something of. */
function randomPfn(random: Random): number {
  if (random.chance(16))
    return random.pick([0xfee00, 0xfeeff, 0xfedff, 0xfef00, 2 ** 27, 2 ** 36, 2 ** 52 - 1, 0x100000]);
  let pfn = 0;
  const levels = random.pick([1, 2, 3, 3, 4, 4, 5]);
  for (let level = 0; level < levels; level++) pfn = pfn * 512 + random.pick(INDEXES);
  if (random.chance(8)) pfn = 2 ** 52 - random.pick([2 ** 35, 2 ** 44]) + (pfn % 2 ** 35);
  return Math.min(pfn, 2 ** 52 - 1);
}

function randomEdit(random: Random): Edit {
  const first = random.chance(3);
  const frame = random.chance(16) ? random.below(LOW_FRAMES) : random.pick(first ? Frames.first : Frames.second);
  const index = random.chance(6) ? random.below(512) : random.pick(INDEXES);
  const gone = random.chance(4);
  const value = gone ? 0n : first ? firstStageWord(random) : secondStageWord(random);
  return { frame, index, value: hex(value) };
}

function editAndFlush(random: Random): Step[] {
  const edits = Array.from({ length: 1 + random.below(3) }, (): Step => ({ do: "poke", ...randomEdit(random) }));
  const pages: Invalidation = {
    what: "pages",
    did: random.pick(DOMAINS),
    pfn: randomPfn(random),
    order: random.below(10),
  };
  return [...edits, { do: "submit", list: [random.chance(2) ? { what: "all" } : pages] }];
}

function structureEdit(random: Random, unit: UnitPlan): Step[] {
  const source = random.pick(SOURCES);
  const frame = random.pick(Frames.contexts);
  const pokes = (at: number, of: number, words: readonly bigint[]): Step[] =>
    words.map((word, i) => ({ do: "poke", frame: of, index: at + i, value: hex(word) }));
  let steps: Step[];
  if (unit.mode === "legacy")
    steps = pokes((source & 0xff) * 2, frame, legacyContextWords(random, unit, random.pick(DOMAINS)));
  else if (random.chance(3)) steps = pokes((source & 0x7f) * 4, frame, scalableContextWords(random, unit));
  else
    steps = pokes(
      random.pick([0, 1, 5]) * 8,
      random.pick(Frames.pasidTables),
      pasidWords(random, unit, random.pick(DOMAINS)),
    );
  if (random.chance(6))
    steps = [{ do: "poke", frame: Frames.root, index: random.below(4), value: hex(spoiled(random, 1n | 0x2000n, 4)) }];
  if (random.chance(2)) return steps;
  return [
    ...steps,
    {
      do: "submit",
      list: [{ what: "contexts" }, ...(unit.mode === "scalable" ? [{ what: "pasids" } as const] : []), { what: "all" }],
    },
  ];
}

/** All entries of a table at once: to itself, to its neighbours, to pages. */
function randomFill(random: Random): Step[] {
  const first = random.chance(3);
  const frame = random.pick(first ? Frames.first : Frames.second);
  const rights = first ? 7n : 3n;
  const target = random.pick([BigInt(frame), BigInt(random.pick(Frames.second)), 0x40n, 0xfed00n]);
  const stride = random.pick([0n, 0n, 0x1000n]);
  const index = random.pick([0, 0, 256]);
  return [
    {
      do: "fill",
      frame,
      index,
      count: random.pick([512, 512, 40]),
      value: hex(rights | (target << 12n)),
      stride: hex(stride),
    },
  ];
}

function registerTraffic(random: Random): Step[] {
  const offset = randomOffset(random);
  const bytes = random.pick([4, 8] as const);
  const value = random.pick([
    random.word64(),
    random.word64() & random.word64(),
    0n,
    1n << BigInt(random.below(64)),
    (1n << 64n) - 1n,
  ]);
  return [{ do: "write", offset, bytes, value: hex(value) }];
}

function randomOffset(random: Random): number {
  return random.chance(5) ? random.below(0x1010) : random.pick(OFFSETS);
}

function randomMode(random: Random): number {
  return random.chance(5) ? random.below(4) : random.below(2);
}

function randomInvalidations(random: Random): Invalidation[] {
  return Array.from({ length: 1 + random.below(random.chance(12) ? 120 : 4) }, () => randomInvalidation(random));
}

function randomInvalidation(random: Random): Invalidation {
  const what = random.pick([
    "contexts",
    "contextsOfDomain",
    "contextsOfDevice",
    "all",
    "all",
    "domain",
    "domain",
    "pages",
    "pages",
    "pages",
    "pasids",
    "pasidsOfDomain",
    "pasid",
    "pasidAll",
    "pasidPages",
    "pasidPages",
    "interrupts",
    "wait",
    "wait",
    "response",
    "raw",
  ] as const);
  if (what === "response") return pageGroupResponse(random);
  if (what === "raw") {
    const first = (random.word64() & ~0xe0fn) | BigInt(random.below(10));
    const mask = random.chance(2) ? random.word64() : 0xf0n;
    return { what, words: [hex(first & (mask | 0xfn)), hex(random.chance(2) ? random.word64() : 0n), "0x0", "0x0"] };
  }
  return {
    what,
    did: random.pick(DOMAINS),
    source: random.pick(SOURCES),
    pasid: random.pick(PASIDS),
    pfn: randomPfn(random),
    order: random.pick([0, 0, 0, 3, 9, 18]),
  };
}

/** The guest's answer to a group of page requests (type 9). */
function pageGroupResponse(
  random: Random,
  { source, pasid }: Who = randomWho(random),
  group = randomGroup(random),
): Invalidation {
  const code = random.pick([0n, 0n, 0n, 1n, 15n, 3n]);
  const low = 9n | (code << 12n) | (BigInt(source) << 16n);
  const withPasid = pasid === undefined ? 0n : 0x10n | (BigInt(pasid) << 32n);
  return { what: "raw", words: [hex(low | withPasid), hex(BigInt(group) << 3n), "0x0", "0x0"] };
}

/** Few of the 512 groups, so that requests and responses meet. */
function randomGroup(random: Random): number {
  return random.chance(4) ? random.below(512) : random.below(4);
}

/** Protected regions: those of low and of high memory, on and off (§11.4.7). */
function protect(random: Random, unit: UnitPlan): Step[] {
  if (!unit.protectedRegions) return [];
  const low = random.pick([0, 0, 0x200000]);
  const high = 0x1_0000_0000;
  const write = (offset: number, bytes: 4 | 8, value: number): Step => ({
    do: "write",
    offset,
    bytes,
    value: hex(BigInt(value)),
  });
  return [
    write(0x64, 4, 0),
    write(0x68, 4, low),
    write(0x6c, 4, 0),
    write(0x70, 8, high),
    write(0x78, 8, random.chance(2) ? high : 0),
    write(0x64, 4, random.chance(5) ? 0 : 0x8000_0000),
  ];
}

function attach(random: Random, unit: UnitPlan): Step {
  const kind = random.pick(["map", "map", "map", "map", "unmap", unit.deviceTlb ? "device-tlb" : "map"] as const);
  const range = random.chance(5)
    ? {
        range: random.pick([
          [0, 0x200],
          [0x100, 0x300],
          [0x7fe00, 2 ** 30],
        ] as const),
      }
    : {};
  const answers = random.pick(["sync", "sync", "sync", "microtask", "manual"] as const);
  const fails = random.chance(12) ? { throwsAt: 1 + random.below(20) } : {};
  const plan: ConsumerPlan = { kind, answers, ...range, ...fails };
  const who = randomWho(random);
  const slot = random.below(SLOTS);
  if (kind !== "map") return { do: "attach", slot, who, plan };
  const granularity = random.pick(["page", "page", "block"] as const);
  const largest = random.chance(3) ? { largestBlock: random.pick([64, 512, 2 ** 18]) } : {};
  const capacity = random.chance(6) ? { capacity: random.pick([0, 3, 20]) } : {};
  const more = { granularity, replace: random.chance(2), steps: random.chance(2), ...largest, ...capacity };
  return { do: "attach", slot, who, plan: { ...plan, ...more } };
}

function dma(random: Random): Step {
  const how = random.pick(["translate", "translate", "translate", "read", "write", "cas", "zero", "lease"] as const);
  const access = random.pick([1, 2, 3, 0] as const);
  const bytes = random.pick([4, 64, 63, 128, 4096, 9000, 70]);
  const mapped = random.chance(3) ? { mapped: true } : {};
  return { do: "dma", who: randomWho(random), pfn: randomPfn(random), how, access, bytes, ...mapped };
}

function pageRequest(random: Random): Step[] {
  const group = randomGroup(random);
  const who = randomWho(random);
  const answer: Step = { do: "submit", list: [pageGroupResponse(random, who, group)] };
  return [
    {
      do: "page-request",
      who,
      pfn: randomPfn(random),
      write: random.chance(2),
      group,
      last: !random.chance(3),
    },
    ...(random.chance(2) ? [answer] : []),
  ];
}

function interrupt(random: Random): Step[] {
  const address = 0xfee00000 + random.below(0x100000);
  const data = random.below(2 ** 32);
  return [
    random.chance(4) ? { do: "interrupt", address, data } : { do: "interrupt", who: randomWho(random), address, data },
  ];
}

/** With clean caches: an edit on the way to a page, and the invalidation that covers it. */
function cover(random: Random): Step[] {
  const value = random.chance(3) ? 0n : random.chance(2) ? secondStageWord(random) : firstStageWord(random);
  const by = random.pick(["pages", "pages", "domain", "all", "context"] as const);
  const one: Step = {
    do: "cover",
    who: randomWho(random),
    pfn: randomPfn(random),
    level: random.pick([0, 0, 1, 2, 5]),
    value: hex(value),
    by,
    order: random.pick([0, 0, 9, 18]),
  };
  return random.chance(3) ? [one] : [{ do: "flush", by: "queue" }, one];
}

function randomRegions(random: Random): [number, number][] {
  return random.pick([
    [],
    [[0, LOW_FRAMES]],
    [
      [0, 40],
      [60, 30],
    ],
    [
      [0, LOW_FRAMES],
      [0xfe000, 0x2000],
      [0x100000, 8],
    ],
    [[0, 2 ** 20]],
  ]);
}

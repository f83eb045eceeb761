/**
 * Random scalable-mode tables, mostly sound, with every kind of defect strewn in.
 */

import type { Random } from "../support/random.js";
import type { ModelConfig } from "./naive-unit.js";

export const FRAMES = 96;
export const ROOT = 1n;
const CONTEXT = [2n, 3n];
const DIRECTORY = [4n, 5n];
const PASID_TABLE = [6n, 7n, 8n];
const FIRST = Array.from({ length: 20 }, (_, i) => BigInt(16 + i));
const SECOND = Array.from({ length: 20 }, (_, i) => BigInt(40 + i));
/** Indexes that requests use: few, so that walks get far. */
export const INDEXES = [0, 1, 255, 256, 511];
export const SOURCES = [0x18, 0x98, 0x100];
export const PASIDS = [0, 1, 5, 64, 8191, 9000, 0xfffff];

export function randomConfig(random: Random): ModelConfig {
  const flag = (): boolean => random.chance(2);
  const widths = [39, 48, 57].filter(flag);
  const deviceTlb = flag();
  const supervisor = flag();
  const secondStage2M = flag();
  return {
    majorVersion: random.pick([1, 5, 8]),
    hostBits: BigInt(random.pick([36, 39, 46, 52])),
    guestBits: BigInt(random.pick([39, 48, 57])),
    widths: widths.length > 0 ? widths : [48],
    fiveLevels: flag(),
    firstStage1G: flag(),
    secondStage2M,
    secondStage1G: secondStage2M && flag(),
    snoopControl: flag(),
    nested: !random.chance(4),
    pasidBits: BigInt(random.pick([8, 16, 20])),
    requestPasid: flag(),
    requestPrivilege: supervisor && flag(),
    supervisor,
    secondStageFlags: flag(),
    extendedAccessed: flag(),
    coherency: true,
    deviceTlb,
    pageRequests: deviceTlb && flag(),
    zeroLengthRead: flag(),
  };
}

/** Fills memory (FRAMES pages) with tables. */
export function randomTables(random: Random, config: ModelConfig, memory: ArrayBuffer): void {
  const view = new DataView(memory);
  const put = (frame: bigint, offset: number, value: bigint): void =>
    view.setBigUint64(Number(frame) * 4096 + offset, BigInt.asUintN(64, value), true);
  const defect = (): bigint => (random.chance(200) ? 1n << BigInt(random.below(64)) : 0n);
  for (let bus = 0; bus < 2; bus++) {
    for (const half of [0, 8])
      put(ROOT, bus * 16 + half, (random.chance(40) ? 0n : 1n) | (random.pick(CONTEXT) << 12n) | defect());
  }
  for (const frame of CONTEXT) {
    for (const source of SOURCES)
      fillContext(random, config, (word, value) => put(frame, (source & 0x7f) * 32 + word * 8, value ^ defect()));
  }
  for (const frame of DIRECTORY) {
    for (const pasid of PASIDS) {
      const fpd = random.chance(10) ? 2n : 0n;
      put(
        frame,
        ((pasid >> 6) * 8) % 4096,
        (random.chance(30) ? 0n : 1n) | fpd | (random.pick(PASID_TABLE) << 12n) | defect(),
      );
    }
  }
  for (const frame of PASID_TABLE) {
    for (const pasid of PASIDS)
      fillPasid(random, config, (word, value) =>
        put(frame, (pasid & 63) * 64 + word * 8, value ^ (random.chance(4) ? defect() : 0n)),
      );
  }
  for (const frame of FIRST) for (const index of INDEXES) put(frame, index * 8, firstEntry(random) ^ defect());
  for (const frame of SECOND) for (const index of INDEXES) put(frame, index * 8, secondEntry(random) ^ defect());
  // A second stage that finds the first-stage tables: most of its low entries map low memory onto itself.
  for (const frame of SECOND)
    if (!random.chance(3)) for (let i = 0; i < FRAMES; i++) put(frame, i * 8, identityEntry(random, i));
}

function fillContext(random: Random, config: ModelConfig, put: (word: number, value: bigint) => void): void {
  const flag = (oneIn: number, at: number): bigint => (random.chance(oneIn) ? 1n << BigInt(at) : 0n);
  let word =
    (random.chance(40) ? 0n : 1n) |
    flag(8, 1) |
    (random.pick(DIRECTORY) << 12n) |
    (BigInt(random.pick([0, 0, 1, 7])) << 9n);
  if (config.deviceTlb) word |= flag(2, 2);
  word |= random.chance(6) ? 0n : 8n;
  if (config.pageRequests) word |= flag(6, 4);
  put(0, word);
  let second = 0n;
  if (config.requestPasid) second |= BigInt(random.pick([0, 1, 5]));
  if (config.requestPrivilege) second |= flag(3, 20);
  put(1, second);
  put(2, 0n);
  put(3, 0n);
}

function fillPasid(random: Random, config: ModelConfig, put: (word: number, value: bigint) => void): void {
  const flag = (oneIn: number, at: number): bigint => (random.chance(oneIn) ? 1n << BigInt(at) : 0n);
  const type = BigInt(random.pick([1, 1, 2, 2, 3, 3, 3, 4, random.below(8)]));
  const aw = BigInt(random.chance(12) ? random.below(8) : (random.pick(config.widths) - 30) / 9);
  let word0 = (random.chance(30) ? 0n : 1n) | flag(12, 1) | (aw << 2n) | (type << 6n) | (random.pick(SECOND) << 12n);
  if (config.secondStageFlags) word0 |= flag(2, 9);
  let word1 = BigInt(random.below(65536));
  if (!random.chance(12)) word1 |= 1n << 23n;
  if (config.snoopControl) word1 |= flag(3, 24);
  let word2 =
    (BigInt(random.chance(12) ? random.below(4) : config.fiveLevels ? random.below(2) : 0) << 2n) |
    (random.pick(FIRST) << 12n);
  if (config.supervisor) word2 |= flag(2, 0);
  word2 |= flag(2, 4) | flag(3, 5);
  if (config.extendedAccessed) word2 |= flag(3, 7);
  put(0, word0);
  put(1, word1);
  put(2, word2);
  for (let word = 3; word < 8; word++) put(word, 0n);
}

function firstEntry(random: Random): bigint {
  let value = random.chance(40) ? 0n : 1n;
  if (!random.chance(6)) value |= 2n;
  if (!random.chance(16)) value |= 4n;
  if (random.chance(2)) value |= 0x20n;
  if (random.chance(4)) value |= 0x40n;
  if (random.chance(4)) value |= 0x400n;
  if (random.chance(8)) value |= 1n << 63n;
  return value | target(random, FIRST);
}

function secondEntry(random: Random): bigint {
  let value = random.pick([0n, 1n, 2n, 3n, 3n, 3n, 3n, 3n, 3n, 3n, 3n, 3n]);
  if (random.chance(2)) value |= 0x100n;
  if (random.chance(4)) value |= 0x200n;
  if (random.chance(50)) value |= 0x800n;
  if (random.chance(8)) value |= 1n << 63n;
  return value | target(random, SECOND);
}

/** A next table, a superpage, or a page anywhere. */
function target(random: Random, tables: readonly bigint[]): bigint {
  if (random.chance(5)) {
    const aligned = random.pick([0n, 1n << 21n, 1n << 30n, 3n << 30n, 0xfee00000n & ~0x1fffffn]);
    return 0x80n | aligned | (random.chance(16) ? 0x1000n : 0n);
  }
  if (random.chance(8)) return random.pick([0xfee00000n, 0x100000000n, 0x3ffffff000n, 90n << 12n]);
  return random.pick(tables) << 12n;
}

function identityEntry(random: Random, index: number): bigint {
  const rights = random.pick([3n, 3n, 3n, 3n, 3n, 3n, 1n, 2n]);
  if (index === 0) return rights | (random.pick(SECOND) << 12n);
  return rights | (BigInt(index) << 12n) | (random.chance(3) ? 0x300n : 0n);
}

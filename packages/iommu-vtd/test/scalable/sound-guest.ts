/**
 * Random scalable-mode tables that hold together: every width, level and privilege of first-stage, second-stage and nested translation succeeds often, so that successes can be compared.
 * Tables are kept apart by level, and the second stage maps those of the first onto themselves. A few pointers lead out of memory.
 */

import type { ModelConfig } from "./naive-unit.js";
import type { Random } from "../support/random.js";
import { FRAMES, INDEXES, PASIDS, ROOT, SOURCES } from "./random-guest.js";

const CONTEXT = 2;
const DIRECTORY = 4;
const PASID_TABLE = 6;
/** Tables of each level of a stage. */
const OF_A_LEVEL = 3;
const FIRST = 16;
const SECOND = 40;
/** A frame that is no memory: what is read through it is an access error. */
export const NO_MEMORY = FRAMES + 100;

export function soundConfig(random: Random): ModelConfig {
  const flag = (): boolean => random.chance(2);
  const coherency = !random.chance(5);
  const secondStage2M = !random.chance(6);
  return {
    majorVersion: 5,
    hostBits: BigInt(random.pick([46, 52])),
    guestBits: 57n,
    widths: [39, 48, 57],
    fiveLevels: true,
    firstStage1G: flag(),
    secondStage2M,
    secondStage1G: secondStage2M && flag(),
    snoopControl: flag(),
    nested: true,
    pasidBits: 20n,
    requestPasid: flag(),
    requestPrivilege: flag(),
    supervisor: true,
    secondStageFlags: coherency && flag(),
    extendedAccessed: coherency && flag(),
    coherency,
    deviceTlb: false,
    pageRequests: false,
    zeroLengthRead: flag(),
  };
}

/** Fills memory (FRAMES pages) with tables. */
export function soundTables(random: Random, config: ModelConfig, memory: ArrayBuffer): void {
  const view = new DataView(memory);
  const put = (frame: number, offset: number, value: bigint): void =>
    view.setBigUint64(frame * 4096 + offset, BigInt.asUintN(64, value), true);
  const pointer = (frame: number): bigint => BigInt(frame) << 12n;
  for (const bus of [0, 1]) for (const half of [0, 8]) put(Number(ROOT), bus * 16 + half, 1n | pointer(CONTEXT));
  for (const source of SOURCES) {
    const at = (source & 0x7f) * 32;
    put(CONTEXT, at, 1n | 8n | (7n << 9n) | pointer(DIRECTORY));
    const requestPasid = config.requestPasid ? BigInt(random.pick([0, 1, 5])) : 0n;
    put(CONTEXT, at + 8, requestPasid | (config.requestPrivilege && random.chance(2) ? 1n << 20n : 0n));
  }
  for (const pasid of PASIDS) {
    put(DIRECTORY, ((pasid >> 6) * 8) % 4096, 1n | pointer(PASID_TABLE));
    pasidEntry(random, config).forEach((word, index) => put(PASID_TABLE, (pasid & 63) * 64 + index * 8, word));
  }
  for (let level = 1; level <= 5; level++) {
    for (let table = 0; table < OF_A_LEVEL; table++) {
      const first = FIRST + (level - 1) * OF_A_LEVEL + table;
      for (const index of INDEXES) put(first, index * 8, firstEntry(random, config, level));
      const second = SECOND + (level - 1) * OF_A_LEVEL + table;
      for (const index of INDEXES) put(second, index * 8, secondEntry(random, config, level));
      if (level > 1) put(second, 0, 3n | flagsOf(random, config, 0x300n) | tableOf(random, SECOND, level - 1));
      else for (let i = 0; i < FRAMES; i++) put(second, i * 8, identityEntry(random, config, i));
    }
  }
}

function pasidEntry(random: Random, config: ModelConfig): bigint[] {
  const type = random.pick([1n, 2n, 2n, 3n, 3n, 3n, 3n, 4n]);
  const levels = random.pick([3, 4, 5]);
  const fiveLevels = random.chance(2);
  const second = random.chance(25) ? BigInt(NO_MEMORY) << 12n : tableOf(random, SECOND, levels);
  const first = random.chance(40) ? BigInt(NO_MEMORY) << 12n : tableOf(random, FIRST, fiveLevels ? 5 : 4);
  let word0 = 1n | (BigInt(levels - 2) << 2n) | (type << 6n) | second;
  if (random.chance(20)) word0 |= 2n;
  if (config.secondStageFlags && random.chance(2)) word0 |= 1n << 9n;
  let word2 = (fiveLevels ? 4n : 0n) | first;
  if (!random.chance(8)) word2 |= 1n;
  if (random.chance(2)) word2 |= 1n << 4n;
  if (config.extendedAccessed && random.chance(2)) word2 |= 1n << 7n;
  const snooped = config.coherency && !random.chance(10) ? 1n << 23n : 0n;
  return [word0, BigInt(random.below(65536)) | snooped, word2, 0n, 0n, 0n, 0n, 0n];
}

function firstEntry(random: Random, config: ModelConfig, level: number): bigint {
  let value = random.chance(60) ? 0n : 1n;
  if (!random.chance(10)) value |= 2n;
  if (!random.chance(16)) value |= 4n;
  value |= flagsOf(random, config, 0x460n);
  if (level === 1) return value | (random.chance(4) ? 0x80n : 0n) | page(random, config, 0);
  if ((level === 2 || (level === 3 && config.firstStage1G)) && random.chance(3))
    return value | 0x80n | page(random, config, level - 1);
  return value | tableOf(random, FIRST, level - 1);
}

function secondEntry(random: Random, config: ModelConfig, level: number): bigint {
  const value = random.pick([1n, 2n, 3n, 3n, 3n, 3n, 3n, 3n, 3n, 3n]) | flagsOf(random, config, 0x300n);
  if (level === 1) return value | page(random, config, 0);
  const large = (level === 2 && config.secondStage2M) || (level === 3 && config.secondStage1G);
  if (large && random.chance(3)) return value | 0x80n | page(random, config, level - 1);
  return value | tableOf(random, SECOND, level - 1);
}

/** Memory onto itself, now and then with one right: what tables of the first stage are reached by. */
function identityEntry(random: Random, config: ModelConfig, frame: number): bigint {
  const rights = random.chance(25) ? random.pick([1n, 2n]) : 3n;
  return rights | flagsOf(random, config, 0x300n) | (BigInt(frame) << 12n);
}

/** Flags that are set already: nearly all where none can be set. */
function flagsOf(random: Random, { coherency }: ModelConfig, all: bigint): bigint {
  return random.chance(coherency ? 2 : 12) ? 0n : all;
}

function tableOf(random: Random, stage: number, level: number): bigint {
  if (random.chance(200)) return BigInt(NO_MEMORY) << 12n;
  return BigInt(stage + (level - 1) * OF_A_LEVEL + random.below(OF_A_LEVEL)) << 12n;
}

/** The address of a page or of a superpage (`order`: 0, 1 or 2 times nine bits): mostly what every width of the second stage translates, at times in or around the interrupt window. */
function page(random: Random, { hostBits }: ModelConfig, order: number): bigint {
  let found = 0n;
  if (random.chance(12)) found = 0xfee00n + BigInt(random.pick([0, 0, 256, -1]));
  else {
    const levels = random.pick([3, 3, 3, 3, 3, 4, 5]);
    for (let level = 0; level < levels; level++) found = found * 512n + BigInt(random.pick(INDEXES));
  }
  const mask = (1n << (hostBits - 12n)) - 1n;
  return ((found & mask) >> BigInt(9 * order)) << BigInt(9 * order + 12);
}

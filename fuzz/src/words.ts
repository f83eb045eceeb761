/**
 * Random words of tables: mostly sound, with every kind of defect strewn in.
 */

import { Frames, LOW_FRAMES } from "./layout.js";
import type { Random } from "./random.js";
import type { UnitPlan } from "./step.js";

const bit = (at: number): bigint => 1n << BigInt(at);

/** A value that something is wrong with now and then. */
export function spoiled(random: Random, value: bigint, oneIn = 150): bigint {
  return BigInt.asUintN(64, random.chance(oneIn) ? value ^ bit(random.below(64)) : value);
}

/** A second-stage entry. */
export function secondStageWord(random: Random): bigint {
  let value = random.pick([0n, 1n, 2n, 3n, 3n, 3n, 3n, 3n, 3n, 3n, 3n, 3n]);
  if (random.chance(2)) value |= 0x100n;
  if (random.chance(4)) value |= 0x200n;
  if (random.chance(50)) value |= 0x800n;
  if (random.chance(8)) value |= bit(63);
  return spoiled(random, value | target(random, Frames.second));
}

/** A first-stage entry. */
export function firstStageWord(random: Random): bigint {
  let value = random.chance(40) ? 0n : 1n;
  if (!random.chance(6)) value |= 2n;
  if (!random.chance(16)) value |= 4n;
  if (random.chance(2)) value |= 0x20n;
  if (random.chance(4)) value |= 0x40n;
  if (random.chance(4)) value |= 0x400n;
  if (random.chance(8)) value |= bit(63);
  return spoiled(random, value | target(random, Frames.first));
}

/** An entry of a second stage that maps low memory onto itself, so that first-stage tables are found through it. */
export function identityWord(random: Random, index: number): bigint {
  const rights = random.pick([3n, 3n, 3n, 3n, 3n, 3n, 1n, 2n]);
  return spoiled(random, rights | (BigInt(index) << 12n) | (random.chance(3) ? 0x300n : 0n));
}

/** The two words of a legacy context. */
export function legacyContextWords(random: Random, plan: UnitPlan, did: number): readonly bigint[] {
  const type = random.pick([0n, 0n, 0n, 0n, 0n, 0n, 1n, 2n, 2n, 3n]);
  const width = random.chance(12) ? random.below(8) : (random.pick(plan.widths) - 30) / 9;
  const present = random.chance(20) ? 0n : 1n;
  const disabled = random.chance(8) ? 2n : 0n;
  const low = present | disabled | (type << 2n) | (BigInt(random.pick(Frames.second.slice(0, 6))) << 12n);
  return [spoiled(random, low), spoiled(random, BigInt(width) | (BigInt(did) << 8n))];
}

/** The four words of a scalable-mode context. */
export function scalableContextWords(random: Random, plan: UnitPlan): readonly bigint[] {
  const flag = (oneIn: number, at: number): bigint => (random.chance(oneIn) ? bit(at) : 0n);
  let low = (random.chance(30) ? 0n : 1n) | flag(10, 1) | (BigInt(random.pick(Frames.directories)) << 12n);
  low |= BigInt(random.pick([0, 0, 1, 7])) << 9n;
  if (plan.deviceTlb && !random.chance(4)) low |= 4n;
  if (!random.chance(6)) low |= 8n;
  if (plan.pageRequests && (low & 4n) !== 0n && !random.chance(4)) low |= 16n;
  let high = 0n;
  if (plan.requestPasid) high |= BigInt(random.pick([0, 0, 1, 5]));
  if (plan.requestPrivilege) high |= flag(3, 20);
  return [spoiled(random, low), spoiled(random, high), spoiled(random, 0n, 400), spoiled(random, 0n, 400)];
}

/** The eight words of a PASID entry. */
export function pasidWords(random: Random, plan: UnitPlan, did: number): readonly bigint[] {
  const flag = (oneIn: number, at: number): bigint => (random.chance(oneIn) ? bit(at) : 0n);
  const type = BigInt(random.pick([1, 1, 2, 2, 2, 3, 3, 3, 4, random.below(8)]));
  const aw = BigInt(random.chance(14) ? random.below(8) : (random.pick(plan.widths) - 30) / 9);
  const second = BigInt(random.pick(Frames.second.slice(0, 6)));
  let q0 = (random.chance(30) ? 0n : 1n) | flag(12, 1) | (aw << 2n) | (type << 6n) | (second << 12n);
  if (plan.secondStageFlags) q0 |= flag(2, 9);
  let q1 = BigInt(did);
  if (!random.chance(12)) q1 |= bit(23);
  if (plan.snoopControl) q1 |= flag(3, 24);
  const mode = BigInt(random.chance(14) ? random.below(4) : plan.fiveLevels ? random.below(2) : 0);
  let q2 = (mode << 2n) | (BigInt(random.pick(Frames.first.slice(0, 6))) << 12n) | flag(2, 4);
  if (plan.supervisor) q2 |= flag(2, 0);
  if (plan.extendedAccessed) q2 |= flag(3, 7);
  const rest = Array.from({ length: 5 }, () => spoiled(random, 0n, 600));
  return [spoiled(random, q0), spoiled(random, q1), spoiled(random, q2), ...rest];
}

/** A next table, a superpage, or a page anywhere. */
function target(random: Random, tables: readonly number[]): bigint {
  if (random.chance(5)) {
    const aligned = random.pick([0n, bit(21), bit(30), 3n * bit(30), 0xfee00000n & ~0x1fffffn, bit(32)]);
    return 0x80n | aligned | (random.chance(16) ? 0x1000n : 0n);
  }
  if (random.chance(8))
    return random.pick([0xfee00000n, 0x100000000n, 0x3ffffff000n, 90n << 12n, BigInt(LOW_FRAMES) << 12n]);
  if (random.chance(30)) return BigInt(random.below(LOW_FRAMES)) << 12n;
  return BigInt(random.pick(tables)) << 12n;
}

/**
 * Everything that tables map, by visiting every entry: slow, obvious, bounded by whoever listens.
 */

import { bits, firstStageReserved, type ModelContext, one, Refused, secondStageReserved } from "./facts.js";
import type { LegacyContext } from "./legacy.js";
import { type PasidEntryFacts, secondStage } from "./scalable.js";

/** Nothing is accessed here. */
const NO_FLAGS = { entry: () => undefined, leaf: () => undefined };

/** Told each leaf, ascending: input frame, pages, target, rights. */
export type Sink = (iova: bigint, pageCount: bigint, gpa: bigint, access: number) => void;

/** Thrown by a listener that has heard enough, and by a visit of too many tables. */
export class TooMany extends Error {}

/** Tables visited at most. */
const MOST_TABLES = 4000;

interface SecondStageRoot {
  readonly rootGpa: bigint;
  readonly levels: number;
  readonly limitPfn: bigint;
}

/** What a legacy context maps. */
export function leavesOfLegacy(model: ModelContext, context: LegacyContext, sink: Sink): void {
  leavesOfSecondStage(model, context, 0n, context.limitPfn, sink);
}

/** What a PASID entry maps. */
export function leavesOfPasid(model: ModelContext, entry: PasidEntryFacts, sink: Sink): void {
  const second = { rootGpa: entry.second, levels: entry.levels, limitPfn: 1n << (entry.limitBits - 12n) };
  if (entry.type === 2) {
    leavesOfSecondStage(model, second, 0n, second.limitPfn, sink);
    return;
  }
  const half = 1n << BigInt(9 * entry.firstLevels - 1);
  const high = (1n << 52n) - 2n * half;
  let tables = 0;
  const visit = (table: bigint, level: number, first: bigint, user: boolean, writable: boolean): void => {
    if (++tables > MOST_TABLES) throw new TooMany();
    const host = entry.type === 3 ? hostOf(model, entry, table) : table;
    if (host === undefined) return;
    const span = 1n << BigInt(9 * (level - 1));
    for (let index = 0n; index < 512n; index++) {
      const value = model.read(host + index * 8n);
      if (value === undefined || !one(value, 0) || firstStageReserved(model.unit, value, level)) continue;
      const mayUser = user && one(value, 2);
      if (!entry.privileged && !mayUser) continue;
      const mayWrite = writable && (one(value, 1) || (entry.privileged && !entry.writeProtect));
      const leaf = level === 1 || one(value, 7);
      const frame = bits(value, 51, 12) & ~(leaf ? span - 1n : 0n);
      if (entry.type === 3 && frame >= second.limitPfn) continue;
      const upper = level === entry.firstLevels && index >= 256n;
      const at = first + index * span + (upper ? high : 0n);
      if (!leaf) visit(frame * 4096n, level - 1, at, mayUser, mayWrite);
      else if (entry.type === 3) {
        leavesOfSecondStage(model, second, frame, span, (gpa, count, target, access) => {
          const both = access & (mayWrite ? 3 : 1);
          if (both !== 0) sink(at + (gpa - frame), count, target, both);
        });
      } else sink(at, span, frame, mayWrite ? 3 : 1);
    }
  };
  visit(entry.first, entry.firstLevels, 0n, true, true);
}

function hostOf(model: ModelContext, entry: PasidEntryFacts, table: bigint): bigint | undefined {
  if (table >> entry.limitBits !== 0n) return undefined;
  try {
    return secondStage(model, entry, table >> 12n, entry.flags ? 3 : 1, NO_FLAGS).pfn * 4096n;
  } catch (error) {
    if (error instanceof Refused) return undefined;
    throw error;
  }
}

/** Leaves that touch `count` frames from `from` on, clipped to them. */
function leavesOfSecondStage(
  model: ModelContext,
  root: SecondStageRoot,
  from: bigint,
  count: bigint,
  sink: Sink,
): void {
  const end = from + count < root.limitPfn ? from + count : root.limitPfn;
  let tables = 0;
  const visit = (table: bigint, level: number, first: bigint, rights: number): void => {
    if (++tables > MOST_TABLES) throw new TooMany();
    const span = 1n << BigInt(9 * (level - 1));
    const lowest = from > first ? (from - first) / span : 0n;
    for (let index = lowest; index < 512n && first + index * span < end; index++) {
      const value = model.read(table + index * 8n);
      if (value === undefined || (value & 3n) === 0n) continue;
      const leaf = level === 1 || one(value, 7);
      if (secondStageReserved(model.unit, value, level, leaf)) continue;
      const left = rights & Number(value & 3n);
      if (left === 0) continue;
      const at = first + index * span;
      const target = bits(value, 51, 12);
      if (!leaf) {
        visit(target * 4096n, level - 1, at, left);
        continue;
      }
      const cut = at < from ? from - at : 0n;
      const stop = at + span < end ? span : end - at;
      sink(at + cut, stop - cut, target + cut, left);
    }
  };
  visit(root.rootGpa, root.levels, 0n, 3);
}

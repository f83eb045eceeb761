/**
 * The naive unit as a whole: what a request is answered, what a device can reach, page by page and as a list.
 */

import type { Access } from "@iommu-kit/iommu-core";
import { RunList } from "@iommu-kit/iommu-core/testing";
import type { UnitPlan, Who } from "../step.js";
import {
  inWindow,
  type Latched,
  type ModelAnswer,
  type ModelContext,
  type ModelRequest,
  type Read,
  Refused,
} from "./facts.js";
import { leavesOfLegacy, leavesOfPasid, type Sink, TooMany } from "./leaves.js";
import { legacyContext, legacyWalk } from "./legacy.js";
import { type Flags, type PasidEntryFacts, scalableEntry, scalableWalk } from "./scalable.js";

/** How requests of somebody are translated at present; `undefined`: not at all. */
export type Way =
  | { readonly kind: "bypass" }
  | {
      readonly kind: "table";
      /** For the census. */
      readonly name: string;
      readonly domainId: number;
      readonly enumerate: (sink: Sink) => void;
    };

/** See the file's header. */
export class NaiveMachine {
  readonly #unit: UnitPlan;

  constructor(unit: UnitPlan) {
    this.#unit = unit;
  }

  /** The answer to a request, by memory as `read` shows it. */
  answer(latched: Latched, read: Read, request: ModelRequest, flags = true): ModelAnswer {
    let disabled = false;
    const written: (readonly [bigint, bigint])[] = [];
    const overlay = new Map<bigint, bigint>();
    const through: Read = (gpa) => overlay.get(gpa) ?? read(gpa);
    const later: (readonly [bigint, bigint])[] = [];
    const entry = (gpa: bigint, word: bigint): void => {
      overlay.set(gpa, word);
      written.push([gpa, word]);
    };
    const set: Flags = { entry, leaf: (gpa, word) => later.push([gpa, word]) };
    const see = (off: boolean): void => {
      disabled ||= off;
    };
    const model: ModelContext = { unit: this.#unit, read: through, flags };
    const refusal = (code: number, recorded: boolean): ModelAnswer => ({
      code,
      recorded,
      gpaPfn: 0,
      access: 0,
      flags: written,
    });
    try {
      const found = this.#walk(model, latched, request, see, set);
      if (isProtected(latched, found.pfn)) return refusal(-6, false);
      for (const [gpa, word] of later) entry(gpa, (overlay.get(gpa) ?? 0n) | word);
      return { code: 0, recorded: false, gpaPfn: Number(found.pfn), access: found.access, flags: written };
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      return refusal(error.code, !(error.qualified && disabled));
    }
  }

  /** Where a page goes and with which rights, by two requests; `undefined` if nowhere. */
  reach(latched: Latched, read: Read, who: Who, pfn: number): { gpaPfn: number; access: Access } | undefined {
    if (who.pasid === undefined && inWindow(BigInt(pfn))) return undefined;
    const answers = [1, 2].map((access) => this.answer(latched, read, requestOf(who, BigInt(pfn), access), false));
    const [forRead, forWrite] = answers;
    const access = ((forRead?.code === 0 ? 1 : 0) | (forWrite?.code === 0 ? 2 : 0)) as Access;
    if (access === 0) return undefined;
    const gpaPfn = (forRead?.code === 0 ? forRead : forWrite)?.gpaPfn ?? 0;
    // Bypass is announced only where the host named regions.
    const bypass = this.wayOf(latched, read, who)?.kind === "bypass";
    const named = latched.regions.some(([first, count]) => pfn >= first && pfn < first + count);
    return bypass && !named ? undefined : { gpaPfn, access };
  }

  /** How requests of somebody are translated at present. */
  wayOf(latched: Latched, read: Read, who: Who): Way | undefined {
    if (!latched.enabled) return { kind: "bypass" };
    const model: ModelContext = { unit: this.#unit, read, flags: false };
    try {
      if (latched.mode === 0) {
        if (who.pasid !== undefined) return undefined;
        const context = legacyContext(model, latched.rootPfn, who.source, () => undefined);
        if (context.passThrough) return { kind: "bypass" };
        return {
          kind: "table",
          name: `legacy, ${context.levels} levels`,
          domainId: context.domainId,
          enumerate: (sink) => leavesOfLegacy(model, context, sink),
        };
      }
      if (latched.mode !== 1 || this.#unit.mode === "legacy") return undefined;
      const entry = scalableEntry(model, latched.rootPfn, requestOf(who, 0n, 1), () => undefined);
      if (entry.type === 4) return { kind: "bypass" };
      const name = nameOf(entry);
      return { kind: "table", name, domainId: entry.domainId, enumerate: (sink) => leavesOfPasid(model, entry, sink) };
    } catch (error) {
      if (error instanceof Refused) return undefined;
      throw error;
    }
  }

  /** Everything that somebody can reach; `undefined` if that is more than `most` leaves. */
  reachable(latched: Latched, read: Read, who: Who, most: number): RunList | undefined {
    const runs = new RunList();
    const way = this.wayOf(latched, read, who);
    if (way?.kind === "bypass") {
      for (const [first, count] of latched.regions)
        runs.set({ iovaPfn: first, pageCount: count, gpaPfn: first, access: 3 });
      runs.delete(0xfee00, 0x100);
      for (const [first, count] of latched.protected) runs.delete(first, count);
      return runs;
    }
    const holes = [[0xfee00, 0x100] as const, ...latched.protected];
    let left = most;
    try {
      way?.enumerate((iova, count, gpa, access) => {
        left -= 1;
        if (left < 0) throw new TooMany();
        runs.set({
          iovaPfn: Number(iova),
          pageCount: Number(count),
          gpaPfn: Number(gpa),
          access: access as Access,
        });
        // What lies behind a target that nobody may reach.
        for (const [first, length] of holes) {
          const from = Math.max(first, Number(gpa));
          const to = Math.min(first + length, Number(gpa + count));
          if (from < to) runs.delete(Number(iova) + (from - Number(gpa)), to - from);
        }
      });
    } catch (error) {
      if (error instanceof TooMany) return undefined;
      throw error;
    }
    if (who.pasid === undefined) runs.delete(0xfee00, 0x100);
    return runs;
  }

  #walk(
    model: ModelContext,
    latched: Latched,
    request: ModelRequest,
    see: (off: boolean) => void,
    set: Flags,
  ): { readonly pfn: bigint; readonly access: number } {
    if (!latched.enabled) return { pfn: request.pfn, access: 3 };
    if (latched.mode === 0) {
      if (request.pasid !== undefined) throw new Refused(0x31, false);
      return legacyWalk(model, legacyContext(model, latched.rootPfn, request.source, see), request);
    }
    // Reserved modes, and those that the unit lacks.
    if (latched.mode !== 1 || this.#unit.mode === "legacy") throw new Refused(0x30, false);
    return scalableWalk(model, scalableEntry(model, latched.rootPfn, request, see), request, set);
  }
}

function nameOf({ type, levels, firstLevels }: PasidEntryFacts): string {
  if (type === 1) return `first stage, ${firstLevels} levels`;
  return type === 2 ? `second stage, ${levels} levels` : `nested, ${firstLevels} levels`;
}

/** A request of somebody. */
export function requestOf(who: Who, pfn: bigint, access: number): ModelRequest {
  return { source: who.source, pasid: who.pasid, privileged: who.privileged === true, pfn, access };
}

function isProtected(latched: Latched, pfn: bigint): boolean {
  return latched.protected.some(([first, count]) => pfn >= BigInt(first) && pfn < BigInt(first + count));
}

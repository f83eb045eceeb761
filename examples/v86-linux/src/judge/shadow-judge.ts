/**
 * Judges what a MAP notifier is told, while the real driver runs.
 *
 * One shadow per device, changed by the notifier's events and by nothing else. At every DMA the shadow of the page must equal a fresh walk of the
 * guest's tables; at every unmap the page must really be gone from them: a page that is still mapped has *vanished* under a device that may be using it.
 */

import type { Access, AddressSpace, IommuError, MapNotifier } from "@iommu-kit/iommu-core";
import type { DmaObserver } from "../adapter/device-dma.js";
import type { FreshWalk, Reach } from "./fresh-walk.js";

/** What was counted. All but the first four must be 0 in the end. */
export interface JudgeCounters {
  /** Pages looked at, one for each page of each DMA. */
  checks: number;
  maps: number;
  unmaps: number;
  replaces: number;
  /** The shadow and the fresh walk disagreed at a DMA. */
  mismatches: number;
  /** Pages unmapped that the guest's tables still map to the same target with the same rights. */
  vanished: number;
  /** Maps of pages that were held, unmaps of pages that were not. */
  contractBreaches: number;
}

/** Pages of one device: target frame and rights in one number. */
type Shadow = Map<number, number>;

interface PageOf {
  readonly sourceId: number;
  readonly pfn: number;
}

/** Follows devices and judges their DMA. */
export class ShadowJudge {
  readonly counters: JudgeCounters = {
    checks: 0,
    maps: 0,
    unmaps: 0,
    replaces: 0,
    mismatches: 0,
    vanished: 0,
    contractBreaches: 0,
  };
  /** The first few disagreements, for people. */
  readonly examples: string[] = [];
  /** The second opinion that it judges by. */
  readonly walk: FreshWalk;
  readonly #shadows = new Map<number, Shadow>();

  constructor(walk: FreshWalk) {
    this.walk = walk;
  }

  /**
   * Attaches a notifier to the device's address space.
   * @throws {IommuError} `caching-mode-required` if the unit does not tell about new mappings.
   */
  follow(space: AddressSpace): void {
    const shadow: Shadow = new Map();
    space.attach(this.#notifierOf(space.sourceId, shadow));
    this.#shadows.set(space.sourceId, shadow);
  }

  /** Pass it to the adapter: it is asked before each DMA. */
  readonly observer: DmaObserver = (sourceId, address, byteLength) => {
    const shadow = this.#shadows.get(sourceId);
    if (shadow === undefined) return;
    const lastPfn = Math.floor((address + Math.max(byteLength, 1) - 1) / 4096);
    for (let pfn = Math.floor(address / 4096); pfn <= lastPfn; pfn += 1) {
      this.counters.checks += 1;
      const held = shadow.get(pfn);
      const fresh = packed(this.walk.reach(sourceId, pfn));
      if (held !== fresh) this.#disagree("mismatches", { sourceId, pfn }, held, fresh);
    }
  };

  /** A copy of what a device holds now: frame to target and rights. */
  heldBy(sourceId: number): ReadonlyMap<number, Reach> {
    const copy = new Map<number, Reach>();
    for (const [pfn, value] of this.#shadows.get(sourceId) ?? []) copy.set(pfn, unpacked(value));
    return copy;
  }

  /** The devices followed. */
  get sourceIds(): readonly number[] {
    return [...this.#shadows.keys()];
  }

  #notifierOf(sourceId: number, shadow: Shadow): MapNotifier {
    const { counters } = this;
    return {
      kind: "map",
      name: "shadow judge",
      granularity: "page",
      map: (iovaPfn, pageCount, gpaPfn, access) => {
        counters.maps += 1;
        this.#expectHeld(shadow, iovaPfn, pageCount, false);
        put(shadow, iovaPfn, pageCount, gpaPfn, access);
      },
      replace: (iovaPfn, pageCount, gpaPfn, access) => {
        counters.replaces += 1;
        this.#expectHeld(shadow, iovaPfn, pageCount, true);
        put(shadow, iovaPfn, pageCount, gpaPfn, access);
      },
      unmap: (iovaPfn, pageCount) => {
        counters.unmaps += 1;
        for (let pfn = iovaPfn; pfn < iovaPfn + pageCount; pfn += 1) {
          const held = shadow.get(pfn);
          if (held === undefined) counters.contractBreaches += 1;
          else if (packed(this.walk.reach(sourceId, pfn)) === held)
            this.#disagree("vanished", { sourceId, pfn }, undefined, held);
          shadow.delete(pfn);
        }
      },
      revoke: (error: IommuError) => {
        this.examples.push(`00:${sourceId.toString(16)} revoked: ${error.message}`);
        counters.contractBreaches += 1;
      },
    };
  }

  #expectHeld(shadow: Shadow, iovaPfn: number, pageCount: number, isHeld: boolean): void {
    for (let pfn = iovaPfn; pfn < iovaPfn + pageCount; pfn += 1) {
      if (shadow.has(pfn) !== isHeld) this.counters.contractBreaches += 1;
    }
  }

  #disagree(kind: "mismatches" | "vanished", page: PageOf, held: number | undefined, fresh: number | undefined): void {
    const { sourceId, pfn } = page;
    this.counters[kind] += 1;
    if (this.examples.length >= 10) return;
    const text = (value: number | undefined): string =>
      value === undefined ? "nothing" : `frame 0x${Math.floor(value / 4).toString(16)} rights ${value % 4}`;
    this.examples.push(
      `${kind}: source 0x${sourceId.toString(16)} frame 0x${pfn.toString(16)}: shadow ${text(held)}, tables ${text(fresh)}`,
    );
  }
}

function put(shadow: Shadow, iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
  for (let i = 0; i < pageCount; i += 1) shadow.set(iovaPfn + i, (gpaPfn + i) * 4 + access);
}

function packed(reach: Reach | undefined): number | undefined {
  return reach === undefined ? undefined : reach.gpaPfn * 4 + reach.access;
}

function unpacked(value: number): Reach {
  return { gpaPfn: Math.floor(value / 4), access: (value % 4) as Access };
}

/** One page at a time: `space.translate`, with its answer in the IOTLB and without. */

import assert from "node:assert/strict";
import { Translation } from "@iommu-kit/iommu-core";
import type { Group, Size } from "../group.js";
import { timeRow } from "../group.js";
import { BenchGuest, DEVICE, FIRST_INPUT, somePages } from "../guest.js";
import { compare, inProcess } from "../ratio.js";
import { atMost, type Row } from "../row.js";

const HIT_PAGES = 1024;
const HIT_ROUNDS = 4;
/** Many times what the IOTLB holds, in batches. */
const MISS_PAGES = 65_536;
const MISS_BATCH = 4096;

/** See the file's header. */
export const translateGroup: Group = {
  name: "translate",
  async measure(size, report) {
    const guest = new BenchGuest({ pages: size.pages });
    guest.start();
    await hits(guest, size, report);
    await misses(guest, size, report);
  },
};

async function hits(guest: BenchGuest, size: Size, report: (row: Row) => void): Promise<void> {
  const pages = somePages(size.pages, HIT_PAGES).map((page) => FIRST_INPUT + page);
  let sum = 0;
  for (const pfn of pages) sum += guest.targetOf(pfn - FIRST_INPUT) * HIT_ROUNDS;
  const space = guest.unit.addressSpace(DEVICE);
  const out = new Translation();
  const translate = inProcess(() => {
    let targets = 0;
    for (let round = 0; round < HIT_ROUNDS; round++) {
      for (let i = 0; i < HIT_PAGES; i++) if (space.translate(pages[i] as number, 1, out)) targets += out.gpaPfn;
    }
    return targets;
  });
  const table = new LookupTable(HIT_PAGES);
  for (const pfn of pages) table.set(DEVICE, pfn, guest.targetOf(pfn - FIRST_INPUT), 3);
  const lookup = inProcess(() => {
    let targets = 0;
    for (let round = 0; round < HIT_ROUNDS; round++) {
      for (let i = 0; i < HIT_PAGES; i++) if (table.find(DEVICE, pages[i] as number, 1)) targets += table.target;
    }
    return targets;
  });
  const repeats = { units: HIT_PAGES * HIT_ROUNDS, pairs: size.pairs, check: sum };
  report(
    timeRow(
      {
        what: "IOTLB hit through translate",
        against: "look-up of the same key (device, page) in typed arrays",
        per: "request",
        goal: atMost(3),
      },
      await compare(translate, lookup, repeats),
    ),
  );
}

async function misses(guest: BenchGuest, size: Size, report: (row: Row) => void): Promise<void> {
  const pages = somePages(size.pages, MISS_PAGES).map((page) => FIRST_INPUT + page);
  const space = guest.unit.addressSpace(DEVICE);
  const out = new Translation();
  const { words } = guest;
  const top = (words[18 * 1024 + DEVICE * 4] ?? 0) >>> 12;
  assert.ok(MISS_BATCH * 2 > guest.unit.config.iotlbEntries);
  // Batches go through all pages, so that the IOTLB has forgotten those of a batch when they come again.
  const turns = { translate: 0, walk: 0, translateInTurn: 0, walkInTurn: 0 };
  // What each candidate has found so far: both sides of a row run equally often.
  const found = { translate: 0, walk: 0, translateInTurn: 0, walkInTurn: 0 };
  const next = (who: keyof typeof turns): number => {
    const first = turns[who];
    turns[who] = (first + MISS_BATCH) % pages.length;
    return first;
  };
  const translate = inProcess(() => {
    const first = next("translate");
    let targets = 0;
    for (let i = 0; i < MISS_BATCH; i++) {
      if (space.translate(pages[first + i] as number, 1, out)) targets ^= out.gpaPfn;
    }
    found.translate = (found.translate * 31 + targets) | 0;
    return targets;
  });
  const walk = inProcess(() => {
    const start = next("walk");
    let targets = 0;
    for (let i = 0; i < MISS_BATCH; i++) {
      const pfn = pages[start + i] as number;
      const fourth = words[top * 1024 + ((pfn >>> 27) & 511) * 2] as number;
      const third = words[(fourth >>> 12) * 1024 + ((pfn >>> 18) & 511) * 2] as number;
      const second = words[(third >>> 12) * 1024 + ((pfn >>> 9) & 511) * 2] as number;
      const first = words[(second >>> 12) * 1024 + (pfn & 511) * 2] as number;
      if ((fourth & third & second & first & 1) !== 0) targets ^= first >>> 12;
    }
    found.walk = (found.walk * 31 + targets) | 0;
    return targets;
  });
  // The same, but no request begins before the one before it was answered: targets have 20 bits, so nothing is ever added to `i`.
  const translateInTurn = inProcess(() => {
    const first = next("translateInTurn");
    let targets = 0;
    for (let i = 0; i < MISS_BATCH; i++) {
      if (space.translate(pages[first + (i ^ (targets >>> 20))] as number, 1, out)) targets ^= out.gpaPfn;
    }
    found.translateInTurn = (found.translateInTurn * 31 + targets) | 0;
    return targets;
  });
  const walkInTurn = inProcess(() => {
    const start = next("walkInTurn");
    let targets = 0;
    for (let i = 0; i < MISS_BATCH; i++) {
      const pfn = pages[start + (i ^ (targets >>> 20))] as number;
      const fourth = words[top * 1024 + ((pfn >>> 27) & 511) * 2] as number;
      const third = words[(fourth >>> 12) * 1024 + ((pfn >>> 18) & 511) * 2] as number;
      const second = words[(third >>> 12) * 1024 + ((pfn >>> 9) & 511) * 2] as number;
      const first = words[(second >>> 12) * 1024 + (pfn & 511) * 2] as number;
      if ((fourth & third & second & first & 1) !== 0) targets ^= first >>> 12;
    }
    found.walkInTurn = (found.walkInTurn * 31 + targets) | 0;
    return targets;
  });
  const what = "IOTLB miss through translate: 4-level walk, and the IOTLB filled";
  const against = "a hand-written walk of the same tables";
  const repeats = { units: MISS_BATCH, pairs: size.pairs, check: undefined };
  report(
    timeRow(
      { what: `${what}; one request after the other`, against, per: "request", goal: atMost(2) },
      await compare(translateInTurn, walkInTurn, repeats),
    ),
  );
  assert.equal(found.translateInTurn, found.walkInTurn);
  report(
    timeRow(
      { what: `${what}; requests that the processor may overlap`, against, per: "request", goal: atMost(2) },
      await compare(translate, walk, repeats),
    ),
  );
  assert.equal(found.translate, found.walk);
}

/** What a host would write for itself: open addressing in typed arrays, half full, nothing is ever removed. */
class LookupTable {
  target = 0;
  readonly #mask: number;
  readonly #owners: Int32Array;
  readonly #pages: Float64Array;
  readonly #targets: Float64Array;
  readonly #rights: Uint8Array;

  constructor(count: number) {
    const slots = 2 ** Math.ceil(Math.log2(count * 2));
    this.#mask = slots - 1;
    this.#owners = new Int32Array(slots).fill(-1);
    this.#pages = new Float64Array(slots);
    this.#targets = new Float64Array(slots);
    this.#rights = new Uint8Array(slots);
  }

  set(owner: number, page: number, target: number, rights: number): void {
    let at = this.#slotOf(page);
    while (this.#owners[at] !== -1) at = (at + 1) & this.#mask;
    this.#owners[at] = owner;
    this.#pages[at] = page;
    this.#targets[at] = target;
    this.#rights[at] = rights;
  }

  find(owner: number, page: number, right: number): boolean {
    for (let at = this.#slotOf(page); this.#owners[at] !== -1; at = (at + 1) & this.#mask) {
      if (this.#pages[at] !== page || this.#owners[at] !== owner) continue;
      if (((this.#rights[at] as number) & right) === 0) return false;
      this.target = this.#targets[at] as number;
      return true;
    }
    return false;
  }

  #slotOf(page: number): number {
    return (Math.imul(page, 0x9e3779b1) >>> 12) & this.#mask;
  }
}

/** The rows: what is compared with what, and the goal. Every row checks its result in the same run. */

import assert from "node:assert/strict";
import { type Access, IovaTree, Mapping, Translation } from "@iommu-kit/iommu-core";
import { BenchGuest, DEVICE, shuffled } from "./guest.js";
import { measure, type Ratio, type Work } from "./ratio.js";

/** A row of the table. */
export interface Row extends Ratio {
  readonly name: string;
  readonly against: string;
  /** The ratio that is wanted: at most this. */
  readonly goal: number;
  readonly unit: string;
}

/** How much work. */
export interface Size {
  readonly pages: number;
  readonly pairs: number;
}

/** Measures every row. */
export function measureRows(size: Size, report: (row: Row) => void): void {
  const guest = new BenchGuest(size.pages);
  const events = { map: 0, unmap: 0 };
  const space = guest.unit.addressSpace(DEVICE);
  const notifier = {
    kind: "map" as const,
    granularity: "page" as const,
    map: (_first: number, count: number) => void (events.map += count),
    unmap: (_first: number, count: number) => void (events.unmap += count),
  };
  space.attach(notifier);
  guest.start();
  assert.equal(events.map, size.pages);

  const compare = plainCompare(guest);
  const quiet =
    (flush: () => void): Work =>
    () => {
      const before = events.map + events.unmap;
      flush();
      return events.map + events.unmap - before;
    };
  const row = (name: string, against: string, goal: number, unit: string, ratio: Ratio): void => {
    report({ name, against, goal, unit, ...ratio });
  };
  const copy = "compare of the same table pages with a copy";
  const flush = measure(
    quiet(() => guest.flushDomain()),
    compare,
    size.pages,
    size.pairs,
  );
  row("domain flush, nothing changed", copy, 1.5, "page", flush);
  const contexts = measure(
    quiet(() => guest.flushContexts()),
    quiet(() => guest.flushDomain()),
    size.pages,
    size.pairs,
  );
  row("global context flush, nothing changed", "domain flush", 1.5, "page", contexts);
  assert.equal(events.unmap, 0, "a page vanished");

  const changed = measure(
    changeOneInHundred(guest, events),
    quiet(() => guest.flushDomain()),
    size.pages,
    size.pairs,
  );
  row("domain flush, 1 % changed", "domain flush", 3, "page", changed);

  const replay = (): number => {
    const before = events.map;
    const attachment = space.attach({ ...notifier });
    void attachment.detach();
    return events.map - before;
  };
  assert.equal(replay(), size.pages);
  row(
    "replay to a newcomer, and its unmap",
    copy,
    15,
    "page",
    measure(replay, compare, size.pages, Math.min(size.pairs, 5)),
  );
  measureTranslation(guest, size, row);
  measureTree(size, report);
}

/** The words of the leaf tables against a copy of them. */
function plainCompare(guest: BenchGuest): Work {
  const copies = Array.from(guest.leaves, (leaf) => guest.words.slice(leaf * 1024, leaf * 1024 + 1024));
  return () => {
    let difference = 0;
    for (const [table, copy] of copies.entries()) {
      const base = (guest.leaves[table] ?? 0) * 1024;
      for (let i = 0; i < 1024; i++) difference |= (guest.words[base + i] ?? 0) ^ (copy[i] ?? 0);
    }
    return difference;
  };
}

function changeOneInHundred(guest: BenchGuest, events: { readonly map: number }): Work {
  const places = shuffled(guest.pageCount).subarray(0, guest.pageCount / 100);
  return () => {
    const before = events.map;
    for (const pfn of places) guest.setLeaf(pfn, guest.setLeaf(pfn, 0) ^ (1 << 13));
    guest.flushDomain();
    assert.equal(events.map - before, places.length);
    return events.map;
  };
}

function measureTranslation(
  guest: BenchGuest,
  size: Size,
  row: (name: string, against: string, goal: number, unit: string, ratio: Ratio) => void,
): void {
  const space = guest.unit.addressSpace(DEVICE);
  const out = new Translation();
  const near = shuffled(1024);
  const keys = Float64Array.from({ length: 4096 }, (_, key) => key);
  const targets = Float64Array.from(keys, (key) => key * 3);
  const rounds = 50;
  const hit: Work = () => {
    let sum = 0;
    for (let round = 0; round < rounds; round++)
      for (const pfn of near) if (space.translate(pfn, 1, out)) sum += out.gpaPfn;
    return sum;
  };
  const table: Work = () => {
    let sum = 0;
    for (let round = 0; round < rounds; round++)
      for (const pfn of near) if (keys[pfn & 4095] === pfn) sum += targets[pfn & 4095] ?? 0;
    return sum;
  };
  row(
    "IOTLB hit through translate",
    "look-up of the key in a typed array",
    3,
    "request",
    measure(hit, table, near.length * rounds, size.pairs * 3),
  );
  const far = shuffled(guest.pageCount).subarray(0, 65_536);
  const miss: Work = () => {
    let sum = 0;
    for (const pfn of far) if (space.translate(pfn, 1, out)) sum += out.gpaPfn;
    return sum;
  };
  const hand = handWalk(guest, far);
  assert.equal(miss(), hand());
  row(
    "4-level walk through translate",
    "a hand-written walk of the same tables",
    2,
    "request",
    measure(miss, hand, far.length, size.pairs),
  );
}

function handWalk({ words }: BenchGuest, pages: Uint32Array): Work {
  return () => {
    let sum = 0;
    for (const pfn of pages) {
      let table = 18;
      for (let shift = 27; shift >= 0; shift -= 9) {
        const low = words[table * 1024 + ((pfn >>> shift) & 511) * 2] ?? 0;
        if ((low & 1) === 0) throw new Error("not mapped");
        table = low >>> 12;
      }
      sum += table;
    }
    return sum;
  };
}

/** The tree against the `Map` that everybody has. */
function measureTree(size: Size, report: (row: Row) => void): void {
  const order = shuffled(size.pages);
  const tree = new IovaTree();
  const map = new Map<number, { gpaPfn: number; access: Access }>();
  const insert: Work = () => {
    for (const pfn of order) tree.insert(pfn, 1, (pfn * 7) % 2 ** 20, 3);
    return tree.slotCount;
  };
  const set: Work = () => {
    for (const pfn of order) map.set(pfn, { gpaPfn: (pfn * 7) % 2 ** 20, access: 3 });
    return map.size;
  };
  assert.equal(insert(), set());
  const found = new Mapping();
  const find: Work = () => {
    let sum = 0;
    for (const pfn of order) if (tree.find(pfn, found)) sum += found.gpaPfn;
    return sum;
  };
  const get: Work = () => {
    let sum = 0;
    for (const pfn of order) sum += map.get(pfn)?.gpaPfn ?? 0;
    return sum;
  };
  assert.equal(find(), get());
  const row = (name: string, ratio: Ratio): void =>
    report({ name, against: "a Map of objects", goal: 1, unit: "page", ...ratio });
  row("IOVA tree: insert, random order", measure(insert, set, size.pages, Math.min(size.pairs, 5)));
  row("IOVA tree: find, random order", measure(find, get, size.pages, Math.min(size.pairs, 5)));
}

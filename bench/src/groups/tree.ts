/** The IOVA tree by itself against the trees that others use: single pages, scattered targets. */

import { IovaTree, Mapping, type Access } from "@iommu-kit/iommu-core";
import { RBTree } from "bintrees";
import sortedBTreeModule from "sorted-btree";
import type { Group, Size } from "../group.js";
import { speedRow } from "../group.js";
import { GTree, RANDOM_FINDS } from "../gtree.js";
import { scatteredTarget, shuffled } from "../guest.js";
import { type Candidate, compare, inProcess } from "../ratio.js";
import { atLeast, type Goal, type Row } from "../row.js";

const FRAMES = 2 ** 13;
const BTree = sortedBTreeModule.default;

/** See the file's header. */
export const treeGroup: Group = {
  name: "tree",
  async measure(size, report) {
    const order = shuffled(size.pages);
    let sum = 0;
    for (let pfn = 0; pfn < size.pages; pfn++) sum += scatteredTarget(pfn, FRAMES);
    const work = { order, sum, size, report };
    await against("sorted-btree", sortedBTree(order), work, atLeast(10));
    await against("bintrees (RBTree)", redBlackTree(order), work);
    await against("a Map", hashMap(order), work);
    await againstGTree(work);
  },
};

/** A mapping as the other trees keep it. */
interface Target {
  readonly gpaPfn: number;
  readonly access: Access;
}

/** The three operations over all pages of an order: how many there are afterwards, or the sum of the targets found. */
interface Operations {
  readonly insert: Candidate;
  readonly find: Candidate;
  readonly remove: Candidate;
}

interface Comparison {
  readonly order: Uint32Array;
  readonly sum: number;
  readonly size: Size;
  readonly report: (row: Row) => void;
}

async function against(name: string, other: Operations, work: Comparison, goal?: Goal): Promise<void> {
  const { order, sum, size, report } = work;
  const ours = iovaTree(order);
  const checks = { insert: size.pages, find: sum, remove: 0 };
  for (const operation of ["insert", "find", "remove"] as const) {
    const ratio = await compare(ours[operation], other[operation], {
      units: size.pages,
      pairs: Math.min(size.pairs, 3),
      check: checks[operation],
    });
    const title = { what: `IOVA tree: ${operation}, random order`, against: `${name}, times faster`, per: "page" };
    report(speedRow({ ...title, ...(goal && { goal }) }, ratio));
  }
}

function iovaTree(order: Uint32Array): Operations {
  let tree = new IovaTree();
  const found = new Mapping();
  const fill = (): void => {
    tree = new IovaTree();
    for (const pfn of order) tree.insert(pfn, 1, scatteredTarget(pfn, FRAMES), 3);
  };
  fill();
  return {
    insert: inProcess(
      () => {
        for (let i = 0; i < order.length; i++) {
          const pfn = order[i] as number;
          tree.insert(pfn, 1, scatteredTarget(pfn, FRAMES), 3);
        }
        return tree.slotCount;
      },
      () => void (tree = new IovaTree()),
    ),
    find: inProcess(() => {
      let sum = 0;
      for (let i = 0; i < order.length; i++) if (tree.find(order[i] as number, found)) sum += found.gpaPfn;
      return sum;
    }),
    remove: inProcess(() => {
      for (let i = 0; i < order.length; i++) tree.remove(order[i] as number, 1);
      return tree.slotCount;
    }, fill),
  };
}

function sortedBTree(order: Uint32Array): Operations {
  let tree = new BTree<number, Target>();
  const fill = (): void => {
    tree = new BTree();
    for (const pfn of order) tree.set(pfn, { gpaPfn: scatteredTarget(pfn, FRAMES), access: 3 });
  };
  fill();
  return {
    insert: inProcess(
      () => {
        for (let i = 0; i < order.length; i++) {
          const pfn = order[i] as number;
          tree.set(pfn, { gpaPfn: scatteredTarget(pfn, FRAMES), access: 3 });
        }
        return tree.size;
      },
      () => void (tree = new BTree()),
    ),
    find: inProcess(() => {
      let sum = 0;
      for (let i = 0; i < order.length; i++) sum += tree.get(order[i] as number)?.gpaPfn ?? 0;
      return sum;
    }),
    remove: inProcess(() => {
      for (let i = 0; i < order.length; i++) tree.delete(order[i] as number);
      return tree.size;
    }, fill),
  };
}

interface Node extends Target {
  readonly pfn: number;
}

function redBlackTree(order: Uint32Array): Operations {
  const byPage = (a: Node, b: Node): number => a.pfn - b.pfn;
  const keyOf = (pfn: number): Node => ({ pfn, gpaPfn: scatteredTarget(pfn, FRAMES), access: 3 });
  let tree = new RBTree<Node>(byPage);
  const fill = (): void => {
    tree = new RBTree(byPage);
    for (const pfn of order) tree.insert(keyOf(pfn));
  };
  fill();
  return {
    insert: inProcess(
      () => {
        for (let i = 0; i < order.length; i++) tree.insert(keyOf(order[i] as number));
        return tree.size;
      },
      () => void (tree = new RBTree(byPage)),
    ),
    find: inProcess(() => {
      let sum = 0;
      const key = { pfn: 0, gpaPfn: 0, access: 3 as Access };
      for (let i = 0; i < order.length; i++) {
        key.pfn = order[i] as number;
        sum += tree.find(key)?.gpaPfn ?? 0;
      }
      return sum;
    }),
    remove: inProcess(() => {
      const key = { pfn: 0, gpaPfn: 0, access: 3 as Access };
      for (let i = 0; i < order.length; i++) {
        key.pfn = order[i] as number;
        tree.remove(key);
      }
      return tree.size;
    }, fill),
  };
}

function hashMap(order: Uint32Array): Operations {
  let map = new Map<number, Target>();
  const fill = (): void => {
    map = new Map();
    for (const pfn of order) map.set(pfn, { gpaPfn: scatteredTarget(pfn, FRAMES), access: 3 });
  };
  fill();
  return {
    insert: inProcess(
      () => {
        for (let i = 0; i < order.length; i++) {
          const pfn = order[i] as number;
          map.set(pfn, { gpaPfn: scatteredTarget(pfn, FRAMES), access: 3 });
        }
        return map.size;
      },
      () => void (map = new Map()),
    ),
    find: inProcess(() => {
      let sum = 0;
      for (let i = 0; i < order.length; i++) sum += map.get(order[i] as number)?.gpaPfn ?? 0;
      return sum;
    }),
    remove: inProcess(() => {
      for (let i = 0; i < order.length; i++) map.delete(order[i] as number);
      return map.size;
    }, fill),
  };
}

/** The C tree, in ascending order, and look-ups in random order too. */
async function againstGTree({ order, sum, size, report }: Comparison): Promise<void> {
  const started = GTree.start(size.pages, FRAMES);
  const row = async (what: string, subject: Candidate, baseline: Candidate | string, check: number): Promise<void> => {
    const title = { what: `IOVA tree: ${what}`, against: "a GLib GTree in C, times faster", per: "page" };
    if (typeof baseline === "string") {
      report({ ...title, notMeasured: baseline });
      return;
    }
    const units = what.startsWith("find, random") ? Math.min(size.pages, RANDOM_FINDS) : size.pages;
    report(speedRow(title, await compare(subject, baseline, { units, pairs: Math.min(size.pairs, 3), check })));
  };
  const c = (batch: Parameters<GTree["candidate"]>[0]): Candidate | string =>
    typeof started === "string" ? started : started.candidate(batch);
  const ascending = Uint32Array.from({ length: size.pages }, (_, pfn) => pfn);
  const ours = iovaTree(ascending);
  await row("insert, ascending", ours.insert, c("insert sequential"), size.pages);
  await row("find, ascending", ours.find, c("find sequential"), sum);
  const tree = new IovaTree();
  for (const pfn of order) tree.insert(pfn, 1, scatteredTarget(pfn, FRAMES), 3);
  const some = order.subarray(0, RANDOM_FINDS);
  const found = new Mapping();
  let someSum = 0;
  for (const pfn of some) someSum += scatteredTarget(pfn, FRAMES);
  const random = inProcess(() => {
    let targets = 0;
    for (let i = 0; i < some.length; i++) if (tree.find(some[i] as number, found)) targets += found.gpaPfn;
    return targets;
  });
  await row("find, random order", random, c("find random"), someSum);
  await row("remove, ascending", ours.remove, c("remove sequential"), 0);
  if (typeof started !== "string") started.stop();
}

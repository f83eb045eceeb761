import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { IovaTree, Mapping, type Access } from "../src/index.js";

interface Page {
  readonly gpaPfn: number;
  readonly access: Access;
}

/** The obvious model: one entry a frame. Frames are kept small in number by choosing ranges near a few bases. */
class NaiveTree {
  readonly pages = new Map<number, Page>();

  insert(firstPfn: number, pageCount: number, gpaPfn: number, access: Access): void {
    if (access === 0) this.remove(firstPfn, pageCount);
    else for (let i = 0; i < pageCount; i++) this.pages.set(firstPfn + i, { gpaPfn: gpaPfn + i, access });
  }

  remove(firstPfn: number, pageCount: number): void {
    for (let i = 0; i < pageCount; i++) this.pages.delete(firstPfn + i);
  }

  runs(first: number, end: number): [number, number, number, Access][] {
    const runs: [number, number, number, Access][] = [];
    for (const pfn of [...this.pages.keys()].toSorted((a, b) => a - b)) {
      const page = this.pages.get(pfn);
      if (page === undefined || pfn < first || pfn >= end) continue;
      const last = runs.at(-1);
      if (
        last !== undefined &&
        last[0] + last[1] === pfn &&
        last[2] + last[1] === page.gpaPfn &&
        last[3] === page.access
      )
        last[1] += 1;
      else runs.push([pfn, 1, page.gpaPfn, page.access]);
    }
    return runs;
  }
}

const bases = [0, 512 * 7, 2 ** 18 - 600, 2 ** 27 - 512, 2 ** 36 + 512 * 3, 2 ** 45 - 1024, 2 ** 52 - 4096];
const range = fc.record({
  firstPfn: fc
    .tuple(fc.constantFrom(...bases), fc.oneof(fc.nat(1500), fc.constantFrom(0, 512, 1024)))
    .map(([base, offset]) => base + offset),
  pageCount: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(1, 511, 512, 513, 1024)),
});
const access = fc.constantFrom<Access>(0, 1, 2, 3);
const target = fc.oneof(fc.nat(4000), fc.constantFrom(0, 512, 2 ** 20 - 3, 2 ** 39));
const step = fc.oneof(
  fc.record({ op: fc.constant("insert" as const), range, target, access }),
  fc.record({ op: fc.constant("remove" as const), range, target, access }),
);

function runsOf(tree: IovaTree, first: number, count: number): [number, number, number, Access][] {
  const runs: [number, number, number, Access][] = [];
  tree.runs((...run) => void runs.push(run), { firstPfn: first, pageCount: count });
  return runs;
}

describe("IovaTree", () => {
  it("agrees with a map of single frames after any sequence of inserts and removes", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 25 }), range, (steps, window) => {
        const tree = new IovaTree();
        const naive = new NaiveTree();
        const between = new Mapping();
        for (const {
          op,
          range: { firstPfn, pageCount },
          target: gpaPfn,
          access: rights,
        } of steps) {
          if (op === "insert") {
            tree.insert(firstPfn, pageCount, gpaPfn, rights);
            naive.insert(firstPfn, pageCount, gpaPfn, rights);
          } else {
            tree.remove(firstPfn, pageCount);
            naive.remove(firstPfn, pageCount);
          }
          // Look-ups between edits: the leaf used last must never answer for one that has gone.
          for (const pfn of [firstPfn, firstPfn + pageCount - 1, window.firstPfn]) {
            const page = naive.pages.get(pfn);
            expect(tree.find(pfn, between)).toBe(page !== undefined);
            if (page !== undefined) expect(between.gpaPfn).toBe(page.gpaPfn);
          }
        }
        expect(tree.pageCount).toBe(naive.pages.size);
        expect(runsOf(tree, 0, 2 ** 52)).toEqual(naive.runs(0, 2 ** 52));
        expect(runsOf(tree, window.firstPfn, window.pageCount)).toEqual(
          naive.runs(window.firstPfn, window.firstPfn + window.pageCount),
        );
        const found = new Mapping();
        for (let pfn = window.firstPfn; pfn < window.firstPfn + 20; pfn++) {
          const page = naive.pages.get(pfn);
          expect(tree.find(pfn, found)).toBe(page !== undefined);
          if (page !== undefined) expect({ gpaPfn: found.gpaPfn, access: found.access }).toEqual(page);
        }
      }),
      { numRuns: 300 },
    );
  });

  it("takes an insert without rights for a removal", () => {
    const tree = new IovaTree();
    tree.insert(0, 10, 100, 3);
    tree.insert(2, 3, 0, 0);
    expect(runsOf(tree, 0, 2 ** 52)).toEqual([
      [0, 2, 100, 3],
      [5, 5, 105, 3],
    ]);
    expect([tree.pageCount, tree.slotCount]).toEqual([7, 7]);
  });

  it("takes one without rights for a removal at superpage size too, whole or in part", () => {
    const tree = new IovaTree();
    tree.insert(0, 512, 0, 0);
    expect([tree.pageCount, tree.slotCount, tree.find(0, new Mapping()), tree.seek(0, new Mapping())]).toEqual([
      0,
      0,
      false,
      false,
    ]);
    tree.insert(0, 2048, 4096, 3);
    tree.insert(512, 512, 0, 0);
    tree.insert(1000, 700, 0, 0);
    expect(runsOf(tree, 0, 2 ** 52)).toEqual([
      [0, 512, 4096, 3],
      [1700, 348, 5796, 3],
    ]);
    expect(tree.pageCount).toBe(860);
    tree.remove(0, 2048);
    expect([tree.pageCount, tree.slotCount]).toEqual([0, 0]);
  });

  it("refuses targets that it cannot hold", () => {
    const tree = new IovaTree();
    for (const gpaPfn of [2 ** 40, 2 ** 40 - 511, -1, 1.5, Number.NaN])
      expect(() => tree.insert(0, 512, gpaPfn, 3), String(gpaPfn)).toThrow(/target.*whole frames in \[0, 2\^40\)/);
    expect(tree.pageCount).toBe(0);
    tree.insert(0, 512, 2 ** 40 - 512, 3);
    expect(runsOf(tree, 0, 512)).toEqual([[0, 512, 2 ** 40 - 512, 3]]);
  });

  it("counts slots and frames through replacements of pages by superpages and back", () => {
    const tree = new IovaTree();
    const counts = (): number[] => [tree.slotCount, tree.pageCount];
    tree.insert(512, 10, 100, 3);
    tree.insert(512, 5, 900, 1);
    expect(counts()).toEqual([10, 10]);
    tree.insert(512, 512, 1024, 3);
    expect(counts()).toEqual([1, 512]);
    tree.insert(512, 512, 4096, 3);
    expect(counts()).toEqual([1, 512]);
    tree.insert(513, 1, 7, 3);
    expect(counts()).toEqual([512, 512]);
    tree.insert(2 ** 27, 2 ** 27, 2 ** 27, 3);
    expect(counts()).toEqual([513, 512 + 2 ** 27]);
    tree.remove(2 ** 27, 2 ** 26);
    expect(tree.pageCount).toBe(512 + 2 ** 26);
    tree.clear();
    expect(counts()).toEqual([0, 0]);
    expect(tree.byteLength).toBe(new IovaTree().byteLength);
  });

  it("answers for no frame beyond its nodes, however its index in them reads", () => {
    const tree = new IovaTree();
    const out = new Mapping();
    tree.insert(5, 1, 50, 3);
    for (const far of [2 ** 18, 2 ** 27, 2 ** 36, 2 ** 45, 2 ** 51]) {
      expect([tree.find(far + 5, out), tree.seek(far + 5, out), tree.leafAt(far + 5)]).toEqual([
        false,
        false,
        undefined,
      ]);
      tree.remove(far + 5, 1);
      expect(runsOf(tree, 0, 2 ** 52)).toEqual([[5, 1, 50, 3]]);
    }
    tree.insert(2 ** 30, 1, 60, 3);
    expect(tree.find(2 ** 30 + 2 ** 36, out)).toBe(false);
    expect(tree.find(5 + 2 ** 36, out)).toBe(false);
    expect(tree.find(5, out) && out.gpaPfn).toBe(50);
  });

  it("ends a visit of runs where the visitor says so", () => {
    const tree = new IovaTree();
    for (let i = 0; i < 5; i++) tree.insert(i * 10, 2, i, 3);
    const seen: number[] = [];
    tree.runs((first) => {
      seen.push(first);
      return seen.length < 2;
    });
    expect(seen).toEqual([0, 10]);
  });

  it("finds the slot of a frame, or the next one above, across nodes of any level", () => {
    const tree = new IovaTree();
    const out = new Mapping();
    expect(tree.seek(0, out)).toBe(false);
    tree.insert(2 ** 18, 2 ** 18, 2 ** 18, 1);
    tree.insert(2 ** 40 + 5, 1, 9, 3);
    expect(tree.seek(0, out)).toBe(true);
    expect(out).toMatchObject({ firstPfn: 2 ** 18, pageCount: 2 ** 18, gpaPfn: 2 ** 18, access: 1 });
    expect(tree.seek(2 ** 18 + 77, out)).toBe(true);
    expect(out).toMatchObject({ firstPfn: 2 ** 18, pageCount: 2 ** 18, gpaPfn: 2 ** 18 + 77, access: 1 });
    expect(tree.seek(2 ** 19, out)).toBe(true);
    expect(out).toMatchObject({ firstPfn: 2 ** 40 + 5, pageCount: 1, gpaPfn: 9, access: 3 });
    expect(tree.seek(2 ** 40 + 6, out)).toBe(false);
    expect(out.firstPfn).toBe(2 ** 40 + 5);
    expect(tree.find(2 ** 51, out)).toBe(false);
  });

  it("keeps a superpage in one slot and cuts it where part of it is removed", () => {
    const tree = new IovaTree();
    tree.insert(2 ** 18, 2 ** 18, 2 ** 20, 3);
    expect(tree.slotCount).toBe(1);
    const empty = new IovaTree().byteLength;
    expect(tree.byteLength - empty).toBeLessThan(3 * 4096 + 1);
    tree.remove(2 ** 18 + 1000, 1);
    expect(tree.slotCount).toBe(511 + 511);
    expect(runsOf(tree, 0, 2 ** 52)).toEqual([
      [2 ** 18, 1000, 2 ** 20, 3],
      [2 ** 18 + 1001, 2 ** 18 - 1001, 2 ** 20 + 1001, 3],
    ]);
  });

  it("forgets the leaf used last when a removal, a superpage or a clear takes it away", () => {
    const tree = new IovaTree();
    const found = new Mapping();
    const edits = [() => tree.remove(0, 512), () => tree.insert(0, 512, 4096, 3), () => tree.clear()];
    for (const takeAway of edits) {
      tree.clear();
      tree.insert(5, 1, 50, 3);
      expect(tree.find(5, found)).toBe(true);
      takeAway();
      const held = tree.find(5, found);
      expect(held ? found.gpaPfn : undefined).toBe(takeAway === edits[1] ? 4101 : undefined);
      tree.insert(7, 1, 70, 3);
      expect(tree.find(7, found)).toBe(true);
      expect(found.gpaPfn).toBe(70);
    }
  });

  it("gives its memory back when everything is removed", () => {
    const tree = new IovaTree();
    for (let i = 0; i < 100; i++) tree.insert(i * 5000, 3, i, 1);
    const full = tree.byteLength;
    tree.remove(0, 2 ** 52);
    expect(tree.slotCount).toBe(0);
    expect(tree.byteLength).toBeLessThan(full / 20);
  });

  it("agrees with a map of single frames while leaves come and go by the hundred", () => {
    const edit = fc.record({
      op: fc.constantFrom("insert", "insert", "insert", "remove", "drop"),
      leaf: fc.nat(140),
      index: fc.constantFrom(0, 1, 511),
    });
    fc.assert(
      fc.property(fc.array(edit, { minLength: 100, maxLength: 400 }), (edits) => {
        const tree = new IovaTree();
        const naive = new Map<number, number>();
        const found = new Mapping();
        for (const [at, { op, leaf, index }] of edits.entries()) {
          const pfn = 2 ** 18 - 50 * 512 + leaf * 512 + index;
          if (op === "insert") {
            tree.insert(pfn, 1, at, 3);
            naive.set(pfn, at);
          } else if (op === "remove") {
            tree.remove(pfn, 1);
            naive.delete(pfn);
          } else {
            tree.remove(pfn - index, 512);
            for (let i = 0; i < 512; i++) naive.delete(pfn - index + i);
          }
        }
        for (const [pfn, gpaPfn] of naive) expect(tree.find(pfn, found) && found.gpaPfn).toBe(gpaPfn);
        expect([tree.pageCount, tree.slotCount]).toEqual([naive.size, naive.size]);
        const pages: [number, number][] = [];
        for (let pfn = 0; tree.seek(pfn, found); pfn = found.firstPfn + 1) pages.push([found.firstPfn, found.gpaPfn]);
        expect(pages).toEqual([...naive].toSorted(([a], [b]) => a - b));
      }),
      { numRuns: 60 },
    );
  });

  it("gives arrays of 32 leaves back as they become empty, all but one, and none is made for a leaf that comes and goes", () => {
    const tree = new IovaTree();
    for (let leaf = 0; leaf < 5 * 32; leaf++) tree.insert(leaf * 512, 1, leaf, 3);
    const full = tree.byteLength;
    tree.remove(0, 4 * 32 * 512);
    const kept = tree.byteLength;
    expect(full - kept).toBe(3 * 32 * 4096);
    for (let i = 0; i < 3; i++) {
      tree.insert(5, 1, 9, 3);
      expect(tree.byteLength).toBe(kept);
      tree.remove(5, 1);
      expect(tree.byteLength).toBe(kept);
    }
    // What is left is as it was, and what comes fills what is there before anything is made.
    for (let leaf = 0; leaf < 32; leaf++) tree.insert(leaf * 512, 1, leaf, 3);
    expect(tree.byteLength).toBe(kept);
    const found = new Mapping();
    for (const leaf of [0, 31, 128, 159]) expect(tree.find(leaf * 512, found) && found.gpaPfn).toBe(leaf);
    tree.insert(40 * 512, 1, 40, 3);
    expect(tree.byteLength - kept).toBe(32 * 4096);
  });

  it("takes a leaf's bytes for each of the first leaves: 1, 2, 4 and so on up to 32", () => {
    const tree = new IovaTree();
    tree.insert(0, 1, 0, 3);
    const one = tree.byteLength;
    const sizes = Array.from({ length: 40 }, (_, leaf) => {
      tree.insert(leaf * 512, 1, leaf, 3);
      return 1 + (tree.byteLength - one) / 4096;
    });
    expect([1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33].map((leaves) => sizes[leaves - 1])).toEqual([
      1, 2, 4, 4, 8, 8, 16, 16, 32, 32, 64,
    ]);
  });

  it("retains at most 8.4 bytes for each densely mapped frame", () => {
    const tree = new IovaTree();
    for (let i = 0; i < 2 ** 17; i++) tree.insert(i, 1, (i * 7919) % 2 ** 20, 3);
    expect(tree.byteLength / 2 ** 17).toBeLessThan(8.4);
  });

  it("keeps 1 GiB pages in a slot of 8 bytes each", () => {
    const tree = new IovaTree();
    for (let i = 0; i < 512 * 64; i++) tree.insert(i * 2 ** 18, 2 ** 18, ((i * 7919) % 2 ** 15) * 2 ** 18, 3);
    expect(tree.slotCount).toBe(512 * 64);
    expect(tree.byteLength / (512 * 64)).toBeLessThan(8.3);
  });

  it("counts what is made for a child below a node of superpages, once", () => {
    const tree = new IovaTree();
    tree.insert(0, 2 ** 18, 0, 3);
    const superpage = tree.byteLength;
    tree.insert(2 ** 18, 1, 5, 3);
    const withChild = tree.byteLength;
    // An array of children, a directory of leaves (their places, counts and formats), and a leaf.
    expect(withChild - superpage).toBe(4096 + 512 * (4 + 2 + 8) + 4096);
    tree.insert(2 ** 18 + 512, 1, 6, 3);
    expect(tree.byteLength - withChild).toBe(4096);
    tree.remove(2 ** 18, 2 ** 18);
    tree.insert(2 ** 18, 1, 5, 3);
    expect(tree.byteLength).toBe(withChild);
  });

  it("refuses ranges that are not whole frames of the 64-bit space", () => {
    const tree = new IovaTree();
    expect(() => tree.insert(0.5, 1, 0, 3)).toThrow(/bad-range|whole frames/);
    expect(() => tree.insert(2 ** 52 - 1, 2, 0, 3)).toThrow(/whole frames/);
    expect(() => tree.remove(0, 0)).toThrow(/whole frames/);
  });
});

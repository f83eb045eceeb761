import { describe, expect, it } from "vitest";
import { DECODED, IovaTree, LeafTable, Mapping } from "../src/index.js";

const GIB = 2 ** 18;

function runsOf(tree: IovaTree): number[][] {
  const runs: number[][] = [];
  tree.runs((firstPfn, pageCount, gpaPfn, access) => void runs.push([firstPfn, pageCount, gpaPfn, access]));
  return runs;
}

describe("a tree", () => {
  it("maps nothing beyond what it was given, however small it still is", () => {
    for (const [first, count] of [
      [0, 1],
      [0, 512],
      [512, 512],
      [GIB - 1, 1],
    ] as const) {
      const tree = new IovaTree();
      tree.insert(first, count, 5 * 512, 3);
      const slot = new Mapping();
      for (const far of [GIB, GIB * 512, 2 ** 36, 2 ** 51]) {
        expect([tree.find(far + first, slot), tree.seek(far, slot), tree.leafAt(far + first)]).toEqual([
          false,
          false,
          undefined,
        ]);
      }
      expect(tree.find(first, slot)).toBe(true);
    }
  });

  it("tells runs apart where frames, targets or rights are not consecutive", () => {
    const tree = new IovaTree();
    tree.insert(0, 2, 100, 3);
    tree.insert(5, 2, 102, 3);
    tree.insert(7, 1, 104, 1);
    tree.insert(8, 1, 900, 1);
    tree.insert(9, 3, 901, 1);
    expect(runsOf(tree)).toEqual([
      [0, 2, 100, 3],
      [5, 2, 102, 3],
      [7, 1, 104, 1],
      [8, 4, 900, 1],
    ]);
  });

  it("takes exactly what is removed, across tables and superpages", () => {
    const tree = new IovaTree();
    tree.insert(0, 2048, 0, 3);
    tree.remove(510, 4);
    tree.insert(510, 4, 510, 3);
    tree.remove(508, 8);
    expect(runsOf(tree)).toEqual([
      [0, 508, 0, 3],
      [516, 1532, 516, 3],
    ]);
    tree.remove(1, 1);
    tree.remove(1000, 100);
    tree.remove(1536, 512);
    expect(runsOf(tree)).toEqual([
      [0, 1, 0, 3],
      [2, 506, 2, 3],
      [516, 484, 516, 3],
      [1100, 436, 1100, 3],
    ]);
    expect(tree.pageCount).toBe(1 + 506 + 484 + 436);
    tree.insert(0, 4 * GIB, 0, 1);
    expect([tree.pageCount, tree.slotCount, runsOf(tree)]).toEqual([4 * GIB, 4, [[0, 4 * GIB, 0, 1]]]);
    tree.remove(GIB + 5, 2 * GIB);
    expect(runsOf(tree)).toEqual([
      [0, GIB + 5, 0, 1],
      [3 * GIB + 5, GIB - 5, 3 * GIB + 5, 1],
    ]);
  });

  it("finds its leaf again in any order", () => {
    const tree = new IovaTree();
    const bases = [0, 512, 1024, GIB - 512, GIB, GIB + 512, 2 ** 31, 2 ** 31 + 512];
    for (const [i, base] of bases.entries()) tree.insert(base + i, 1, 700 + i, 3);
    for (const order of [
      bases,
      bases.toReversed(),
      [...bases.slice(4), ...bases.slice(0, 4)],
      [GIB + 512, GIB - 512],
    ]) {
      for (const base of order) {
        const leaf = tree.leafAt(base);
        const i = bases.indexOf(base);
        expect((leaf?.words[leaf.firstWord + i * 2] ?? 0) >>> 12).toBe(700 + i);
      }
    }
    const empty = new IovaTree().byteLength;
    expect(tree.byteLength).toBeGreaterThanOrEqual(bases.length * 4096);
    for (const base of bases) tree.remove(base, 512);
    expect([tree.pageCount, tree.slotCount, runsOf(tree)]).toEqual([0, 0, []]);
    tree.clear();
    expect(tree.byteLength).toBe(empty);
  });
});

describe("the bytes of a tree", () => {
  it("are counted with every array that it makes or drops", () => {
    const tree = new IovaTree();
    const none = tree.byteLength;
    tree.insert(0, 512, 0, 3);
    expect(tree.byteLength - none).toBe(4096);
    tree.remove(0, 512);
    tree.insert(GIB, GIB, 0, 3);
    expect(tree.byteLength - none).toBe(4096);
    // A superpage in the place of what was below it.
    tree.insert(0, 1, 5, 3);
    tree.insert(0, GIB, 0, 1);
    expect([tree.byteLength - none, tree.slotCount, runsOf(tree)]).toEqual([
      8192,
      2,
      [
        [0, GIB, 0, 1],
        [GIB, GIB, 0, 3],
      ],
    ]);
  });

  it("do not grow where superpages are taken apart and removed, time and again", () => {
    const tree = new IovaTree();
    const bytes = Array.from({ length: 40 }, (_, i) => {
      tree.insert(i * 512, 512, 0, 3);
      tree.remove(i * 512, 1);
      tree.remove(i * 512 + 1, 511);
      return tree.byteLength;
    });
    expect(new Set(bytes).size).toBe(1);
  });

  it("count what is remembered of generations once for each directory, and not at all without them", () => {
    const tree = new IovaTree();
    const told = { index: new Int32Array(0), next: new Int32Array(0), count: 0 };
    tree.insert(0, 1, 5, 3);
    tree.insert(2 * GIB, 1, 5, 3);
    tree.remove(2 * GIB, 1);
    const before = tree.byteLength;
    tree.writeSlots(0, told, DECODED, tableOf(-1));
    expect(tree.byteLength).toBe(before);
    for (let i = 0; i < 2; i++) {
      tree.writeSlots(0, told, DECODED, tableOf(1));
      expect(tree.byteLength).toBe(before + 8192);
    }
    tree.insert(2 * GIB, 1, 5, 3);
    tree.writeSlots(2 * GIB, told, DECODED, tableOf(1));
    tree.remove(2 * GIB, 1);
    expect(tree.byteLength).toBe(before + 8192);
  });
});

describe("what a host vouches for", () => {
  const told = { index: new Int32Array(0), next: new Int32Array(0), count: 0 };

  it("is one table at one generation, until the tree says something else", () => {
    const tree = new IovaTree();
    tree.insert(0, 9, 5, 3);
    tree.insert(512, 9, 5, 3);
    for (const generation of [1, 7]) {
      tree.writeSlots(0, told, DECODED, tableOf(generation));
      const isProved = (table: LeafTable): boolean | undefined => tree.leafAt(0)?.isProved(table);
      expect(
        [tableOf(generation), tableOf(generation + 1), tableOf(generation, 10), tableOf(-1)].map((table) =>
          isProved(table),
        ),
      ).toEqual([true, false, false, false]);
      tree.remove(generation, 1);
      expect([tableOf(generation), tableOf(-1), tableOf(1)].map((table) => isProved(table))).toEqual([
        false,
        false,
        false,
      ]);
    }
    tree.writeSlots(512, told, DECODED, tableOf(-1));
    expect(tree.leafAt(512)?.isProved(tableOf(-1))).toBe(false);
  });

  it("is no table that nobody has told it", () => {
    const tree = new IovaTree();
    tree.insert(0, 1, 5, 3);
    tree.insert(512, 1, 5, 3);
    tree.writeSlots(0, told, DECODED, tableOf(1));
    const directory = tree.leavesAt(0);
    directory?.remember(tableOf(1, 20));
    expect(directory?.isProvedWhole(tableOf(1, 20), () => 1)).toBe(false);
    tree.writeSlots(512, told, DECODED, tableOf(1, 11));
    directory?.remember(tableOf(1, 20));
    expect(directory?.isProvedWhole(tableOf(1, 20), () => 1)).toBe(true);
  });

  it("is no directory whose leaves were told by other tables since", () => {
    const tree = new IovaTree();
    tree.insert(0, 1, 100, 3);
    const directory = tree.leavesAt(0);
    tree.writeSlots(0, told, DECODED, tableOf(1, 10));
    directory?.remember(tableOf(1, 20));
    expect(directory?.isProvedWhole(tableOf(1, 20), () => 1)).toBe(true);
    // The same table at another generation is the directory's own affair; another table is not.
    tree.writeSlots(0, told, DECODED, tableOf(2, 10));
    expect(directory?.isProvedWhole(tableOf(1, 20), () => 2)).toBe(true);
    tree.writeSlots(0, told, DECODED, tableOf(2, 11));
    expect(directory?.isProvedWhole(tableOf(1, 20), () => 2)).toBe(false);
  });
});

/** A table of the guest, of which only the frame and the generation matter. */
function tableOf(generation: number, pfn = 9): LeafTable {
  return Object.assign(new LeafTable(), { pfn, generation, format: DECODED });
}

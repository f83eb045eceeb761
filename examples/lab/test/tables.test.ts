import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { FakeMemory, PageTables } from "@iommu-kit/iommu-core/testing";
import { PlaygroundMachine } from "../src/machine/playground-machine.js";
import { announceDifferences } from "@iommu-kit/linux-trace/follow/follow";
import { cellsOf, coverage, type Span } from "../src/tables/page-map.js";
import { type TableNode, tableTree } from "../src/tables/table-tree.js";

const SOURCE_ID = 0x18;
const ROOT_PFN = 0x800;

function leavesOf(node: TableNode): NonNullable<TableNode["leaf"]>[] {
  return [...(node.leaf === undefined ? [] : [node.leaf]), ...(node.children?.() ?? []).flatMap(leavesOf)];
}

/** Tables of four levels with a root and a context in front of them. */
function guest(): { readonly tables: PageTables; tree(): TableNode } {
  const memory = new FakeMemory();
  const tables = new PageTables(memory);
  memory.pokeEntry(ROOT_PFN * 4096, (ROOT_PFN + 1) * 4096 + 1, 0);
  memory.pokeEntry((ROOT_PFN + 1) * 4096 + SOURCE_ID * 16, tables.rootPfn * 4096 + 1, 0);
  memory.pokeEntry((ROOT_PFN + 1) * 4096 + SOURCE_ID * 16 + 8, 0x702, 0);
  return { tables, tree: () => tableTree(ROOT_PFN, SOURCE_ID, (gpa) => memory.peek(gpa)) };
}

describe("the tree of a guest's tables", () => {
  it("names every entry on the way, in words", () => {
    const { tables, tree } = guest();
    tables.map(0x205, 1, 0x900, 1);
    const path: string[] = [];
    for (let node: TableNode | undefined = tree(); node !== undefined; node = node.children?.()[0])
      path.push(`${node.label}: ${node.detail}`);
    expect(path).toEqual([
      "root-entry, bus 0x0: contexts at 0x801",
      "context-entry 00:03.0: domain 7, 4 levels",
      "entry 0x0: level 3 table at 0x1001",
      "entry 0x0: level 2 table at 0x1002",
      "entry 0x1: level 1 table at 0x1003",
      "entry 0x5: 0x205 → 0x900 r-",
    ]);
  });

  it("says what is not there", () => {
    const read = (): number => 0;
    expect(tableTree(5, SOURCE_ID, read)).toMatchObject({ detail: "not present", children: undefined });
    const machine = new PlaygroundMachine(announceDifferences);
    machine.perform({ do: "context", to: "pass-through" });
    const root = Number(machine.unit.mmio.read64(0x20) >> 12n);
    const context = tableTree(root, SOURCE_ID, machine.read).children?.()[0];
    expect(context).toMatchObject({ detail: "domain 3, pass-through", children: undefined });
  });

  it("shows neighbours that map consecutive pages as one", () => {
    const { tables, tree } = guest();
    tables.map(0x10, 4, 0x100, 3);
    tables.map(0x14, 2, 0x104, 1);
    tables.map(0x200, 512, 0x400, 3, 512);
    tables.map(0x400, 512, 0x600, 3, 512);
    expect(leavesOf(tree())).toEqual([
      { iovaPfn: 0x10, pageCount: 4, gpaPfn: 0x100, access: 3 },
      { iovaPfn: 0x14, pageCount: 2, gpaPfn: 0x104, access: 1 },
      { iovaPfn: 0x200, pageCount: 1024, gpaPfn: 0x400, access: 3 },
    ]);
  });

  it("ends where a table points to itself", () => {
    const { tables, tree } = guest();
    const self = tables.rootPfn * 4096;
    tables.memory.pokeEntry(self, self + 3, 0);
    let depth = 0;
    for (let node: TableNode | undefined = tree(); node !== undefined; node = node.children?.()[0]) depth += 1;
    expect(depth).toBe(6);
  });

  it("property: finds every mapped page once", () => {
    const mapping = fc.record({
      at: fc.nat({ max: 2_000 }),
      count: fc.integer({ min: 1, max: 6 }),
      to: fc.nat({ max: 5_000 }),
      access: fc.constantFrom(1 as const, 2 as const, 3 as const),
    });
    fc.assert(
      fc.property(fc.array(mapping, { maxLength: 12 }), (mappings) => {
        const { tables, tree } = guest();
        const naive = new Map<number, string>();
        for (const { at, count, to, access } of mappings) {
          tables.map(at, count, to, access);
          for (let page = 0; page < count; page++) naive.set(at + page, `${to + page}/${access}`);
        }
        const found = leavesOf(tree()).flatMap(({ iovaPfn, pageCount, gpaPfn, access }) =>
          Array.from({ length: pageCount }, (_, page) => [iovaPfn + page, `${gpaPfn + page}/${access}`] as const),
        );
        expect(found).toEqual([...naive].toSorted(([a], [b]) => a - b));
      }),
      { numRuns: 60 },
    );
  });
});

describe("the map of pages", () => {
  it("gives a cell to each of a few pages, and sixteen to a superpage", () => {
    const cells = cellsOf(
      [
        { firstPfn: 0x10, pageCount: 3 },
        { firstPfn: 0x200, pageCount: 512 },
      ],
      96,
    );
    expect(cells.slice(0, 4)).toEqual([
      { firstPfn: 0x10, pageCount: 1, mappedPages: 1 },
      { firstPfn: 0x11, pageCount: 1, mappedPages: 1 },
      { firstPfn: 0x12, pageCount: 1, mappedPages: 1 },
      { firstPfn: 0x200, pageCount: 32, mappedPages: 32 },
    ]);
    expect(cells).toHaveLength(3 + 16);
    expect(cellsOf([], 96)).toEqual([]);
  });

  it("says how much of each cell a holder has", () => {
    const cells = cellsOf([{ firstPfn: 0, pageCount: 4 }], 2);
    expect(coverage(cells, [{ firstPfn: 1, pageCount: 3 }])).toEqual([0.5, 1]);
    expect(coverage(cells, [])).toEqual([0, 0]);
  });

  it("property: cells cover every mapped page, and a holder of all of them has all of each", () => {
    const span: fc.Arbitrary<Span> = fc.record({
      firstPfn: fc.nat({ max: 3_000 }),
      pageCount: fc.integer({ min: 1, max: 700 }),
    });
    fc.assert(
      fc.property(fc.array(span, { minLength: 1, maxLength: 20 }), fc.integer({ min: 1, max: 40 }), (spans, limit) => {
        const pages = new Set(
          spans.flatMap(({ firstPfn, pageCount }) => Array.from({ length: pageCount }, (_, i) => firstPfn + i)),
        );
        const cells = cellsOf(spans, limit);
        expect(cells.length).toBeLessThanOrEqual(limit);
        expect(cells.reduce((sum, { mappedPages }) => sum + mappedPages, 0)).toBe(pages.size);
        const each = [...pages].toSorted((a, b) => a - b).map((firstPfn) => ({ firstPfn, pageCount: 1 }));
        expect(coverage(cells, each).every((part) => part === 1)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });
});

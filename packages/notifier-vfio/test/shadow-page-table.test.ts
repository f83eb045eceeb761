import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Access } from "@iommu-kit/iommu-core";
import { shadowBlock, ShadowPageTable, type ShadowBlock } from "@iommu-kit/notifier-vfio";

/** A naive shadow: one map entry per frame, which also knows where its block began. */
class NaiveShadow {
  readonly frames = new Map<number, { gpaPfn: number; access: Access; blockFirstPfn: number }>();

  insert(iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean {
    for (let i = 0; i < pageCount; i++) if (this.frames.has(iovaPfn + i)) return false;
    for (let i = 0; i < pageCount; i++) {
      this.frames.set(iovaPfn + i, { gpaPfn: gpaPfn + i, access, blockFirstPfn: iovaPfn });
    }
    return true;
  }

  remove(firstPfn: number, pageCount: number): number {
    let removed = 0;
    for (let i = 0; i < pageCount; i++) if (this.frames.delete(firstPfn + i)) removed += 1;
    // What stays above a cut is a block of its own.
    const behind = this.frames.get(firstPfn + pageCount)?.blockFirstPfn;
    if (behind === undefined || behind >= firstPfn + pageCount) return removed;
    for (let pfn = firstPfn + pageCount; this.frames.get(pfn)?.blockFirstPfn === behind; pfn++) {
      const frame = this.frames.get(pfn);
      if (frame !== undefined) frame.blockFirstPfn = firstPfn + pageCount;
    }
    return removed;
  }

  blocks(): ShadowBlock[] {
    const blocks: ShadowBlock[] = [];
    let last = -1;
    for (const [pfn, frame] of [...this.frames].sort(([a], [b]) => a - b)) {
      const block = blocks.at(-1);
      if (block !== undefined && frame.blockFirstPfn === last) block.pageCount += 1;
      else blocks.push({ iovaPfn: pfn, pageCount: 1, gpaPfn: frame.gpaPfn, access: frame.access });
      last = frame.blockFirstPfn;
    }
    return blocks;
  }
}

const access = fc.constantFrom<Access>(Access.read, Access.write, Access.readWrite);
const anyFrame = fc.nat({ max: 160 });
const command = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("insert" as const),
      iovaPfn: anyFrame,
      pageCount: fc.integer({ min: 1, max: 6 }),
      gpaPfn: fc.nat({ max: 1000 }),
      access,
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("remove" as const),
      firstPfn: anyFrame,
      pageCount: fc.integer({ min: 1, max: 20 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("removeBlock" as const), iovaPfn: anyFrame }) },
);

describe("ShadowPageTable", () => {
  it("holds what a map of single frames holds, after any inserts and removals", () => {
    // Far from zero, and up to the last frame of the space, where 32-bit arithmetic would fail.
    const bases = fc.constantFrom(0, 2 ** 31 - 40, 2 ** 40 + 7, 2 ** 52 - 200);
    fc.assert(
      fc.property(bases, fc.array(command, { maxLength: 60 }), (base, commands) => {
        const table = new ShadowPageTable();
        const naive = new NaiveShadow();
        for (const c of commands) {
          if (c.kind === "insert") {
            const taken = table.insert(base + c.iovaPfn, c.pageCount, c.gpaPfn, c.access);
            expect(taken).toBe(naive.insert(base + c.iovaPfn, c.pageCount, c.gpaPfn, c.access));
          } else if (c.kind === "remove") {
            expect(table.remove(base + c.firstPfn, c.pageCount)).toBe(naive.remove(base + c.firstPfn, c.pageCount));
          } else {
            const block = naive.blocks().find((b) => b.iovaPfn === base + c.iovaPfn);
            expect(table.removeBlock(base + c.iovaPfn)).toBe(block !== undefined);
            if (block !== undefined) naive.remove(block.iovaPfn, block.pageCount);
          }
        }
        expectEqual(table, naive, base, 200);
      }),
      { numRuns: 300 },
    );
  });

  it("holds thousands of scattered blocks, inserted and removed in any order", () => {
    const firsts = Array.from({ length: 4000 }, (_, i) => i * 3);
    fc.assert(
      fc.property(
        fc.shuffledSubarray(firsts, { minLength: 1500, maxLength: 2500 }),
        fc.nat({ max: 6000 }),
        (order, cut) => {
          const table = new ShadowPageTable();
          const naive = new NaiveShadow();
          for (const pfn of order) {
            table.insert(pfn, 2, pfn + 7, Access.readWrite);
            naive.insert(pfn, 2, pfn + 7, Access.readWrite);
          }
          for (const pfn of order.slice(0, 1200)) {
            table.remove(pfn + 1, 2);
            naive.remove(pfn + 1, 2);
          }
          expect(table.remove(cut, 3000)).toBe(naive.remove(cut, 3000));
          expectEqual(table, naive, 0, 12_010, 7);
        },
      ),
      { numRuns: 8 },
    );
  });

  it("keeps neighbours apart as blocks and joins them as ranges where targets and rights go on", () => {
    const table = new ShadowPageTable();
    table.insert(10, 2, 100, Access.readWrite);
    table.insert(12, 2, 102, Access.readWrite);
    table.insert(14, 1, 104, Access.read);
    table.insert(15, 1, 200, Access.read);

    expect([...table.blocks()]).toHaveLength(4);
    expect([...table.ranges()]).toEqual([
      { iovaPfn: 10, pageCount: 4, gpaPfn: 100, access: Access.readWrite },
      { iovaPfn: 14, pageCount: 1, gpaPfn: 104, access: Access.read },
      { iovaPfn: 15, pageCount: 1, gpaPfn: 200, access: Access.read },
    ]);
  });

  it("leaves the answer object alone when nothing is mapped", () => {
    const out = { gpaPfn: 5, access: Access.read };

    expect(new ShadowPageTable().lookup(3, out)).toBe(false);

    expect(out).toEqual({ gpaPfn: 5, access: Access.read });
  });
});

function expectEqual(table: ShadowPageTable, naive: NaiveShadow, base: number, span: number, stride = 1): void {
  const blocks = naive.blocks();
  expect([...table.blocks()]).toEqual(blocks);
  expect(table.blockCount).toBe(blocks.length);
  expect(table.pageCount).toBe(naive.frames.size);
  const target = { gpaPfn: 0, access: Access.none as Access };
  const at = shadowBlock();
  const got: unknown[] = [];
  const wanted: unknown[] = [];
  for (let pfn = base; pfn < base + span; pfn += stride) {
    const frame = naive.frames.get(pfn);
    wanted.push([frame?.gpaPfn, frame?.access]);
    got.push(table.lookup(pfn, target) ? [target.gpaPfn, target.access] : [undefined, undefined]);
    wanted.push([
      blocks.findLast((b) => b.iovaPfn < pfn)?.iovaPfn,
      blocks.find((b) => b.iovaPfn + b.pageCount > pfn)?.iovaPfn,
    ]);
    got.push([table.blockBefore(pfn, at) ? at.iovaPfn : undefined, table.blockFrom(pfn, at) ? at.iovaPfn : undefined]);
  }
  expect(got).toEqual(wanted);
}

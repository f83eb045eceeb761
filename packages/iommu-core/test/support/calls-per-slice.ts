import { describe, expect, it } from "vitest";
import { type Access, type AddressSpace, BackendIommu, type Limits, sourceId } from "../../src/index.js";
import { FakeMemory, ManualScheduler, PageTables } from "../../src/testing/index.js";
import { CountedShadow, type CountedShadowOptions } from "./counted-shadow.js";
import { TableBackend, TableDomain } from "./table-backend.js";

const MIB2 = 512;
const GIB = 2 ** 18;
const FRAMES = GIB + 256 * MIB2;
const SLICE = 1000;
/**
 * A slice ends between two steps. The largest is a leaf table that cuts a block: 512 frames, each unmapped and mapped again, and what puts back the rest of
 * the block, up to 512 blocks of each size.
 */
const STEP = 4 * 512;
const DEVICE = sourceId(0, 1, 0);
const OTHER = sourceId(0, 2, 0);

/** Two sets of tables and a consumer; counts the calls of each turn. */
class Bench {
  readonly memory = new FakeMemory();
  readonly scheduler = new ManualScheduler();
  readonly tables = new PageTables(this.memory);
  readonly others = new PageTables(this.memory, { firstTablePfn: 0x8000 });
  readonly here = new TableDomain("here", this.tables);
  readonly there = new TableDomain("there", this.others);
  readonly backend = new TableBackend(this.here);
  readonly unit: BackendIommu;
  readonly shadow: CountedShadow;
  /** Calls in the longest turn. */
  most = 0;

  constructor(options: CountedShadowOptions, limits: Partial<Limits> = {}) {
    this.shadow = new CountedShadow(options, FRAMES);
    this.unit = new BackendIommu({
      backend: this.backend,
      memory: this.memory,
      scheduler: this.scheduler,
      limits: { mappingsPerSlice: SLICE, ...limits },
    });
  }

  get space(): AddressSpace {
    return this.unit.addressSpace(DEVICE);
  }

  /** Does something in one access of the guest, and then what follows from it. */
  async act(what: () => unknown): Promise<void> {
    this.unit.enter();
    what();
    this.#count();
    do {
      this.scheduler.turn();
      this.#count();
      for (let microtask = 0; microtask < 10; microtask++) await Promise.resolve();
    } while (this.scheduler.deferredCount > 0);
  }

  async attach(): Promise<void> {
    await this.act(() => this.space.attach(this.shadow));
  }

  async flush(): Promise<void> {
    await this.act(() => this.backend.invalidate({ firstPfn: 0, pageCount: 2 ** 36 }));
  }

  /** Another device keeps the view of the other tables alive. */
  keepOthers(): void {
    void this.backend.assign(OTHER, this.there);
    this.unit.addressSpace(OTHER).attach(new CountedShadow({ granularity: "page" }, FRAMES));
  }

  async move(domain: TableDomain): Promise<void> {
    await this.act(() => this.backend.assign(DEVICE, domain));
  }

  /** The consumer holds so many pages, those that the tables say, and no turn was longer than a slice. */
  check(pageCount: number, domain: TableDomain = this.here): void {
    const expected = pageCount === 0 ? new Float64Array(FRAMES) : truth(domain);
    expect(this.shadow.breaches).toEqual([]);
    expect(countHeld(expected)).toBe(pageCount);
    expect(Buffer.compare(Buffer.from(this.shadow.pages.buffer), Buffer.from(expected.buffer))).toBe(0);
    expect(this.most).toBeLessThanOrEqual(SLICE + STEP);
  }

  #count(): void {
    this.most = Math.max(this.most, this.shadow.takeCalls());
  }
}

function countHeld(pages: Float64Array): number {
  let held = 0;
  for (const target of pages) if (target !== 0) held += 1;
  return held;
}

function truth(domain: TableDomain): Float64Array {
  const pages = new Float64Array(FRAMES);
  const run = (iovaPfn: number, pageCount: number, gpaPfn: number, access: Access): boolean => {
    for (let i = 0; i < pageCount; i++) pages[iovaPfn + i] = (gpaPfn + i) * 4 + access;
    return true;
  };
  domain.scan(
    { firstPfn: 0, pageCount: FRAMES },
    {
      reach: () => true,
      run,
      table: (iovaPfn, { words, firstWord }) => {
        for (let i = 0; i < 512; i++) {
          const low = words[firstWord + i * 2] ?? 0;
          const high = words[firstWord + i * 2 + 1] ?? 0;
          if ((low & 3) !== 0) run(iovaPfn + i, 1, (high & 0xfffff) * 2 ** 20 + (low >>> 12), (low & 3) as Access);
        }
        return true;
      },
    },
  );
  return pages;
}

/** What a guest does to superpages, and what a host does to consumers. */
const PATHS: Readonly<Record<string, (bench: Bench) => Promise<void>>> = {
  "is attached under superpages, which go": async (bench) => {
    bench.tables.map(0, GIB, 0x100000, 3, GIB);
    bench.tables.map(GIB, 64 * MIB2, 0x200000, 3, MIB2);
    await bench.attach();
    bench.check(GIB + 64 * MIB2);
    bench.tables.unmap(0, FRAMES);
    await bench.flush();
    bench.check(0);
  },
  "sees a superpage appear, go elsewhere, and get other rights": async (bench) => {
    await bench.attach();
    bench.tables.map(0, GIB, 0x100000, 3, GIB);
    await bench.flush();
    bench.check(GIB);
    bench.tables.map(0, GIB, 0x200000, 3, GIB);
    await bench.flush();
    bench.check(GIB);
    bench.tables.map(0, GIB, 0x200000, 1, GIB);
    await bench.flush();
    bench.check(GIB);
  },
  "sees superpages of one size turn into those of another": async (bench) => {
    bench.tables.map(0, GIB, 0x100000, 3, GIB);
    await bench.attach();
    bench.tables.map(0, GIB, 0x200000, 3, MIB2);
    await bench.flush();
    bench.check(GIB);
    bench.tables.map(0, GIB, 0x300000, 3, GIB);
    await bench.flush();
    bench.check(GIB);
  },
  "sees a page cut out of each of many superpages": async (bench) => {
    bench.tables.map(0, GIB, 0x100000, 3, GIB);
    bench.tables.map(GIB, 64 * MIB2, 0x200000, 3, MIB2);
    await bench.attach();
    for (let at = 0; at < GIB + 64 * MIB2; at += 2 * MIB2) bench.tables.unmap(at + 77, 1);
    await bench.flush();
    bench.check(GIB + 64 * MIB2 - 256 - 32);
  },
  "holds pages that become superpages, which then change and go": async (bench) => {
    bench.tables.map(0, GIB, 0x100000);
    await bench.attach();
    bench.tables.map(0, GIB, 0x100000, 3, MIB2);
    await bench.flush();
    bench.tables.map(0, GIB, 0x100000, 3, GIB);
    await bench.flush();
    bench.tables.map(0, GIB, 0x200000, 3, GIB);
    await bench.flush();
    bench.check(GIB);
    bench.tables.unmap(0, GIB);
    await bench.flush();
    bench.check(0);
  },
  "moves from pages to the same superpage, which goes elsewhere and then away": async (bench) => {
    bench.others.map(0, GIB, 0x100000, 3, GIB);
    bench.keepOthers();
    bench.tables.map(0, GIB, 0x100000);
    await bench.attach();
    await bench.move(bench.there);
    bench.check(GIB, bench.there);
    bench.others.map(0, GIB, 0x200000, 3, GIB);
    await bench.flush();
    bench.check(GIB, bench.there);
    await bench.move(bench.here);
    bench.others.map(0, GIB, 0x100000, 3, GIB);
    await bench.flush();
    await bench.move(bench.there);
    bench.others.unmap(0, GIB);
    await bench.flush();
    bench.check(0);
  },
  "moves from a superpage to the same pages, one of which goes": async (bench) => {
    bench.others.map(0, GIB, 0x100000);
    bench.keepOthers();
    bench.tables.map(0, GIB, 0x100000, 3, GIB);
    await bench.attach();
    await bench.move(bench.there);
    bench.others.unmap(GIB / 2 + 77, 1);
    await bench.flush();
    bench.check(GIB - 1, bench.there);
  },
  "moves from pages to another superpage and back": async (bench) => {
    bench.others.map(0, GIB, 0x200000, 3, GIB);
    bench.keepOthers();
    bench.tables.map(0, GIB, 0x100000);
    await bench.attach();
    await bench.move(bench.there);
    bench.check(GIB, bench.there);
    await bench.move(bench.here);
    bench.check(GIB);
  },
  "is detached from a superpage that it holds in pages": async (bench) => {
    bench.others.map(0, GIB, 0x100000, 3, GIB);
    bench.keepOthers();
    bench.tables.map(0, GIB, 0x100000);
    await bench.attach();
    await bench.move(bench.there);
    await bench.act(() => bench.space.attachments[0]?.detach());
    bench.check(0);
  },
};

/** The tests for these consumers: how many calls there are in a turn. */
export function describeCalls(consumers: readonly CountedShadowOptions[]): void {
  describe.each(consumers)(
    "a consumer of $granularity granularity, blocks of $largestBlock, replace $replace",
    (options) => {
      it.each(Object.keys(PATHS))("%s: no turn has more calls than a slice", async (name) => {
        const bench = new Bench(options);
        await PATHS[name]?.(bench);
        expect(bench.most).toBeGreaterThan(0);
      });

      it("whose view meets its budget lets go of superpages in slices", async () => {
        const bench = new Bench(options, { mappingsPerView: 20_000 });
        bench.others.map(0, GIB, 0x100000, 3, GIB);
        bench.others.map(GIB, 8 * MIB2, 0x200000);
        bench.keepOthers();
        bench.tables.map(0, 30 * MIB2, 0x100000);
        bench.tables.map(30 * MIB2, GIB - 30 * MIB2, 0x100000 + 30 * MIB2, 3, MIB2);
        await bench.attach();
        await bench.move(bench.there);
        const held = Math.min(GIB + 8 * MIB2, 20_000 * (options.largestBlock ?? Infinity));
        if (held === GIB + 8 * MIB2) bench.check(held, bench.there);
        bench.others.map(GIB + 100 * MIB2, 40 * MIB2, 0x300000);
        await bench.flush();
        bench.check(0);
        bench.others.unmap(GIB + 100 * MIB2, 40 * MIB2);
        await bench.flush();
        expect(bench.space.attachments[0]?.heldPages).toBe(held);
        if (held === GIB + 8 * MIB2) bench.check(held, bench.there);
      });

      it("that was full is offered what it refused in slices, in blocks as large as at first", async () => {
        const benches = [new Bench({ ...options, capacity: 100 }), new Bench(options)] as const;
        for (const bench of benches) {
          bench.tables.map(0, GIB, 0x100000, 3, GIB);
          bench.tables.map(GIB, 64 * MIB2, 0x200000, 3, MIB2);
          await bench.attach();
        }
        const [full, roomy] = benches;
        full.shadow.capacity = Infinity;
        await full.act(() => full.space.attachments[0]?.retry());
        full.check(GIB + 64 * MIB2);
        expect(full.shadow.blockCount).toBe(roomy.shadow.blockCount);
      });

      it("hears in slices of the room that an unmap makes, before the invalidation is done", async () => {
        const bench = new Bench({ ...options, capacity: 6000 });
        bench.tables.map(0, GIB, 0x100000, 3, GIB);
        for (let i = 0; i < 3; i++) bench.tables.map(GIB + i * 2 * MIB2, 1000, 0x200000 + i * 5000);
        await bench.attach();
        bench.tables.unmap(0, GIB);
        let held = 0;
        await bench.act(
          () =>
            void Promise.resolve(bench.backend.invalidate({ firstPfn: 0, pageCount: 2 ** 36 })).then(() => {
              held = countHeld(bench.shadow.pages);
            }),
        );
        expect(held).toBe(3000);
        bench.check(3000);
      });
    },
  );
}

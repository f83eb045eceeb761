/** What one pass over a range reads, tells and leaves alone, whatever the backend hands over. */
import { describe, expect, it } from "vitest";
import { type Domain, type FrameRange, LeafTable, type MappingSink } from "../src/index.js";
import { RecordingNotifier } from "../src/testing/index.js";
import { Machine, range, run } from "./support/machine.js";

const GIB = 2 ** 18;

/** Pages that are told in each turn of the host's event loop, from what the guest does on. */
async function pagesByTurn(machine: Machine, notifier: RecordingNotifier, act: () => unknown): Promise<number[]> {
  const pages = (): number =>
    notifier.calls.splice(0).reduce((sum, { type, pageCount }) => sum + (type === "revoke" ? 0 : pageCount), 0);
  machine.unit.hub.queue.beginSlice();
  pages();
  const done = act();
  const turns = [pages()];
  while (machine.scheduler.turn() > 0) turns.push(pages());
  await Promise.all([done, machine.scheduler.idle()]);
  notifier.check();
  return turns.filter((count) => count > 0);
}

/** A leaf table that maps each of its frames `by` frames further on. */
function tableBy(firstPfn: number, by: number, pages = 512): LeafTable {
  const table = new LeafTable();
  table.words = new Int32Array(1024);
  for (let i = 0; i < pages; i++) table.words[i * 2] = ((firstPfn + i + by) << 12) | 3;
  return table;
}

describe("the mappings of a slice", () => {
  it("are counted by frames, also where many of them are one call: those that come, change and go", async () => {
    for (const scattered of [false, true]) {
      const machine = new Machine({ limits: { mappingsPerSlice: 1000 } });
      const notifier = new RecordingNotifier({ replace: true });
      const map = (target: number): void => {
        for (let table = 0; table < 12; table++) {
          if (!scattered) machine.tables.map(table * 512, 400, target + table * 1024);
          else for (let i = 0; i < 400; i++) machine.tables.map(table * 512 + i, 1, target + table * 1024 + i * 2);
        }
      };
      map(1000);
      const come = await pagesByTurn(machine, notifier, () => machine.nicSpace.attach(notifier));
      map(50_000);
      const change = await pagesByTurn(machine, notifier, () => machine.invalidate());
      machine.tables.unmap(0, 12 * 512);
      const go = await pagesByTurn(machine, notifier, () => machine.invalidate());
      // A slice ends after the table in which it is spent.
      for (const turns of [come, change, go]) expect(turns).toEqual([1200, 1200, 1200, 1200]);
    }
  });

  it("of superpages are counted by the blocks of the consumer that takes the smallest", async () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 100 } });
    machine.tables.map(0, GIB, 0);
    const large = new RecordingNotifier({ granularity: "block" });
    const small = new RecordingNotifier({ granularity: "block", largestBlock: 128 });
    for (const order of [
      [large, small],
      [small, large],
    ]) {
      const attachments = order.map((notifier) => machine.nicSpace.attach(notifier));
      await machine.scheduler.idle();
      expect(small.entries).toHaveLength(2048);
      const callsByTurn = async (act: () => unknown): Promise<number[]> =>
        (await pagesByTurn(machine, small, act)).map((pages) => pages / 128);
      machine.tables.unmap(0, GIB);
      const gone = await callsByTurn(() => machine.invalidate());
      expect(Math.max(...gone)).toBeLessThanOrEqual(512);
      expect(gone.length).toBeGreaterThanOrEqual(4);
      machine.tables.map(0, GIB, 0);
      const come = await callsByTurn(() => machine.invalidate());
      expect(Math.max(...come)).toBeLessThanOrEqual(104);
      expect(small.pageCount).toBe(GIB);
      for (const attachment of attachments) void attachment.detach();
      await machine.scheduler.idle();
    }
  });
});

it("a superpage of 512 GiB begins to go with as many pages as are 512 blocks of whoever takes the smallest", async () => {
  const machine = new Machine();
  const pages = 2 ** 27;
  machine.tables.map(0, pages, 0);
  const [large, small] = [new RecordingNotifier(), new RecordingNotifier({ largestBlock: 2 ** 17 })];
  for (const notifier of [large, small]) machine.nicSpace.attach(notifier);
  for (const notifier of [large, small]) notifier.take();
  machine.tables.unmap(0, pages);
  await Promise.all([machine.invalidate(), machine.scheduler.idle()]);
  for (const notifier of [large, small]) {
    expect(notifier.take()[0]).toBe("unmap 0x0+67108864");
    expect(notifier.held()).toEqual([]);
    notifier.check();
  }
});

describe("the table entries of a slice", () => {
  it("are as many as it may read, and no table more", async () => {
    const machine = new Machine({ limits: { entriesPerSlice: 1024 } });
    machine.nicSpace.attach(new RecordingNotifier());
    let read = 0;
    machine.tables.scan = (part, sink) => {
      for (let first = Math.max(0, part.firstPfn); first < 7 * 512; first += 512) {
        if (!sink.reach(first, 512)) return;
        read += 512;
        if (!sink.table(first, tableBy(first, 1000))) return;
      }
    };
    machine.unit.hub.queue.beginSlice();
    const done = machine.invalidate();
    const turns = [read];
    while (machine.scheduler.turn() > 0) turns.push(read);
    await Promise.all([done, machine.scheduler.idle()]);
    expect(turns).toEqual([1024, 2048, 3072, 3584]);
  });

  it("are one for each table that the host vouches for", async () => {
    const machine = new Machine({ limits: { entriesPerSlice: 2 } });
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    let told = 0;
    machine.tables.scan = (part, sink) => {
      for (let first = Math.max(0, part.firstPfn); first < 6 * 512; first += 512) {
        if (!sink.reach(first, 512)) return;
        told += 1;
        if (!sink.table(first, Object.assign(tableBy(first, 1000), { pfn: 1 + first / 512, generation: 7 }))) return;
      }
    };
    const toldInTurns = async (): Promise<number[]> => {
      machine.unit.hub.queue.beginSlice();
      const done = machine.invalidate();
      const turns = [told];
      for (told = 0; machine.scheduler.turn() > 0; told = 0) turns.push(told);
      await Promise.all([done, machine.scheduler.idle()]);
      return turns.filter((tables) => tables > 0);
    };
    expect(await toldInTurns()).toEqual([1, 1, 1, 1, 1, 1]);
    notifier.take();
    expect(await toldInTurns()).toEqual([2, 2, 2]);
    expect(notifier.take()).toEqual([]);
  });
});

describe("the tables of a view", () => {
  /** Frames that one table of each level is for, the largest first, and where there are such tables. */
  const LEVELS = [
    [2 ** 36, [0]],
    [2 ** 27, [0, 2 ** 27]],
    [2 ** 18, [0, 2 ** 18, 2 ** 27]],
    [512, [0, 512, 5 * 512, 2 ** 18, 2 ** 18 + 512, 2 ** 27]],
  ] as const;
  const TABLES = LEVELS.reduce((sum, [, firsts]) => sum + firsts.length, 0);

  /** Enters the tables of a level below one of the level above; those that begin before the range have been entered before. */
  function walk(level: number, above: FrameRange, part: FrameRange, sink: MappingSink): boolean {
    const [span, firsts] = LEVELS[level]!;
    for (const first of firsts) {
      const end = first + span;
      if (first < above.firstPfn || first >= above.firstPfn + above.pageCount || end <= part.firstPfn) continue;
      if (!sink.reach(Math.max(first, part.firstPfn), 512, first < part.firstPfn)) return false;
      const going =
        span === 512 ? sink.table(first, tableBy(first, 1000, 1)) : walk(level + 1, range(first, span), part, sink);
      if (!going) return false;
    }
    return true;
  }

  it("are counted once in a pass, however many slices it takes", async () => {
    for (let entriesPerSlice = 512; entriesPerSlice <= (TABLES + 1) * 512; entriesPerSlice += 512) {
      for (const tablesPerView of [TABLES, TABLES - 1]) {
        const machine = new Machine({ limits: { entriesPerSlice, tablesPerView } });
        machine.tables.scan = (part, sink) => void walk(0, range(0, 2 ** 36), part, sink);
        const budget = machine.watch("budget");
        const notifier = new RecordingNotifier();
        machine.nicSpace.attach(notifier);
        await machine.scheduler.idle();
        for (const _again of [1, 2]) await Promise.all([machine.invalidate(), machine.scheduler.idle()]);
        const isMet = tablesPerView < TABLES;
        expect([entriesPerSlice, budget.length, notifier.pageCount]).toEqual(
          isMet ? [entriesPerSlice, 3, 0] : [entriesPerSlice, 0, 6],
        );
      }
    }
  });
});

describe("a scan", () => {
  it("is asked for the range that is invalidated, and after each slice for what is left of it", async () => {
    const machine = new Machine({ limits: { entriesPerSlice: 2 } });
    const first = 2 ** 30;
    for (let i = 0; i < 6; i++) machine.tables.map(first + i * 512, 1, i);
    machine.nicSpace.attach(new RecordingNotifier());
    await machine.scheduler.idle();
    const asked: FrameRange[] = [];
    const scan = machine.tables.scan.bind(machine.tables);
    machine.tables.scan = (part, sink) => {
      asked.push(part);
      scan(part, sink);
    };
    void machine.invalidate(first + 5, 1);
    expect(asked.splice(0)).toEqual([range(first + 5, 1)]);
    const done = machine.invalidate(first, 4 * 512);
    await Promise.all([done, machine.scheduler.idle()]);
    expect(asked.length).toBeGreaterThan(1);
    for (const { firstPfn, pageCount } of asked) expect(firstPfn + pageCount).toBe(first + 4 * 512);
    const starts = asked.map(({ firstPfn }) => firstPfn);
    expect(starts).toEqual([...new Set(starts)].toSorted((a, b) => a - b));
  });
});

describe("tables that a backend hands over without a word before", () => {
  /** Tables by their first frame; `beyond` hands over all of them whatever the range. */
  class Tables implements Domain {
    readonly kind = "table";
    readonly label = "tables";
    readonly holes: readonly FrameRange[] = [];
    readonly tables = new Map<number, LeafTable>();
    beyond = false;
    told = 0;

    scan(part: FrameRange, sink: MappingSink): void {
      for (const [first, table] of this.tables) {
        const inRange = first + 512 > part.firstPfn && first < part.firstPfn + part.pageCount;
        if (!inRange && !this.beyond) continue;
        this.told += 1;
        if (!sink.table(first, table)) return;
      }
    }
  }

  function world(mappingsPerSlice = 65_536) {
    const machine = new Machine({ limits: { mappingsPerSlice } });
    const domain = new Tables();
    machine.backend.domainOf = () => domain as never;
    const notifier = new RecordingNotifier({ replace: true });
    const invalidate = async (part = range(0, 2 ** 52)): Promise<void> => {
      const done = machine.backend.invalidate(domain as never, part);
      await Promise.all([done, machine.scheduler.idle()]);
    };
    return { machine, domain, notifier, invalidate };
  }

  it("are a slice each where a slice is no more, and what lies between them goes", async () => {
    const { machine, domain, notifier, invalidate } = world(1);
    for (let i = 0; i < 6; i++) domain.tables.set(i * 512, tableBy(i * 512, 1000, 300));
    const come = await pagesByTurn(machine, notifier, () => machine.nicSpace.attach(notifier));
    expect(come).toEqual([300, 300, 300, 300, 300, 300]);
    for (let i = 0; i < 5; i++) domain.tables.delete(i * 512);
    const go = await pagesByTurn(machine, notifier, () => invalidate());
    expect(notifier.held()).toEqual([run(5 * 512, 300, 5 * 512 + 1000)]);
    expect(Math.max(...go)).toBeLessThanOrEqual(300);
    expect(domain.told).toBeGreaterThanOrEqual(7);
  });

  it("are looked at in the range only: those before it and behind it are nothing to it, nor are their other entries", async () => {
    const { machine, domain, notifier, invalidate } = world();
    for (const first of [0, 512, 1024]) domain.tables.set(first, tableBy(first, 1000));
    machine.nicSpace.attach(notifier);
    await machine.scheduler.idle();
    domain.beyond = true;
    for (const first of [0, 512, 1024]) domain.tables.set(first, tableBy(first, 5000));
    notifier.take();
    await invalidate(range(600, 10));
    expect(notifier.take()).toEqual(["replace 0x258+10 -> 0x15e0 rw"]);
    await invalidate(range(512, 512));
    expect(notifier.held()).toEqual([run(0, 512, 1000), run(512, 512, 5512), run(1024, 512, 2024)]);
    await invalidate(range(0, 5));
    expect(notifier.held(range(0, 512))).toEqual([run(0, 5, 5000), run(5, 507, 1005)]);
    notifier.check();
  });
});

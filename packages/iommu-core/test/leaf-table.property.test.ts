import { deepEqual } from "node:assert/strict";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Access,
  BackendIommu,
  type EntryFormat,
  type FrameRange,
  LeafTable,
  type MappingSink,
} from "../src/index.js";
import { FakeMemory, ManualScheduler, RecordingNotifier } from "../src/testing/index.js";
import { range } from "./support/machine.js";
import { OneDomain } from "./support/one-domain.js";

const WHOLE = range(0, 2 ** 52);
const SLOTS = 3;
const TABLES = 5;
const FIRST_TABLE = 16;
/** The frame of what points to the tables: it covers 2^18 frames. */
const DIRECTORY = 40;

/** What stands at one of the places for 512 frames. */
type Place = { readonly table: number } | { readonly superpage: number; readonly access: Access } | undefined;

/** The rules by which entries are read: rights left by the tables above, and targets that nobody may reach. */
interface Rules {
  readonly rights: number;
  readonly blockedFrom: number;
}

/** Three times 512 frames; leaf tables lie in memory, and may be shared, swapped and edited. `plain` tells every entry alone and remembers nothing. */
class Guest extends OneDomain {
  override holes: readonly FrameRange[] = [range(600, 5)];
  /** Directories that needed no look, and tables that were told. */
  proved = 0;
  tables = 0;
  readonly memory: FakeMemory;
  readonly places: Place[] = [{ table: 0 }, undefined, undefined];
  readonly #plain: boolean;
  readonly #table = new LeafTable();
  /** Copies of tables lie this far into their array. */
  readonly #offset: number;
  readonly #words: Int32Array;
  /** One for each set of rules, so that going back to old rules goes back to their format. */
  readonly #formats = new Map<string, EntryFormat>();
  #rules: Rules = { rights: 3, blockedFrom: 2 ** 40 };

  constructor(memory: FakeMemory, plain: boolean, offset = 0) {
    super();
    this.memory = memory;
    this.#offset = offset;
    this.#words = new Int32Array(offset + 1024);
    this.#plain = plain;
    // Written alike, so that the host counts as many changes for each of them.
    for (let table = 0; table < TABLES; table++) {
      for (let i = 0; i < 512; i++)
        memory.pokeEntry(
          (FIRST_TABLE + table) * 4096 + i * 8,
          i % 3 === table % 3 ? 0 : ((table * 1000 + i) << 12) | 3,
          0,
        );
    }
  }

  setRules(rules: Rules): void {
    this.#rules = rules;
  }

  /** Writes an entry of the directory. */
  place(at: number, place: Place): void {
    this.places[at] = place;
    this.memory.pokeEntry(DIRECTORY * 4096 + at * 8, place === undefined ? 0 : 1, 0);
  }

  scan(part: FrameRange, sink: MappingSink): void {
    if (!this.#plain && part.firstPfn === 0 && part.pageCount >= 2 ** 18) {
      if (!sink.reach(0, 512)) return;
      const table = this.#table;
      table.pfn = DIRECTORY;
      table.generation = this.memory.generation?.(DIRECTORY) ?? -1;
      table.format = this.#formatOf(this.#rules);
      if (sink.isProved?.(0, table, (pfn) => this.memory.generation?.(pfn) ?? -1) === true) {
        this.proved += 1;
        return;
      }
    }
    for (const [index, place] of this.places.entries()) {
      const first = index * 512;
      if (place === undefined || first + 512 <= part.firstPfn || first >= part.firstPfn + part.pageCount) continue;
      if ("superpage" in place) {
        if (!sink.run(first, 512, place.superpage, place.access)) return;
      } else if (!this.#scanTable(FIRST_TABLE + place.table, first, sink)) return;
    }
  }

  #scanTable(pfn: number, first: number, sink: MappingSink): boolean {
    if (!sink.reach(first, 512)) return false;
    const table = this.#table;
    table.generation = this.memory.generation?.(pfn) ?? -1;
    table.pfn = pfn;
    const window = this.memory.window?.(pfn);
    if (window === undefined && !this.memory.fetch(pfn * 4096, this.#words.subarray(this.#offset))) return true;
    table.words = window?.words ?? this.#words;
    table.firstWord = window === undefined ? this.#offset : (pfn - window.firstPfn) * 1024;
    table.format = this.#formatOf(this.#rules);
    this.tables += 1;
    if (!this.#plain) return sink.table(first, table);
    return table.visit(first, WHOLE, (iova, count, gpa, access) => sink.run(iova, count, gpa, access));
  }

  /** As formats of real tables do: absent entries keep any bits, bit 11 is reserved. */
  #formatOf({ rights, blockedFrom }: Rules): EntryFormat {
    const key = `${rights} ${blockedFrom}`;
    const known = this.#formats.get(key);
    if (known !== undefined) return known;
    const format: EntryFormat = {
      decode(words, count) {
        for (let i = 0; i < count * 2; i += 2) {
          const low = words[i]!;
          const frame = (words[i + 1]! & 0xfffff) * 2 ** 20 + (low >>> 12);
          if ((low & rights) === 0 || (low & 0x800) !== 0 || frame >= blockedFrom) words.fill(0, i, i + 2);
          else words[i] = (low & ~3) | (low & rights);
        }
      },
    };
    this.#formats.set(key, format);
    return format;
  }
}

const entries = fc.record({
  op: fc.constant("entries" as const),
  table: fc.nat(TABLES - 1),
  first: fc.nat(511),
  count: fc.oneof(fc.integer({ min: 1, max: 4 }), fc.constantFrom(100, 512)),
  frame: fc.constantFrom(0, 7, 1000, 2 ** 21),
  step: fc.constantFrom(0, 1, 3),
  // R, W, the reserved bit, and ignored ones.
  bits: fc.constantFrom(0, 1, 2, 3, 3, 3, 3 | 0x40, 3 | 0x800, 0x40),
  high: fc.constantFrom(0, 0, 1 << 30),
});
const action = fc.oneof(
  { weight: 8, arbitrary: entries },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant("place" as const),
      at: fc.nat(SLOTS - 1),
      table: fc.option(fc.nat(TABLES - 1), { nil: undefined }),
      superpage: fc.boolean(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      op: fc.constant("rules" as const),
      rights: fc.constantFrom(1, 2, 3, 3),
      blockedFrom: fc.constantFrom(9, 2 ** 20, 2 ** 40),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant("invalidate" as const),
      first: fc.nat(1600),
      count: fc.constantFrom(1, 3, 512, 1024),
    }),
  },
  {
    weight: 12,
    arbitrary: fc.record({
      op: fc.constant("invalidate" as const),
      first: fc.constant(0),
      count: fc.constant(2 ** 40),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ op: fc.constant("holes" as const), first: fc.constantFrom(600, 1030, 2 ** 20, 2 ** 20) }),
  },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("newcomer" as const) }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant("blocked" as const), blocked: fc.boolean() }) },
);

function apply(
  guest: Guest,
  step: Exclude<typeof action extends fc.Arbitrary<infer T> ? T : never, { op: "newcomer" }>,
): void {
  if (step.op === "invalidate") guest.invalidate(range(step.first, step.count));
  else if (step.op === "blocked") {
    guest.blocked = step.blocked;
    guest.invalidate(WHOLE);
  } else if (step.op === "rules") guest.setRules(step);
  else if (step.op === "holes") guest.holes = [range(step.first, 5)];
  else if (step.op === "place") {
    const { at, table, superpage } = step;
    guest.place(at, superpage ? { superpage: at * 1024, access: 3 } : table === undefined ? undefined : { table });
  } else {
    for (let i = 0; i < step.count && step.first + i < 512; i++) {
      const frame = step.frame + i * step.step;
      const gpa = (FIRST_TABLE + step.table) * 4096 + (step.first + i) * 8;
      guest.memory.pokeEntry(gpa, (frame << 12) | step.bits, step.high | Math.floor(frame / 2 ** 20));
    }
  }
}

/** Every page that was told, in order, without how calls were joined. */
function told(notifier: RecordingNotifier): string[] {
  const pages: string[] = [];
  for (const { type, iovaPfn, pageCount, gpaPfn, access } of notifier.calls.splice(0)) {
    for (let i = 0; i < pageCount; i++)
      pages.push(`${type} ${iovaPfn + i} ${type === "unmap" ? "" : gpaPfn + i} ${access}`);
  }
  return pages.toSorted();
}

describe("a leaf table handed over as it lies in memory", () => {
  it("makes the same announcements as its entries told one by one, whatever changes: entries, tables, rules, and what the host knows", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(action, { minLength: 1, maxLength: 60 }),
        fc.record({ windows: fc.boolean(), generations: fc.boolean() }),
        fc.constantFrom(0, 1024, 6),
        fc.constantFrom(1, 600, 65_536, 65_536),
        fc.record({ replace: fc.boolean(), firstHole: fc.constantFrom(600, 2 ** 20) }),
        async (steps, host, offset, entriesPerSlice, { replace, firstHole }) => {
          const worlds = [true, false].map((plain) => {
            const memory = new FakeMemory(plain ? {} : host);
            const guest = new Guest(memory, plain, offset);
            guest.holes = [range(firstHole, 5)];
            const scheduler = new ManualScheduler();
            const unit = new BackendIommu({ backend: guest, memory, scheduler, limits: { entriesPerSlice } });
            const notifier = new RecordingNotifier({ replace });
            unit.addressSpace(0).attach(notifier);
            return { guest, scheduler, unit, notifier, all: [notifier] };
          });
          for (const { scheduler } of worlds) await scheduler.idle();
          for (const [at, step] of steps.entries()) {
            for (const { guest, scheduler, unit, all } of worlds) {
              if (step.op === "newcomer") {
                const late = new RecordingNotifier({ replace });
                all.push(late);
                unit.addressSpace(0x100 + at).attach(late);
              } else apply(guest, step);
              await scheduler.idle();
            }
            const [plain, fast] = worlds;
            for (const [index, notifier] of plain!.all.entries()) {
              deepEqual(fast!.all[index]!.held(), notifier.held());
              deepEqual(told(fast!.all[index]!), told(notifier));
            }
          }
          for (const { all } of worlds) for (const notifier of all) notifier.check();
        },
      ),
      { numRuns: 60 },
    );
  });

  it("needs no look with all its neighbours while the host vouches for them and for what points to them, and is read again once any of that, the rules or the holes are others", () => {
    const memory = new FakeMemory({ generations: true });
    const guest = new Guest(memory, false);
    guest.holes = [];
    guest.places[1] = { table: 1 };
    const unit = new BackendIommu({ backend: guest, memory, scheduler: new ManualScheduler() });
    const notifier = new RecordingNotifier({ replace: true });
    unit.addressSpace(0).attach(notifier);
    const flush = (): number[] => {
      guest.proved = 0;
      guest.tables = 0;
      notifier.calls.splice(0);
      guest.invalidate(WHOLE);
      return [guest.proved, guest.tables, told(notifier).length];
    };
    expect(flush()).toEqual([1, 0, 0]);
    const entry = (table: number, index: number): number => (FIRST_TABLE + table) * 4096 + index * 8;
    // A leaf entry; one that a page-selective invalidation has brought in already; one below an empty table.
    memory.pokeEntry(entry(1, 4), (7 << 12) | 3, 0);
    expect(flush()).toEqual([0, 2, 1]);
    expect(flush()).toEqual([1, 0, 0]);
    memory.pokeEntry(entry(0, 5), 0, 0);
    guest.invalidate(range(5, 1));
    expect(flush()).toEqual([0, 2, 0]);
    expect(flush()).toEqual([1, 0, 0]);
    for (let i = 0; i < 512; i++) memory.pokeEntry(entry(4, i), 0, 0);
    guest.place(2, { table: 4 });
    expect(flush()).toEqual([0, 3, 0]);
    // What maps nothing is not remembered, so it cannot be vouched for.
    expect(flush()).toEqual([0, 3, 0]);
    memory.pokeEntry(entry(4, 9), (9 << 12) | 3, 0);
    expect(flush()).toEqual([0, 3, 1]);
    expect(flush()).toEqual([1, 0, 0]);
    guest.place(2, { superpage: 4096, access: 3 });
    expect(flush()).toEqual([0, 2, 512]);
    expect(flush()).toEqual([1, 0, 0]);
    // What was taken back meanwhile has to be told again, tables or superpages.
    const whole = notifier.held();
    guest.blocked = true;
    expect(flush().slice(0, 2)).toEqual([0, 0]);
    guest.blocked = false;
    expect(flush().slice(0, 2)).toEqual([0, 2]);
    expect(notifier.held()).toEqual(whole);
    expect(flush()).toEqual([1, 0, 0]);
    for (const at of [0, 1]) guest.place(at, undefined);
    flush();
    expect(flush()).toEqual([1, 0, 0]);
    guest.blocked = true;
    expect(flush()).toEqual([0, 0, 512]);
    guest.blocked = false;
    expect(flush()).toEqual([0, 0, 512]);
    for (const at of [0, 1]) guest.place(at, { table: at });
    flush();
    guest.setRules({ rights: 1, blockedFrom: 2 ** 40 });
    expect(flush().slice(0, 2)).toEqual([0, 2]);
    expect(flush()).toEqual([1, 0, 0]);
    guest.holes = [range(1, 1)];
    expect(flush()).toEqual([0, 2, 1]);
    guest.holes = [];
    expect(flush()).toEqual([0, 2, 1]);
    expect(flush()).toEqual([1, 0, 0]);
  });

  it("is not taken for what was announced after a page of another table was: not by its generation, its format or the holes of then", () => {
    const memory = new FakeMemory({ generations: true });
    const guest = new Guest(memory, false);
    const unit = new BackendIommu({ backend: guest, memory, scheduler: new ManualScheduler() });
    const notifier = new RecordingNotifier({ replace: true });
    unit.addressSpace(0).attach(notifier);
    const before = notifier.held();
    guest.places[0] = { table: 3 };
    guest.invalidate(range(7, 1));
    expect(notifier.held(range(7, 1))).toEqual([{ iovaPfn: 7, pageCount: 1, gpaPfn: 3007, access: 3 }]);
    guest.places[0] = { table: 0 };
    guest.invalidate(WHOLE);
    expect(notifier.held()).toEqual(before);
    guest.setRules({ rights: 1, blockedFrom: 2 ** 40 });
    guest.invalidate(WHOLE);
    const readable = notifier.held();
    guest.setRules({ rights: 3, blockedFrom: 2 ** 40 });
    guest.invalidate(range(7, 1));
    guest.setRules({ rights: 1, blockedFrom: 2 ** 40 });
    guest.invalidate(WHOLE);
    expect(notifier.held()).toEqual(readable);
    guest.holes = [range(7, 1)];
    guest.invalidate(WHOLE);
    expect(notifier.held(range(7, 1))).toEqual([]);
  });

  it("is announced where a hole has gone, although the host says that the table has not changed", () => {
    const memory = new FakeMemory({ generations: true });
    const guest = new Guest(memory, false);
    guest.holes = [range(7, 1)];
    const unit = new BackendIommu({ backend: guest, memory, scheduler: new ManualScheduler() });
    const notifier = new RecordingNotifier({ replace: true });
    unit.addressSpace(0).attach(notifier);
    expect(notifier.held(range(7, 1))).toEqual([]);
    guest.holes = [];
    guest.invalidate(WHOLE);
    expect(notifier.held(range(7, 1))).toEqual([{ iovaPfn: 7, pageCount: 1, gpaPfn: 7, access: 3 }]);
  });

  it("is told with both halves of every entry, whichever of them is another", () => {
    const memory = new FakeMemory();
    const guest = new Guest(memory, false);
    guest.holes = [];
    guest.places[1] = { table: 1 };
    const unit = new BackendIommu({ backend: guest, memory, scheduler: new ManualScheduler() });
    const notifier = new RecordingNotifier({ replace: true });
    const entry = (index: number, frame: number): void =>
      memory.pokeEntry(
        (FIRST_TABLE + 1) * 4096 + index * 8,
        ((frame % 2 ** 20) << 12) | 3,
        Math.floor(frame / 2 ** 20),
      );
    for (let i = 0; i < 17; i++) entry(i, 50 + i * 2);
    unit.addressSpace(0).attach(notifier);
    for (let i = 0; i < 17; i++) {
      for (const frame of [2 ** 20 + 50 + i * 2, 50 + i * 2]) {
        entry(i, frame);
        guest.invalidate(WHOLE);
        expect(notifier.held(range(512 + i, 1))).toEqual([
          { iovaPfn: 512 + i, pageCount: 1, gpaPfn: frame, access: 3 },
        ]);
      }
    }
    // The low halves go on, the high ones do not; and the other way round.
    for (const [first, second] of [
      [7, 2 ** 20 + 8],
      [2 ** 20 - 1, 2 ** 20],
    ] as const) {
      entry(3, first);
      entry(4, second);
      guest.invalidate(WHOLE);
      expect([515, 516].map((pfn) => notifier.held(range(pfn, 1))[0]?.gpaPfn)).toEqual([first, second]);
    }
  });

  it("is visited in the range that is asked for, until the visitor has enough", () => {
    const table = new LeafTable();
    table.words = Int32Array.from({ length: 2048 }, (_, at) => (at % 2 === 0 ? (at << 12) | 3 : 0));
    const seen: number[] = [];
    const visit = (most: number) => (pfn: number) => seen.push(pfn) < most;
    expect(table.visit(1024, range(0, 1026), visit(9))).toBe(true);
    expect(table.visit(1024, range(1534, 9), visit(9))).toBe(true);
    expect(table.visit(1024, range(1026, 9), visit(6))).toBe(false);
    expect(seen).toEqual([1024, 1025, 1534, 1535, 1026, 1027]);
  });
});

import { deepEqual } from "node:assert/strict";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Access,
  type Announce,
  type Backend,
  BackendIommu,
  type Domain,
  type EntryFormat,
  type FrameRange,
  LeafTable,
  type MappingSink,
} from "../src/index.js";
import { FakeMemory, ManualScheduler, RecordingNotifier } from "../src/testing/index.js";
import { range } from "./support/machine.js";

const WHOLE = range(0, 2 ** 52);
const SLOTS = 3;
const TABLES = 5;
const FIRST_TABLE = 16;

/** What stands at one of the places for 512 frames. */
type Place = { readonly table: number } | { readonly superpage: number; readonly access: Access } | undefined;

/** The rules by which entries are read: rights left by the tables above, and targets that nobody may reach. */
interface Rules {
  readonly rights: number;
  readonly blockedFrom: number;
}

/** Three times 512 frames; leaf tables lie in memory, and may be shared, swapped and edited. `plain` tells every entry alone and remembers nothing. */
class Guest implements Backend, Domain {
  readonly kind = "table";
  readonly label = "guest";
  holes: readonly FrameRange[] = [range(600, 5)];
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
  #announce: Announce | undefined;

  constructor(memory: FakeMemory, plain: boolean, offset = 0) {
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

  connect(announce: Announce): void {
    this.#announce = announce;
  }

  domainOf(): Domain {
    return this;
  }

  translate(): void {
    throw new Error("no request is made here");
  }

  invalidate(part: FrameRange): void {
    void this.#announce?.({ range: part, concerns: () => true });
  }

  scan(part: FrameRange, sink: MappingSink): void {
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
  { weight: 1, arbitrary: fc.record({ op: fc.constant("holes" as const), first: fc.constantFrom(600, 1030) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("newcomer" as const) }) },
);

function apply(
  guest: Guest,
  step: Exclude<typeof action extends fc.Arbitrary<infer T> ? T : never, { op: "newcomer" }>,
): void {
  if (step.op === "invalidate") guest.invalidate(range(step.first, step.count));
  else if (step.op === "rules") guest.setRules(step);
  else if (step.op === "holes") guest.holes = [range(step.first, 5)];
  else if (step.op === "place") {
    const { at, table, superpage } = step;
    guest.places[at] = superpage ? { superpage: at * 1024, access: 3 } : table === undefined ? undefined : { table };
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
        fc.constantFrom(1, 600, 65_536),
        fc.boolean(),
        async (steps, host, offset, entriesPerSlice, replace) => {
          const worlds = [true, false].map((plain) => {
            const memory = new FakeMemory(plain ? {} : host);
            const guest = new Guest(memory, plain, offset);
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
});

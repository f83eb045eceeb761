import { deepEqual, equal } from "node:assert/strict";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type AddressSpace, type Attachment, BackendIommu, type FrameRange, sourceId } from "../src/index.js";
import {
  FakeMemory,
  ManualScheduler,
  PageTables,
  RecordingFlushNotifier,
  RecordingNotifier,
  type RecordingNotifierOptions,
  type Run,
  RunList,
  SimpleBackend,
  SimpleDomain,
} from "../src/testing/index.js";
import { range } from "./support/machine.js";
import { TableBackend, TableDomain } from "./support/table-backend.js";

const WHOLE = range(0, 2 ** 52);
const DEVICES = [sourceId(0, 1, 0), sourceId(0, 2, 0), sourceId(0, 3, 0)];
const HOLES = [range(0x210, 0x10), range(1500, 3)];
/** Where runs and edits lie: near the edges of leaf tables and of larger ones, and in one part they often share. */
const BASES = [0, 500, 512, 1024, 1490, 2 ** 18 - 700, 2 ** 27 - 512, 2 ** 36];

const frames = fc.record({
  first: fc.tuple(fc.constantFrom(...BASES), fc.nat(30)).map(([base, offset]) => base + offset),
  aligned: fc.boolean(),
  count: fc.oneof(fc.integer({ min: 1, max: 30 }), fc.constantFrom(512, 513, 1024)),
});
const rights = fc.constantFrom<1 | 2 | 3>(1, 2, 3);

const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant("map" as const),
      domain: fc.nat(2),
      frames,
      gpa: fc.constantFrom(0, 512, 5000, 2 ** 30),
      rights,
    }),
  },
  { weight: 3, arbitrary: fc.record({ op: fc.constant("shift" as const), domain: fc.nat(2), frames, rights }) },
  { weight: 4, arbitrary: fc.record({ op: fc.constant("unmap" as const), domain: fc.nat(2), frames }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant("invalidate" as const), domain: fc.nat(2), frames }) },
  { weight: 3, arbitrary: fc.record({ op: fc.constant("invalidateAll" as const) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      op: fc.constant("assign" as const),
      device: fc.nat(2),
      domain: fc.nat(4),
      announce: fc.boolean(),
    }),
  },
  { weight: 4, arbitrary: fc.record({ op: fc.constant("attach" as const), device: fc.nat(2), kind: fc.nat(5) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("join" as const), device: fc.nat(2), which: fc.nat(9) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("detach" as const), which: fc.nat(9) }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("unplug" as const), device: fc.nat(2) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant("lose" as const), which: fc.nat(9), frames }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant("regions" as const), count: fc.nat(2) }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

const kinds: readonly (RecordingNotifierOptions & { readonly range?: FrameRange })[] = [
  {},
  { replace: true },
  { granularity: "block" },
  { granularity: "block", replace: true, largestBlock: 16 },
  { range: range(505, 1010) },
  { granularity: "block", range: range(520, 4096), answers: "microtask" },
];

/** Consumers that do not take everything. */
const pickyKinds: typeof kinds = [
  { capacity: 3 },
  { capacity: 4, granularity: "block", replace: true },
  { capacity: 3, answers: "microtask" },
  { capacity: 12, answers: "microtask", granularity: "block", largestBlock: 64 },
  { supports: (gpaPfn) => gpaPfn % 1024 < 700 },
  { supports: (gpaPfn) => gpaPfn >= 512, granularity: "block", capacity: 30, answers: "microtask", replace: true },
];

const regionSets = [[range(0, 600)], [range(0, 100), range(200, 900)], []];

/** The naive truth: what each device reaches, as runs, holes cut out. */
function reach(domain: SimpleDomain, regions: readonly FrameRange[]): RunList {
  const list = new RunList();
  if (domain.kind === "bypass") {
    for (const { firstPfn, pageCount } of regions)
      list.set({ iovaPfn: firstPfn, pageCount, gpaPfn: firstPfn, access: 3 });
  } else if (domain.kind === "table") {
    const collect = (iovaPfn: number, pageCount: number, gpaPfn: number, access: 0 | 1 | 2 | 3): boolean => {
      list.set({ iovaPfn, pageCount, gpaPfn, access });
      return true;
    };
    domain.scan(WHOLE, { run: collect, reach: () => true, table: () => true });
  }
  for (const hole of domain.holes) list.delete(hole.firstPfn, hole.pageCount);
  return list;
}

interface Entry {
  readonly notifier: RecordingNotifier;
  readonly options: RecordingNotifierOptions;
  readonly range: FrameRange;
  readonly attachments: { device: number; attachment: Attachment }[];
  /** What it held at the last quiescent point. */
  before: Run[];
}

/** A unit, what the guest did to it, and what everybody ought to hold. */
class World {
  readonly backend = new SimpleBackend();
  readonly scheduler = new ManualScheduler();
  readonly unit: BackendIommu;
  readonly domains = [
    new SimpleDomain("a"),
    new SimpleDomain("b", { holes: HOLES }),
    new SimpleDomain("c"),
    new SimpleDomain("bypass", { kind: "bypass", holes: HOLES }),
    new SimpleDomain("blocked", { kind: "blocked" }),
  ];
  readonly assigned = [0, 0, 1];
  readonly entries: Entry[] = [];
  readonly windows = new Map<RecordingNotifier, [number, number][]>();
  regions: readonly FrameRange[] = regionSets[0]!;

  readonly kinds: typeof kinds;

  constructor(entriesPerSlice: number, mappingsPerSlice: number, notifierKinds: typeof kinds = kinds) {
    this.kinds = notifierKinds;
    const memory = new FakeMemory();
    this.unit = new BackendIommu({
      backend: this.backend,
      memory,
      scheduler: this.scheduler,
      regions: this.regions,
      limits: { entriesPerSlice, mappingsPerSlice },
    });
    for (const [device, domain] of this.assigned.entries())
      void this.backend.assign(DEVICES[device]!, this.domains[domain]!);
    this.unit.events.on("window", ({ attachment, iovaPfn, pageCount }) => {
      if (attachment.notifier instanceof RecordingNotifier)
        this.windows.get(attachment.notifier)?.push([iovaPfn, pageCount]);
    });
  }

  space(device: number): AddressSpace {
    return this.unit.addressSpace(DEVICES[device]!);
  }

  attach(device: number, kind: number): void {
    const options = this.kinds[kind]!;
    const entry: Entry = {
      notifier: new RecordingNotifier({ ...options, name: `notifier ${this.entries.length}` }),
      options,
      range: options.range ?? WHOLE,
      attachments: [],
      before: [],
    };
    this.windows.set(entry.notifier, []);
    this.entries.push(entry);
    this.join(device, entry);
  }

  join(device: number, entry: Entry): void {
    const attachment = this.space(device).attach(entry.notifier, { range: entry.range });
    entry.attachments.push({ device, attachment });
  }

  /** What this notifier holds if all is well: `undefined` while its devices disagree. */
  wanted(entry: Entry): Run[] | undefined {
    const domains = new Set(entry.attachments.map(({ device }) => this.assigned[device]!));
    if (domains.size === 0) return [];
    const [only] = domains;
    if (domains.size > 1 || only === undefined) return undefined;
    return reach(this.domains[only]!, this.regions).joined(entry.range.firstPfn, entry.range.pageCount);
  }

  do(action: Step): void {
    switch (action.op) {
      case "map":
        return this.edit(action.domain, action.frames, (first, count, domain) =>
          domain.map(first, count, action.gpa, action.rights),
        );
      case "shift":
        return this.edit(action.domain, action.frames, (first, count, domain) =>
          domain.map(first, count, first + 4096, action.rights),
        );
      case "unmap":
        return this.edit(action.domain, action.frames, (first, count, domain) => domain.unmap(first, count));
      case "invalidate":
        return this.edit(action.domain, action.frames, (first, count, domain) => {
          void this.backend.invalidate(domain, range(first, count));
        });
      case "invalidateAll":
        return void this.backend.invalidateAll();
      case "assign":
        this.assigned[action.device] = action.domain;
        return void this.backend.assign(DEVICES[action.device]!, this.domains[action.domain]!, action.announce);
      case "attach":
        return this.attach(action.device, action.kind);
      case "join": {
        const entry = this.entries[action.which];
        if (entry === undefined || entry.attachments.length === 0) return;
        try {
          this.join(action.device, entry);
        } catch {
          // Attached already, or another view: refused, and nothing happened.
        }
        return;
      }
      case "detach": {
        const entry = this.entries[action.which];
        const first = entry?.attachments.shift();
        return void first?.attachment.detach();
      }
      case "unplug":
        void this.space(action.device).unplug();
        for (const entry of this.entries) {
          const kept = entry.attachments.filter(({ device }) => device !== action.device);
          entry.attachments.splice(0, entry.attachments.length, ...kept);
        }
        return;
      case "lose": {
        const entry = this.entries[action.which];
        if (this.kinds !== pickyKinds) return;
        return this.edit(0, action.frames, (first, count) => entry?.notifier.lose(first, count));
      }
      case "regions":
        this.regions = regionSets[action.count]!;
        return void this.unit.setRegions(this.regions);
    }
  }

  edit(
    domain: number,
    { first, aligned, count }: { first: number; aligned: boolean; count: number },
    apply: (first: number, count: number, domain: SimpleDomain) => void,
  ): void {
    apply(aligned ? first - (first % 512) : first, count, this.domains[domain]!);
  }

  /** The guest invalidates everything; afterwards everybody holds what the model says. */
  async quiesce(): Promise<void> {
    void this.backend.invalidateAll();
    await this.scheduler.idle();
    for (const entry of this.entries) {
      const { notifier } = entry;
      notifier.check();
      const wanted = this.wanted(entry) ?? [];
      deepEqual(notifier.held(), wanted);
      for (const { attachment } of entry.attachments) {
        equal(attachment.failure, undefined);
        equal(attachment.heldPages, notifier.pageCount);
      }
      this.judge(entry, wanted);
    }
  }

  /** As `quiesce`, for consumers that refuse: what they hold is right, and what is missing has been refused for a reason that still stands. */
  async quiescePicky(): Promise<void> {
    void this.backend.invalidateAll();
    for (const { notifier } of this.entries) notifier.reports?.retry();
    await this.scheduler.idle();
    for (const { notifier, attachments, ...entry } of this.entries) {
      notifier.check();
      const wanted = new RunList();
      for (const run of this.wanted({ notifier, attachments, ...entry }) ?? []) wanted.set(run);
      for (const run of notifier.held()) deepEqual(wanted.joined(run.iovaPfn, run.pageCount), [run]);
      for (const { attachment } of attachments) {
        equal(attachment.failure, undefined);
        equal(attachment.heldPages, notifier.pageCount);
        if (attachment.state === "active") equal(attachment.refusedPages, wanted.pageCount - notifier.pageCount);
      }
      const missing = wanted.pageCount - notifier.pageCount;
      const hasRoom = entry.options.supports === undefined && notifier.entries.length < notifier.capacity;
      if (missing > 0 && hasRoom && attachments.length > 0) {
        throw new Error(`${notifier.name}: ${missing} frames are not held, and nothing stands against it`);
      }
    }
  }

  /**
   * No frame that is mapped the same at both quiescent points, and was so all the time in between, was ever unmapped: to a page notifier never, to a block
   * notifier only within a reported window. `steady` tells whether it was so all the time.
   */
  judge(entry: Entry, now: Run[]): void {
    const { notifier } = entry;
    const old = new RunList();
    const current = new RunList();
    for (const run of entry.before) old.set(run);
    for (const run of now) current.set(run);
    const windows = this.windows.get(notifier)!;
    for (const call of this.steady ? notifier.calls : []) {
      if (call.type !== "unmap") continue;
      const vanished = sameIn(old, current, call.iovaPfn, call.pageCount);
      for (const pfn of vanished) {
        const told =
          notifier.granularity === "block" && windows.some(([first, count]) => pfn >= first && pfn < first + count);
        if (!told) throw new Error(`${notifier.name}: frame ${pfn} stays mapped and was unmapped`);
      }
    }
    windows.length = 0;
    notifier.calls.length = 0;
    entry.before = now;
  }

  steady = true;
}

/** Frames of the range that both lists map alike (edges of runs are enough to find a mistake, so large runs are sampled). */
function sameIn(a: RunList, b: RunList, firstPfn: number, pageCount: number): number[] {
  const same: number[] = [];
  for (const run of a.joined(firstPfn, pageCount)) {
    for (const other of b.joined(run.iovaPfn, run.pageCount)) {
      const alike = other.gpaPfn - other.iovaPfn === run.gpaPfn - run.iovaPfn && other.access === run.access;
      if (alike) same.push(other.iovaPfn, other.iovaPfn + other.pageCount - 1);
    }
  }
  return same;
}

/** A full consumer loses an entry right after a replacement that it refused: what it then has room for is offered. */
const REPLACED_WITHOUT_ROOM: Step[][] = [
  [
    { op: "map", domain: 0, frames: { first: 0, aligned: false, count: 1024 }, gpa: 0, rights: 1 },
    { op: "detach", which: 0 },
  ],
  [{ op: "map", domain: 0, frames: { first: 261_444, aligned: false, count: 1 }, gpa: 0, rights: 1 }],
  [
    { op: "attach", device: 0, kind: 0 },
    { op: "assign", device: 0, domain: 3, announce: false },
  ],
];

describe("the hub", () => {
  it("leaves every notifier with exactly what its devices reach, after any history and with slices of any size", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(step, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 8 }),
        fc.constantFrom(1, 3, 40, 65_536),
        fc.constantFrom(1, 2, 30, 65_536),
        async (rounds, entriesPerSlice, mappingsPerSlice) => {
          const world = new World(entriesPerSlice, mappingsPerSlice);
          world.steady = false;
          for (const actions of rounds) {
            for (const [i, action] of actions.entries()) {
              world.do(action);
              // Half of the time the event loop gets a turn in between, so jobs are cut by the guest's next action.
              if (i % 2 === 0) world.scheduler.turn();
            }
            await world.quiesce();
          }
        },
      ),
      { numRuns: 100 },
    );
  });

  it("leaves full, picky and slow consumers with nothing wrong, and accounts for every frame that is missing", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(step, { minLength: 1, maxLength: 6 }), { minLength: 1, maxLength: 6 }),
        fc.constantFrom(3, 65_536),
        async (rounds, mappingsPerSlice) => {
          const world = new World(65_536, mappingsPerSlice, pickyKinds);
          for (const actions of rounds) {
            for (const [i, action] of actions.entries()) {
              world.do(action);
              if (i % 2 === 0) world.scheduler.turn();
              if (i % 3 === 0) await Promise.resolve();
            }
            await world.quiescePicky();
          }
        },
      ),
      { numRuns: 100, examples: [[REPLACED_WITHOUT_ROOM, 3]] },
    );
    // A consumer that answers late is offered all that it refused, three pages a turn: one history in a thousand takes ten seconds.
  }, 240_000);

  it("never unmaps a frame that stays mapped the same, however the guest gets from one state to the next in one invalidation", async () => {
    const edit = fc.oneof(
      {
        weight: 4,
        arbitrary: fc.record({
          op: fc.constant("map" as const),
          domain: fc.nat(2),
          frames,
          gpa: fc.constantFrom(0, 512, 5000),
          rights,
        }),
      },
      { weight: 3, arbitrary: fc.record({ op: fc.constant("shift" as const), domain: fc.nat(2), frames, rights }) },
      { weight: 4, arbitrary: fc.record({ op: fc.constant("unmap" as const), domain: fc.nat(2), frames }) },
      {
        weight: 2,
        arbitrary: fc.record({
          op: fc.constant("assign" as const),
          device: fc.nat(2),
          domain: fc.nat(4),
          announce: fc.constant(false),
        }),
      },
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ device: fc.nat(2), kind: fc.nat(5) }), { minLength: 1, maxLength: 4 }),
        fc.array(fc.array(edit, { minLength: 1, maxLength: 4 }), { minLength: 2, maxLength: 8 }),
        fc.constantFrom(3, 65_536),
        async (attached, rounds, mappingsPerSlice) => {
          const world = new World(65_536, mappingsPerSlice);
          for (const { device, kind } of attached) world.attach(device, kind);
          for (const edits of rounds) {
            for (const action of edits) world.do(action);
            await world.quiesce();
          }
        },
      ),
      { numRuns: 100 },
    );
  });

  it("does the same with page tables in guest memory: leaves of 4 KiB, 2 MiB and 1 GiB, split, merged and cut", async () => {
    const size = fc.constantFrom(1, 1, 1, 512, 512, 2 ** 18);
    const change = fc.record({
      op: fc.constantFrom("map" as const, "map" as const, "unmap" as const, "split" as const),
      size,
      at: fc.nat(3),
      offset: fc.nat(1200),
      count: fc.integer({ min: 1, max: 600 }),
      gpa: fc.constantFrom(0, 2 ** 18, 2 ** 19),
      same: fc.boolean(),
      rights,
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.array(change, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 6 }),
        fc.boolean(),
        async (rounds, replace) => {
          const memory = new FakeMemory();
          const tables = new PageTables(memory);
          const backend = new TableBackend(new TableDomain("tables", tables, [range(600, 5)]));
          const scheduler = new ManualScheduler();
          const unit = new BackendIommu({ backend, memory, scheduler });
          const space = unit.addressSpace(0);
          let now = new RunList();
          const page = new RecordingNotifier({ replace, truth: (pfn) => now.lookup(pfn) });
          const block = new RecordingNotifier({ granularity: "block", replace });
          const flush = new RecordingFlushNotifier();
          for (const notifier of [page, block, flush]) space.attach(notifier);
          const windows: [number, number][] = [];
          space.events.on("window", ({ attachment, iovaPfn, pageCount }) => {
            if (attachment.notifier === block) windows.push([iovaPfn, pageCount]);
          });
          const truth = new RunList();
          for (const changes of rounds) {
            for (const { op, size: leaf, at, offset, count, gpa, same, rights: access } of changes) {
              if (op === "split") {
                tables.split(at * 512);
                continue;
              }
              const first = leaf === 1 ? offset : leaf === 512 ? at * 512 : (at % 2) * 2 ** 18;
              const pages = leaf === 1 ? count : leaf;
              if (op === "unmap") {
                tables.unmap(first, pages);
                truth.delete(first, pages);
              } else {
                const target = same ? first + 2 ** 18 : gpa;
                tables.map(first, pages, target, access, leaf);
                truth.set({ iovaPfn: first, pageCount: pages, gpaPfn: target, access });
              }
            }
            const before = now;
            now = new RunList();
            for (const run of truth.entries) now.set(run);
            now.delete(600, 5);
            windows.length = 0;
            block.calls.length = 0;
            void backend.invalidate(range(0, 2 ** 36));
            await scheduler.idle();
            page.check();
            block.check();
            expect(page.held()).toEqual(now.joined());
            expect(block.held()).toEqual(now.joined());
            for (const call of block.calls.filter(({ type }) => type === "unmap")) {
              for (const pfn of sameIn(before, now, call.iovaPfn, call.pageCount)) {
                expect(windows.some(([first, length]) => pfn >= first && pfn < first + length)).toBe(true);
              }
            }
          }
        },
      ),
      { numRuns: 40 },
    );
  });
});

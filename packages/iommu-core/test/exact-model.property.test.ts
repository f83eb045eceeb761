import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type AddressSpace, BackendIommu, type FrameRange, sourceId } from "../src/index.js";
import { FakeMemory, ManualScheduler, type NotifierCall, PageTables, RecordingNotifier } from "../src/testing/index.js";
import { range } from "./support/machine.js";
import { TableBackend, TableDomain } from "./support/table-backend.js";

/** Four leaf tables, two on each side of a boundary of 1 GiB. */
const BASE = 2 ** 18 - 1024;
const TABLES = 4;
const FRAMES = TABLES * 512;
const HOLES = [range(BASE + 500, 24), range(BASE + 1024, 3)];
const CLIP = range(BASE + 300, 1000);
const DEVICE = sourceId(0, 1, 0);
const OTHER = sourceId(0, 2, 0);
const THIRD = sourceId(0, 3, 0);

const edit = fc.record({
  op: fc.constantFrom("pages", "pages", "pages", "shift", "large", "unmap", "unmap", "split"),
  domain: fc.nat(1),
  table: fc.nat(TABLES - 1),
  offset: fc.oneof(fc.nat(511), fc.constantFrom(0, 1, 508, 511)),
  count: fc.oneof(fc.integer({ min: 1, max: 12 }), fc.constantFrom(1, 2, 512, 700)),
  target: fc.constantFrom(0, 7, 2 ** 20, 2 ** 20 + 5, 2 ** 32),
  access: fc.constantFrom<1 | 2 | 3>(1, 3, 2),
});
type Edit = typeof edit extends fc.Arbitrary<infer T> ? T : never;

const announcement = fc.oneof(
  { weight: 3, arbitrary: fc.constant("all" as const) },
  { weight: 1, arbitrary: fc.constant("move" as const) },
  {
    weight: 3,
    arbitrary: fc.record({
      from: fc.oneof(fc.nat(FRAMES - 1), fc.constantFrom(0, 511, 512, 513, 1024)),
      count: fc.oneof(fc.integer({ min: 1, max: FRAMES }), fc.constantFrom(1, 512)),
    }),
  },
);

/** For each frame: target * 4 + rights, 0 where nothing is mapped. */
type Model = Float64Array;

interface Told {
  readonly kind: "unmap" | "change" | "map";
  readonly iovaPfn: number;
  readonly pageCount: number;
  readonly gpaPfn: number;
  readonly access: number;
}

/** What is to be told, table by table: removals, changes, additions, each in as few runs as there can be. */
function difference(before: Model, after: Model, splitsRemovals: boolean): Told[] {
  const told: Told[] = [];
  for (let first = 0; first < FRAMES; first += 512)
    for (const kind of ["unmap", "change", "map"] as const)
      for (const run of runsOf(kind, before, after, first, splitsRemovals)) told.push(run);
  return told;
}

function runsOf(kind: Told["kind"], before: Model, after: Model, first: number, splitsRemovals: boolean): Told[] {
  const runs: Told[] = [];
  for (let i = first; i < first + 512; i++) {
    const [old = 0, next = 0] = [before[i], after[i]];
    if (old === next || kindOf(old, next) !== kind) continue;
    const told = kind === "unmap" ? old : next;
    const last = runs.at(-1);
    const access = told % 4;
    const gpaPfn = (told - access) / 4;
    const isMerged =
      last !== undefined &&
      last.iovaPfn + last.pageCount === BASE + i &&
      ((kind === "unmap" && !splitsRemovals) || (last.access === access && last.gpaPfn + last.pageCount === gpaPfn));
    if (isMerged) runs[runs.length - 1] = { ...last, pageCount: last.pageCount + 1 };
    else runs.push({ kind, iovaPfn: BASE + i, pageCount: 1, gpaPfn, access });
  }
  return runs;
}

function kindOf(old: number, next: number): Told["kind"] {
  if (next === 0) return "unmap";
  return old === 0 ? "map" : "change";
}

function clipped(told: readonly Told[], { firstPfn, pageCount }: FrameRange): Told[] {
  return told.flatMap((run) => {
    const first = Math.max(run.iovaPfn, firstPfn);
    const count = Math.min(run.iovaPfn + run.pageCount, firstPfn + pageCount) - first;
    return count <= 0 ? [] : [{ ...run, iovaPfn: first, pageCount: count, gpaPfn: run.gpaPfn + first - run.iovaPfn }];
  });
}

function text({ iovaPfn, pageCount, gpaPfn, access }: Omit<Told, "kind">): string {
  return `${iovaPfn - BASE}+${pageCount} -> ${gpaPfn}, ${access}`;
}

function callsFor(told: readonly Told[], replace: boolean): string[] {
  return told.flatMap((run) => {
    const unmap = `unmap ${run.iovaPfn - BASE}+${run.pageCount}`;
    if (run.kind === "unmap") return [unmap];
    if (run.kind === "map") return [`map ${text(run)}`];
    return replace ? [`replace ${text(run)}`] : [unmap, `map ${text(run)}`];
  });
}

function taken(notifier: RecordingNotifier): string[] {
  notifier.check();
  const calls = notifier.calls.splice(0).filter(({ type }) => type !== "begin" && type !== "commit");
  return calls.map((call: NotifierCall) =>
    call.type === "unmap" ? `unmap ${call.iovaPfn - BASE}+${call.pageCount}` : `${call.type} ${text(call)}`,
  );
}

class World {
  readonly scheduler = new ManualScheduler();
  readonly backend: TableBackend;
  readonly space: AddressSpace;
  readonly exact = new RecordingNotifier({ replace: true });
  readonly plain = new RecordingNotifier();
  readonly clipped = new RecordingNotifier({ replace: true, range: CLIP });
  /** Of a device that never leaves the first domain. */
  readonly stays = new RecordingNotifier({ replace: true });
  readonly events: string[] = [];
  readonly domains: readonly TableDomain[];
  readonly truth: readonly Model[] = [new Float64Array(FRAMES), new Float64Array(FRAMES)];
  /** What has been announced of each domain. */
  readonly announced: readonly Model[] = [new Float64Array(FRAMES), new Float64Array(FRAMES)];
  readonly targets: boolean;
  here = 0;

  constructor(entriesPerSlice: number, mappingsPerSlice: number, holed: boolean, targets: boolean, shared: boolean) {
    const memory = new FakeMemory();
    this.domains = [0x1000, 0x8000].map(
      (firstTablePfn, i) => new TableDomain(`${i}`, new PageTables(memory, { firstTablePfn }), holed ? HOLES : []),
    );
    this.backend = new TableBackend(this.domains[0]!);
    const { scheduler, backend } = this;
    const unit = new BackendIommu({ backend, memory, scheduler, limits: { entriesPerSlice, mappingsPerSlice } });
    this.space = unit.addressSpace(DEVICE);
    this.targets = targets;
    if (targets) this.space.onWrite = () => undefined;
    if (shared) {
      // Another device keeps the view of the other domain alive.
      void backend.assign(OTHER, this.domains[1]!);
      unit.addressSpace(OTHER).attach(new RecordingNotifier());
    }
    unit.addressSpace(THIRD).attach(this.stays);
    for (const kind of ["unmap", "change", "map"] as const)
      unit.events.on(kind, (event) => {
        if (event.space === this.space) this.events.push(`${kind} ${text(event)}`);
      });
    this.space.attach(this.exact);
    this.space.attach(this.plain);
    this.space.attach(this.clipped, { range: CLIP });
  }

  edit({ op, domain, table, offset, count, target, access }: Edit): void {
    const { tables } = this.domains[domain]!;
    const truth = this.truth[domain]!;
    const first = table * 512;
    if (op === "split") return tables.split(BASE + first);
    if (op === "large") {
      const gpaPfn = target - (target % 512);
      tables.map(BASE + first, 512, gpaPfn, access, 512);
      return fill(truth, first, 512, gpaPfn, access);
    }
    const at = first + offset;
    const pages = Math.min(count, FRAMES - at);
    if (op === "unmap") {
      tables.unmap(BASE + at, pages);
      truth.fill(0, at, at + pages);
      return;
    }
    const gpaPfn = op === "shift" ? 5000 + at : target;
    tables.map(BASE + at, pages, gpaPfn, access);
    fill(truth, at, pages, gpaPfn, access);
  }

  /** The guest says that frames have changed, or moves the device to the other domain; everybody hears exactly the difference. */
  async announce(what: typeof announcement extends fc.Arbitrary<infer T> ? T : never): Promise<void> {
    const before = this.announced[this.here]!.slice();
    const [first] = this.announced.map((model) => model.slice());
    if (what === "move") {
      this.here = 1 - this.here;
      void this.backend.assign(DEVICE, this.domains[this.here]!);
      // Those whom it leaves are brought up to date as well.
      for (const domain of [0, 1]) this.#learn(domain, 0, FRAMES);
    } else if (what === "all") {
      void this.backend.invalidate(range(0, 2 ** 36));
      for (const domain of [0, 1]) this.#learn(domain, 0, FRAMES);
    } else {
      const count = Math.min(what.count, FRAMES - what.from);
      void this.backend.invalidate(range(BASE + what.from, count));
      for (const domain of [0, 1]) this.#learn(domain, what.from, count);
    }
    await this.scheduler.idle();
    const told = difference(before, this.announced[this.here]!, false);
    expect(taken(this.exact)).toEqual(callsFor(told, true));
    expect(taken(this.plain)).toEqual(callsFor(told, false));
    expect(taken(this.clipped)).toEqual(callsFor(clipped(told, CLIP), true));
    expect(taken(this.stays)).toEqual(callsFor(difference(first!, this.announced[0]!, false), true));
    const seen = difference(before, this.announced[this.here]!, this.targets);
    expect(this.events.splice(0)).toEqual(
      seen.map((run) =>
        run.kind === "unmap" && !this.targets
          ? `unmap ${text({ ...run, gpaPfn: -1, access: 0 })}`
          : `${run.kind} ${text(run)}`,
      ),
    );
  }

  #learn(domain: number, from: number, count: number): void {
    const announced = this.announced[domain]!;
    announced.set(this.truth[domain]!.subarray(from, from + count), from);
    for (const { firstPfn, pageCount } of this.domains[domain]!.holes)
      announced.fill(0, firstPfn - BASE, firstPfn - BASE + pageCount);
  }
}

function fill(model: Model, first: number, count: number, gpaPfn: number, access: number): void {
  for (let i = 0; i < count; i++) model[first + i] = (gpaPfn + i) * 4 + access;
}

describe("page notifiers and observers", () => {
  it.each([1, 700, 65_536])(
    "are told exactly the difference, in as few calls as there can be, in order: %d entries a slice",
    async (entriesPerSlice) => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.record({ edits: fc.array(edit, { maxLength: 4 }), announced: announcement }), {
            minLength: 3,
            maxLength: 8,
          }),
          fc.constantFrom(1, 50, 65_536),
          fc.boolean(),
          fc.boolean(),
          fc.boolean(),
          async (rounds, mappingsPerSlice, holed, targets, shared) => {
            const world = new World(entriesPerSlice, mappingsPerSlice, holed, targets, shared);
            for (const { edits, announced } of rounds) {
              for (const each of edits) world.edit(each);
              await world.announce(announced);
            }
          },
        ),
        { numRuns: 15 },
      );
    },
  );
});

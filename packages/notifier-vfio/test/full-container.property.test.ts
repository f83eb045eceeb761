/**
 * Containers that are too small, under every coalescing policy: what the address space says of one is what it really maps, after every step of a random history over
 * every path, and everything comes back when there is room.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Access, type AddressSpace, type Attachment } from "@iommu-kit/iommu-core";
import {
  type Coalescing,
  MemoryContainer,
  type MapResult,
  shadow,
  type1v2,
  VfioNotifier,
  type ContainerProfile,
  type DmaContainer,
  type UnmapResult,
} from "@iommu-kit/notifier-vfio";
import { PlainContainer, RemoteContainer, SteppedContainer } from "./containers.js";
import { Guest, GuestTable } from "./guest.js";

/** Frames of the guest. */
const SPAN = 1600;
/** Where somebody else has entries in the container. */
const OTHERS = 2 ** 26;

const firstPfn = fc.nat({ max: SPAN - 60 });
const mapping = fc.record({
  kind: fc.constant("map" as const),
  firstPfn,
  pageCount: fc.integer({ min: 1, max: 40 }),
  gpaPfn: fc.nat({ max: 90 }),
  access: fc.constantFrom<Access>(1, 2, 3),
});
const hole = fc.record({ kind: fc.constant("unmap" as const), firstPfn, pageCount: fc.integer({ min: 1, max: 12 }) });
/** 512 frames one by one: merging policies make one entry of them, and any hole cuts it. */
const table = fc.record({ kind: fc.constant("table" as const), firstPfn: fc.constantFrom(0, 512, 1024) });
const superpage = fc.record({ kind: fc.constant("superpage" as const), firstPfn: fc.constantFrom(0, 512, 1024) });
const changes = fc.array(
  fc.oneof({ weight: 3, arbitrary: mapping }, { weight: 4, arbitrary: hole }, table, superpage),
  { minLength: 1, maxLength: 4 },
);
type Changes = typeof changes extends fc.Arbitrary<infer T> ? T : never;

const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("invalidate" as const), changes }) },
  // Behind a pipe the guest goes on before everything has been answered.
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("hurry" as const), changes, answers: fc.nat({ max: 20 }) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("resync" as const), changes }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("others" as const), entries: fc.nat({ max: 8 }) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("move" as const), both: fc.boolean(), changes }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("attach again" as const), changes }) },
);
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

type Kind = "plain" | "steps" | "remote";

/** Applies each call by itself, and shows the container after each. */
class SpiedContainer extends PlainContainer {
  afterCall: () => void = () => undefined;

  override map(...entry: Parameters<DmaContainer["map"]>): MapResult {
    const answer = super.map(...entry);
    this.afterCall();
    return answer;
  }

  override unmap(first: number, count: number): UnmapResult {
    const answer = super.unmap(first, count);
    this.afterCall();
    return answer;
  }
}

/** Two devices of one group in front of a small container, and what the address space says of it. */
class SmallMachine {
  readonly guest = new Guest();
  readonly tables = [this.guest.table, new GuestTable("domain 2")] as const;
  /** What each device sees. */
  readonly seen: [GuestTable, GuestTable];
  readonly inner: MemoryContainer;
  readonly profile: { entryLimit: number } & ContainerProfile;
  readonly remote: RemoteContainer | undefined;
  readonly spied: SpiedContainer | undefined;
  readonly notifier: VfioNotifier;
  readonly spaces: readonly [AddressSpace, AddressSpace];
  readonly #group: boolean;
  attachments: Attachment[] = [];
  /** Frames that `refused` events have named since they were last held. */
  readonly told = new Set<number>();
  /** Frames that `window` events have named in this step. */
  readonly windows = new Set<number>();
  #others = 0;

  constructor(coalescing: Coalescing, kind: Kind, rules: ContainerProfile, entryLimit: number, group: boolean) {
    this.profile = { ...rules, entryLimit };
    this.inner = new MemoryContainer(this.profile);
    this.remote = kind === "remote" ? new RemoteContainer(this.inner) : undefined;
    this.spied = kind === "plain" ? new SpiedContainer(this.inner) : undefined;
    const container = this.remote ?? this.spied ?? new SteppedContainer(this.inner);
    this.notifier = new VfioNotifier(container, { coalescing, exclusive: false });
    this.seen = [this.tables[0], this.tables[0]];
    this.spaces = [this.guest.device(3), this.guest.device(4)];
    this.#group = group;
    this.guest.iommu.events.on("refused", ({ iovaPfn, pageCount }) => {
      for (let pfn = iovaPfn; pfn < iovaPfn + pageCount; pfn++) this.told.add(pfn);
    });
    this.guest.iommu.events.on("window", ({ iovaPfn, pageCount }) => {
      for (let pfn = iovaPfn; pfn < iovaPfn + pageCount; pfn++) this.windows.add(pfn);
    });
  }

  attach(): void {
    // Where they see different tables a container of the group cannot be attached to both.
    const together = this.#group && this.seen[0] === this.seen[1];
    this.attachments = this.spaces.slice(0, together ? 2 : 1).map((space) => this.notifier.attachTo(space));
  }

  /** What a device is to reach: nothing while the devices of the group disagree. */
  get wanted(): Map<number, string> {
    const agreed = this.attachments.length < 2 || this.seen[0] === this.seen[1];
    return new Map(agreed ? this.seen[0].pages().map((page) => [Number(page.split(":")[0]), page]) : []);
  }

  /** What devices really reach. */
  get mapped(): Map<number, string> {
    const pages = new Map<number, string>();
    for (const { iovaPfn, pageCount, gpaPfn, access } of this.inner.entries()) {
      if (iovaPfn >= OTHERS) continue;
      for (let i = 0; i < pageCount; i++) pages.set(iovaPfn + i, `${iovaPfn + i}:${gpaPfn + i}:${access}`);
    }
    return pages;
  }

  async play(action: Step): Promise<void> {
    const before = this.wanted;
    const held = this.mapped;
    const vanished = new Set<number>();
    this.windows.clear();
    if (this.spied !== undefined)
      this.spied.afterCall = () => {
        const now = this.mapped;
        for (const [pfn, page] of held) if (now.get(pfn) !== page) vanished.add(pfn);
      };
    if ("changes" in action) edit(this.seen[0], action.changes);
    this.#carryOut(action);
    if (action.kind === "hurry" && this.remote !== undefined) return this.remote.answer(action.answers);
    await this.settle();
    const after = this.wanted;
    const lasting = [...vanished].filter((pfn) => before.get(pfn) === after.get(pfn));
    // Leaving is not a window, nor is a moment at which the devices of a group disagree.
    const stayed = action.kind !== "attach again" && (action.kind !== "move" || this.attachments.length === 1);
    if (stayed) expect(lasting.filter((pfn) => !this.windows.has(pfn))).toEqual([]);
    this.check();
  }

  #carryOut(action: Step): void {
    if (action.kind === "invalidate" || action.kind === "hurry") void this.guest.flush(undefined, this.seen[0]);
    if (action.kind === "resync") void this.spaces[0].resync();
    if (action.kind === "others") this.occupy(action.entries);
    if (action.kind === "move") {
      const to = this.tables[this.seen[0] === this.tables[0] ? 1 : 0];
      this.seen[0] = to;
      void this.guest.move(3, to);
      if (!action.both) return;
      this.seen[1] = to;
      void this.guest.move(4, to);
    }
    if (action.kind === "attach again") {
      void this.notifier.detach();
      this.attach();
    }
  }

  /** Somebody else has so many entries in the container, as far as there is room. */
  occupy(entries: number): void {
    for (; this.#others > entries; this.#others--) this.inner.unmap(OTHERS + this.#others, 1);
    while (this.#others < entries && this.inner.map(OTHERS + this.#others + 1, 1, 7, Access.read).ok) this.#others += 1;
    // Behind a pipe nobody hears of it.
    if (this.remote !== undefined) for (const attachment of this.attachments) attachment.retry();
  }

  async settle(): Promise<void> {
    for (let turn = 0; turn < 3; turn++) {
      await this.remote?.answer();
      await new Promise((resolve) => setTimeout(resolve, 0));
    }
  }

  /** The account of every attachment is what the container really maps. */
  check(): void {
    const { wanted, mapped } = this;
    for (const pfn of mapped.keys()) this.told.delete(pfn);
    const missing = [...wanted.keys()].filter((pfn) => !mapped.has(pfn)).sort((a, b) => a - b);
    expect([...mapped].filter(([pfn, page]) => wanted.get(pfn) !== page)).toEqual([]);
    for (const attachment of this.attachments) {
      expect(attachment.failure).toBeUndefined();
      expect(attachment.heldPages).toBe(mapped.size);
      expect(attachment.refusedPages).toBe(missing.length);
      expect(framesOf(attachment)).toEqual(missing);
    }
    expect(missing.filter((pfn) => !this.told.has(pfn))).toEqual([]);
    expect(this.notifier.pagesHeld).toBe(mapped.size);
    // What is missing is missing for want of room, and for no other reason.
    if (missing.length > 0) expect(this.inner.entriesHeld).toBeGreaterThanOrEqual(this.profile.entryLimit);
  }
}

function framesOf({ refusedRanges }: Attachment): number[] {
  return refusedRanges.flatMap((range) => Array.from({ length: range.pageCount }, (_, i) => range.firstPfn + i));
}

function edit(tables: GuestTable, list: Changes): void {
  for (const change of list) {
    const pageCount = "pageCount" in change ? change.pageCount : 512;
    // 4 KiB leaves under a superpage: the driver first writes the superpage out.
    for (const [first, leaf] of [...tables.leaves])
      if (leaf.pageCount > 1 && first < change.firstPfn + pageCount && first + leaf.pageCount > change.firstPfn)
        tables.map(first, leaf.pageCount, leaf.gpaPfn, leaf.access);
    if (change.kind === "map") tables.map(change.firstPfn, change.pageCount, change.gpaPfn, change.access);
    else if (change.kind === "unmap") tables.unmap(change.firstPfn, change.pageCount);
    else tables.map(change.firstPfn, 512, change.firstPfn, 3, change.kind === "table" ? 1 : 512);
  }
}

describe.each<Coalescing>(["leaf", "aligned", "free"])("a small container with the %s policy", (coalescing) => {
  it.each<[Kind, ContainerProfile]>([
    ["plain", type1v2],
    ["plain", shadow],
    ["steps", type1v2],
    ["remote", type1v2],
  ])("maps what the address space says it does, and all of it when there is room (%s)", async (kind, rules) => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 0, max: 14 }),
        fc.boolean(),
        changes,
        fc.array(step, { minLength: 1, maxLength: 7 }),
        async (entryLimit, group, first, steps) => {
          const machine = new SmallMachine(coalescing, kind, rules, entryLimit, group);
          edit(machine.tables[0], first);
          machine.attach();
          await machine.settle();
          machine.check();
          for (const action of steps) await machine.play(action);
          await machine.settle();
          machine.check();

          machine.profile.entryLimit = 10_000;
          machine.occupy(1);
          machine.occupy(0);
          await machine.settle();
          machine.check();
          expect(machine.attachments.map(({ refusedPages }) => refusedPages)).toEqual(machine.attachments.map(() => 0));
          expect(machine.mapped).toEqual(machine.wanted);
          await Promise.all([machine.notifier.detach(), machine.settle()]);
          expect(machine.mapped.size).toBe(0);
        },
      ),
      { numRuns: 8 },
    );
  });
});

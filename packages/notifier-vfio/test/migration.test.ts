/**
 * Live migration of a device behind the unit: dirty pages are found while it writes and the guest remaps, the unit's state is saved and restored into a fresh one, the new
 * side's consumer is replayed, and DMA goes on before, during and after. What counts is the contents of memory at the end: no write may be missing, and none
 * may have been refused to a page that stays mapped.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Access, DirtyTracker } from "@iommu-kit/iommu-core";
import { restore, save } from "@iommu-kit/iommu-vtd/snapshot";
import { GuestDriver } from "@iommu-kit/iommu-vtd/testing";
import {
  type Coalescing,
  type ContainerProfile,
  iommufd,
  MemoryContainer,
  shadow,
  shadowBlock,
  type1,
  type1v2,
  vfioUser,
  VfioNotifier,
} from "@iommu-kit/notifier-vfio";
import { pagesOf } from "./containers.js";

const NIC = "00:03.0";
/** IOVA pages that the guest plays with. */
const SPACE = 20;
/** Buffers of the guest: frames 0x1000 to 0x103f. */
const FIRST_BUFFER = 0x1000;
const BUFFERS = 64;
/** Where the guest's tables lie, contexts and pages: all of them are copied at the end, as a host copies what processors wrote. */
const TABLES: readonly number[] = [0x20000, 0x21000].flatMap((first) =>
  Array.from({ length: 32 }, (_, n) => first + n),
);

type Step =
  | { readonly kind: "dma"; readonly iovaPfn: number }
  | { readonly kind: "map"; readonly iovaPfn: number; readonly pageCount: number; readonly buffer: number }
  | { readonly kind: "unmap"; readonly iovaPfn: number; readonly pageCount: number }
  | { readonly kind: "copy" };

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("dma" as const), iovaPfn: fc.nat({ max: SPACE - 1 }) }) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("map" as const),
      iovaPfn: fc.nat({ max: SPACE - 5 }),
      pageCount: fc.integer({ min: 1, max: 5 }),
      buffer: fc.nat({ max: BUFFERS - 5 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("unmap" as const),
      iovaPfn: fc.nat({ max: SPACE - 5 }),
      pageCount: fc.integer({ min: 1, max: 5 }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("copy" as const) }) },
);

/** One host: a guest with its unit and the far side of its notifier. Invalidations go through registers, so that a driver can go on with a unit that was restored. */
class Host {
  readonly guest = new GuestDriver({ cachingMode: true, limits: { mappingsPerSlice: 4, entriesPerSlice: 512 } });
  readonly container: MemoryContainer;
  readonly notifier: VfioNotifier;
  /** IOVA pages that the guest has mapped, and those that it had when it invalidated last. */
  readonly #mapped = new Set(Array.from({ length: SPACE }, (_, pfn) => pfn));
  #announced = new Set(this.#mapped);

  constructor(profile: ContainerProfile, coalescing: Coalescing) {
    this.container = new MemoryContainer(profile);
    this.notifier = new VfioNotifier(this.container, { coalescing });
    this.guest.context(NIC, { did: 1 });
    this.guest.map(1, { iovaPfn: 0, pageCount: SPACE, gpaPfn: FIRST_BUFFER });
  }

  get space() {
    return this.guest.device(NIC);
  }

  /** Guest tables change; both hosts' drivers do the same, so that the new one knows what the tables are when it takes over. */
  edit(change: Step): void {
    if (change.kind === "map") {
      const { iovaPfn, pageCount, buffer } = change;
      this.guest.map(1, { iovaPfn, pageCount, gpaPfn: FIRST_BUFFER + buffer });
      for (let n = 0; n < pageCount; n++) this.#mapped.add(iovaPfn + n);
    } else if (change.kind === "unmap") {
      const { iovaPfn, pageCount } = change;
      this.guest.unmap(1, iovaPfn, pageCount);
      for (let n = 0; n < pageCount; n++) this.#mapped.delete(iovaPfn + n);
    }
  }

  /** The guest's tables are announced. */
  announced(): void {
    this.#announced = new Set(this.#mapped);
  }

  /** Whether the device reaches the page at this moment, whatever is under way. */
  staysMapped(iovaPfn: number): boolean {
    return this.#mapped.has(iovaPfn) && this.#announced.has(iovaPfn);
  }

  async flush(): Promise<void> {
    this.guest.registers.domain(1);
    await this.guest.scheduler.idle();
    this.announced();
  }

  frame(pfn: number): Uint8Array {
    const bytes = new Uint8Array(4096);
    this.guest.memory.read(pfn * 4096, bytes);
    return bytes;
  }

  /** Every page of the guest's own table that is a buffer, as a container names them. */
  table(): string[] {
    const out = shadowBlock();
    const pages: string[] = [];
    for (let pfn = 0; pfn < SPACE; pfn++)
      if (this.container.translate(pfn, Access.read, out)) pages.push(`${pfn}:${out.gpaPfn}:${out.access}`);
    return pages;
  }
}

/** A migration from one host to another, with a device that keeps writing. */
class Migration {
  readonly source: Host;
  readonly target: Host;
  /** Buffer frames that were written and not copied since. */
  readonly pending = new Set<number>();
  /** What every byte that was ever written by the device must be. */
  readonly expected = new Map<number, number>();
  /** Writes by the device that reached memory. */
  writes = 0;
  /** Pages that the device could not write although they stay mapped: writes that are missing at the end. */
  readonly refused: number[] = [];
  #count = 0;

  constructor(profile: ContainerProfile, coalescing: Coalescing) {
    this.source = new Host(profile, coalescing);
    this.target = new Host(profile, coalescing);
  }

  async start(): Promise<void> {
    const { guest, notifier } = this.source;
    guest.setRoot();
    guest.enable();
    notifier.attachTo(this.source.space);
    await guest.scheduler.idle();
    await notifier.startDirtyTracking();
    // The first round of every migration: all of memory.
    for (let n = 0; n < BUFFERS; n++) this.copy(FIRST_BUFFER + n);
  }

  /** The device writes a value that nobody wrote before, at a place that changes, through its side's container. */
  dma(host: Host, iovaPfn: number): boolean {
    const out = shadowBlock();
    if (!host.container.translate(iovaPfn, Access.write, out)) {
      if (host.staysMapped(iovaPfn)) this.refused.push(iovaPfn);
      return false;
    }
    const gpa = out.gpaPfn * 4096 + this.place();
    host.guest.memory.write(gpa, Uint8Array.of(this.note(gpa)));
    return true;
  }

  /** An offset for the next write. */
  place(): number {
    this.#count += 1;
    return (this.#count * 37) % 4096;
  }

  /** The value for a write; it must be there at the end. */
  note(gpa: number): number {
    const value = (this.#count * 11) % 251 || 251;
    this.expected.set(gpa, value);
    this.writes += 1;
    return value;
  }

  /** What the device wrote since the last time has to be copied again. */
  async collect(): Promise<void> {
    await this.source.notifier.collectDirty((gpaPfn, pageCount) => {
      for (let n = 0; n < pageCount; n++) this.pending.add(gpaPfn + n);
    });
  }

  /** A round of copying, with the device at work in the middle. */
  async copyRound(meanwhile: () => void): Promise<void> {
    await this.collect();
    const frames = [...this.pending];
    this.pending.clear();
    for (const [index, pfn] of frames.entries()) {
      this.copy(pfn);
      if (index === Math.floor(frames.length / 2)) meanwhile();
    }
  }

  copy(pfn: number): void {
    const bytes = this.source.frame(pfn);
    if (!Buffer.from(bytes).equals(this.target.frame(pfn))) this.target.guest.memory.write(pfn * 4096, bytes);
  }

  /** The device is held; what is left is copied; the unit's state goes over. */
  async switchOver(): Promise<void> {
    await this.collect();
    for (const pfn of this.pending) this.copy(pfn);
    for (const pfn of TABLES) this.copy(pfn);
    const state: unknown = JSON.parse(JSON.stringify(save(this.source.guest.unit)));
    await restore(this.target.guest.unit, state);
  }

  /** The new side's consumer is replayed. The device is held until that is done; then it reaches every page that it reached before. */
  async takeOver(): Promise<void> {
    const { guest, notifier, space } = this.target;
    const attachment = notifier.attachTo(space);
    await guest.scheduler.idle();
    await attachment.ready;
    this.target.announced();
    expect(attachment.state).toBe("active");
    for (let pfn = 0; pfn < SPACE; pfn++) this.dma(this.target, pfn);
  }

  /** The same with a device that does not wait: it is at work from the first slice on. */
  async takeOverAtOnce(): Promise<{ refused: number; reached: number }> {
    const { guest, notifier, space } = this.target;
    const attachment = notifier.attachTo(space);
    let refused = 0;
    let reached = 0;
    for (let turn = 0; attachment.state === "syncing" || turn < 3; turn++) {
      for (let pfn = 0; pfn < SPACE; pfn++) {
        if (this.dma(this.target, pfn)) reached += 1;
        else refused += 1;
      }
      guest.scheduler.turn();
      await Promise.resolve();
    }
    expect(attachment.state).toBe("active");
    return { refused, reached };
  }

  /** Bytes that are not on the new side what the device wrote. */
  lost(): number {
    let lost = 0;
    for (const [gpa, value] of this.expected)
      if (this.target.frame(Math.floor(gpa / 4096))[gpa % 4096] !== value) lost += 1;
    return lost;
  }

  /** What happens while the source is in use. */
  async run(steps: readonly Step[]): Promise<void> {
    for (const each of steps) {
      if (each.kind === "dma") this.dma(this.source, each.iovaPfn);
      else if (each.kind === "copy") await this.copyRound(() => void this.dma(this.source, 3));
      else {
        this.source.edit(each);
        this.target.edit(each);
        // Between the edit and the invalidation the device still reaches the old pages.
        this.dma(this.source, each.iovaPfn);
        await this.source.flush();
      }
    }
  }

  /** What happens when the target has taken over. */
  async goOn(steps: readonly Step[]): Promise<void> {
    for (const each of steps) {
      if (each.kind === "dma") this.dma(this.target, each.iovaPfn);
      else if (each.kind !== "copy") {
        this.target.edit(each);
        this.dma(this.target, each.iovaPfn);
        await this.target.flush();
      }
    }
  }
}

const kinds = [shadow, type1v2, type1, iommufd, vfioUser].flatMap((profile) =>
  (profile === type1v2 ? (["leaf", "aligned", "free"] as const) : (["leaf"] as const)).map(
    (coalescing) => [profile.name, coalescing, profile] as const,
  ),
);

describe.each(kinds)("a device behind a container of kind %s, %s entries", (_, coalescing, profile) => {
  it("is migrated while it writes and the guest remaps: no write is lost", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { minLength: 10, maxLength: 50 }),
        fc.array(step, { maxLength: 15 }),
        async (before, after) => {
          const migration = new Migration(profile, coalescing);
          await migration.start();
          await migration.run(before);
          const table = pagesOf(migration.source.container);
          await migration.switchOver();
          expect(migration.lost()).toBe(0);

          await migration.takeOver();
          expect(pagesOf(migration.target.container)).toEqual(table);
          await migration.goOn(after);

          expect(migration.lost()).toBe(0);
          expect(migration.refused).toEqual([]);
          expect(migration.target.guest.takeFaults()).toEqual([]);
        },
      ),
      { numRuns: 15 },
    );
  });
});

describe("the check itself", () => {
  const busy: readonly Step[] = [
    { kind: "dma", iovaPfn: 2 },
    { kind: "map", iovaPfn: 2, pageCount: 1, buffer: 40 },
    { kind: "dma", iovaPfn: 2 },
  ];

  it("finds writes that nobody tracked", async () => {
    const migration = new Migration(shadow, "leaf");
    await migration.start();
    await migration.source.notifier.stopDirtyTracking();

    await migration.run(busy);
    await migration.switchOver();

    expect(migration.writes).toBe(3);
    expect(migration.lost()).toBe(3);
  });

  it("finds that a write before a remapping counts for the frame it went to", async () => {
    const migration = new Migration(shadow, "leaf");
    await migration.start();

    await migration.run(busy);
    await migration.collect();

    expect([...migration.pending].toSorted((a, b) => a - b)).toEqual([FIRST_BUFFER + 2, FIRST_BUFFER + 40]);
  });

  it("finds writes that were refused to pages which stay mapped", async () => {
    const migration = new Migration(shadow, "leaf");
    await migration.start();
    migration.source.container.unmap(2, 1);

    await migration.run([{ kind: "dma", iovaPfn: 2 }]);

    expect(migration.refused).toEqual([2]);
  });

  it("copies only what was written, where the container knows", async () => {
    const migration = new Migration(shadow, "leaf");
    await migration.start();
    await migration.run([{ kind: "dma", iovaPfn: 7 }, { kind: "copy" }]);
    await migration.collect();

    // The write in the middle of the round.
    expect([...migration.pending]).toEqual([FIRST_BUFFER + 3]);
  });
});

it("a device that does not wait for the replay, which takes several slices, is refused what is not there yet; what it reaches is right", async () => {
  const migration = new Migration(shadow, "leaf");
  await migration.start();
  await migration.switchOver();

  const { refused, reached } = await migration.takeOverAtOnce();

  expect(refused).toBeGreaterThan(0);
  expect(migration.refused).toHaveLength(refused);
  expect(reached).toBeGreaterThan(0);
  expect(migration.lost()).toBe(0);
  expect(migration.target.table()).toEqual(migration.source.table());
});

it("a consumer that is attached before the restore is brought to the same view by differences", async () => {
  const migration = new Migration(shadow, "leaf");
  await migration.start();
  await migration.run([{ kind: "map", iovaPfn: 4, pageCount: 3, buffer: 30 }]);
  const { target, source } = migration;
  const attachment = target.notifier.attachTo(target.space);
  await target.guest.scheduler.idle();

  await migration.collect();
  for (const pfn of TABLES) migration.copy(pfn);
  const done = restore(target.guest.unit, save(source.guest.unit));
  await target.guest.scheduler.idle();
  await done;

  expect(attachment.state).toBe("active");
  // Translation off is the identity mapping: all of it has gone.
  expect(pagesOf(target.container)).toEqual(pagesOf(source.container));
});

it("an emulated device on the same address space is tracked by frame, and migrates with the mirrored one", async () => {
  const migration = new Migration(shadow, "leaf");
  const { source, target } = migration;
  await migration.start();
  const tracker = new DirtyTracker(source.space);
  tracker.start();
  const out = shadowBlock();
  const emulated = (host: Host, iovaPfn: number): void => {
    // Tables and container agree here, so the container says where the write goes.
    expect(host.container.translate(iovaPfn, Access.read, out)).toBe(true);
    const offset = migration.place();
    const value = migration.note(out.gpaPfn * 4096 + offset);
    expect(host.space.dma.write(iovaPfn * 4096 + offset, Uint8Array.of(value))).toBe(true);
  };

  emulated(source, 5);
  migration.dma(source, 6);
  await migration.run([{ kind: "map", iovaPfn: 5, pageCount: 2, buffer: 50 }]);
  emulated(source, 5);
  tracker.collect({ gpa: (pfn, count) => Array.from({ length: count }, (_, n) => migration.pending.add(pfn + n)) });
  await migration.switchOver();
  await migration.takeOver();
  emulated(target, 5);

  expect(migration.lost()).toBe(0);
  expect(migration.refused).toEqual([]);
  expect(migration.writes).toBeGreaterThan(4);
});

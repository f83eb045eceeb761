import { describe, expect, it } from "vitest";
import { BackendIommu, type Limits, sourceId } from "../src/index.js";
import {
  FakeMemory,
  ManualScheduler,
  PageTables,
  RecordingFlushNotifier,
  RecordingNotifier,
  SimpleDomain,
} from "../src/testing/index.js";
import { Machine, range, run } from "./support/machine.js";
import { TableBackend, TableDomain } from "./support/table-backend.js";

describe("slices", () => {
  it("does no more in one call than its slice allows, counted in mappings, and the rest from the event loop", async () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 10 } });
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    for (let i = 0; i < 100; i++) machine.tables.map(i * 512, 1, i);
    const completion = machine.invalidate();
    expect(notifier.pageCount).toBe(10);
    expect(completion).toBeInstanceOf(Promise);
    const perTurn: number[] = [];
    for (let before = 10; machine.scheduler.turn() > 0; before = notifier.pageCount) {
      perTurn.push(notifier.pageCount - before);
    }
    expect(perTurn.filter((count) => count > 0)).toEqual([10, 10, 10, 10, 10, 10, 10, 10, 10]);
    await completion;
    expect(notifier.pageCount).toBe(100);
    expect(notifier.calls.filter(({ type }) => type === "begin" || type === "commit")).toHaveLength(2);
  });

  it("begins anew for each invalidation of a backend that does not say otherwise: many small ones never have to wait", () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 10 } });
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    for (let i = 0; i < 50; i++) {
      machine.tables.map(i * 512, 1, i);
      expect(machine.invalidate(i * 512, 1)).toBeUndefined();
    }
    expect(notifier.pageCount).toBe(50);
  });

  it("is shared by all that a backend does in one access of the guest", () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 10 } });
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    expect(machine.unit.enter()).toBe(true);
    for (let i = 0; i < 10; i++) {
      machine.tables.map(i * 512, 1, i);
      expect(machine.invalidate(i * 512, 1)).toBeUndefined();
    }
    for (let i = 10; i < 13; i++) machine.tables.map(i * 512, 1, i);
    void machine.invalidate();
    expect(notifier.pageCount).toBe(10);
    expect(machine.unit.hub.queue.busy).toBe(true);
    while (machine.scheduler.turn() > 0);
    expect(notifier.pageCount).toBe(13);
    expect(machine.unit.hub.queue.busy).toBe(false);
  });

  it("counts a backend's own commands, and begins anew with the next access", () => {
    const machine = new Machine({ limits: { entriesPerSlice: 3 } });
    for (let access = 0; access < 2; access++) {
      machine.unit.enter();
      expect([1, 2, 3, 4].map(() => machine.unit.spend())).toEqual([true, true, true, false]);
    }
  });

  it("is refused while a notifier is being called", () => {
    const machine = new Machine();
    const entered: boolean[] = [];
    machine.nicSpace.attach(new RecordingNotifier({ onCall: () => entered.push(machine.unit.enter()) }));
    machine.tables.map(0, 1, 5);
    void machine.invalidate();
    expect(entered).toContain(false);
    expect(entered).not.toContain(true);
    expect(machine.unit.enter()).toBe(true);
  });

  it("counts removals as well", () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 10 } });
    const notifier = new RecordingNotifier();
    for (let i = 0; i < 30; i++) machine.tables.map(i * 512, 1, i);
    machine.nicSpace.attach(notifier);
    while (machine.scheduler.turn() > 0);
    machine.tables.unmap(0, 2 ** 52);
    void machine.invalidate();
    expect(notifier.pageCount).toBe(20);
    while (machine.scheduler.turn() > 0);
    expect(notifier.pageCount).toBe(0);
  });

  it("reads no more table entries in one call than its slice allows, and never starts over", () => {
    const memory = new FakeMemory();
    const tables = new PageTables(memory);
    for (let i = 0; i < 40; i++) tables.map(i * 512, 512, 0x4000 + i * 600);
    const domain = new TableDomain("tables", tables);
    const scheduler = new ManualScheduler();
    const unit = new BackendIommu({
      backend: new TableBackend(domain),
      memory,
      scheduler,
      limits: { entriesPerSlice: 8 * 512 },
    });
    const notifier = new RecordingNotifier();
    unit.addressSpace(sourceId(0, 1, 0)).attach(notifier);
    const perTurn = [domain.entriesRead];
    domain.entriesRead = 0;
    while (scheduler.turn() > 0) {
      perTurn.push(domain.entriesRead);
      domain.entriesRead = 0;
    }
    expect(Math.max(...perTurn)).toBeLessThanOrEqual(8 * 512);
    expect(perTurn.length).toBeLessThanOrEqual(12);
    expect(notifier.pageCount).toBe(40 * 512);
  });

  it("makes progress however small the slices are, with either kind of scan", async () => {
    for (const limits of [
      { entriesPerSlice: 1 },
      { mappingsPerSlice: 1 },
      { entriesPerSlice: 1, mappingsPerSlice: 1 },
    ]) {
      const machine = new Machine({ limits });
      const notifier = new RecordingNotifier();
      for (let i = 0; i < 20; i++) machine.tables.map(i * 300, 3, i * 10);
      machine.tables.map(2 ** 20, 2 ** 20, 0);
      machine.nicSpace.attach(notifier);
      await machine.scheduler.idle();
      expect(notifier.pageCount).toBe(60 + 2 ** 20);
      machine.tables.unmap(0, 2 ** 52);
      void machine.invalidate();
      await machine.scheduler.idle();
      expect(notifier.pageCount).toBe(0);

      const memory = new FakeMemory();
      const tables = new PageTables(memory);
      for (let i = 0; i < 20; i++) tables.map(i * 300, 3, i * 10);
      tables.map(2 ** 18, 2 ** 18, 0, 3, 2 ** 18);
      const scheduler = new ManualScheduler();
      const unit = new BackendIommu({
        backend: new TableBackend(new TableDomain("t", tables)),
        memory,
        scheduler,
        limits,
      });
      const other = new RecordingNotifier();
      unit.addressSpace(0).attach(other);
      await scheduler.idle();
      expect(other.pageCount).toBe(60 + 2 ** 18);
    }
  });

  it("keeps the order of the guest's invalidations across slices", async () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 4 } });
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    for (let i = 0; i < 20; i++) machine.tables.map(i * 512, 1, i);
    const done: string[] = [];
    void Promise.resolve(machine.invalidate()).then(() => done.push("first"));
    machine.tables.unmap(0, 512);
    void Promise.resolve(machine.invalidate(0, 1)).then(() => done.push("second"));
    await machine.scheduler.idle();
    expect(done).toEqual(["first", "second"]);
    expect(notifier.pageCount).toBe(19);
  });

  it("tells UNMAP-only notifiers at once, whatever waits for its slice", () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 4 } });
    machine.nicSpace.attach(new RecordingNotifier());
    const flush = new RecordingFlushNotifier();
    machine.nicSpace.attach(flush);
    for (let i = 0; i < 20; i++) machine.tables.map(i * 512, 1, i);
    void machine.invalidate();
    flush.take();
    void machine.invalidate(7, 1);
    expect(flush.take()).toEqual([range(7, 1)]);
  });
});

describe("a scan that throws", () => {
  it("maps nothing until the next invalidation, tells the host from its event loop, and names no budget", async () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier();
    machine.tables.map(0, 20, 0);
    const attachment = machine.nicSpace.attach(notifier);
    const budget = machine.watch("budget");
    const { scan } = machine.tables;
    machine.tables.scan = () => {
      throw new Error("bus error");
    };
    expect(machine.invalidate(3, 1)).toBeUndefined();
    expect([notifier.pageCount, attachment.state, budget]).toEqual([0, "active", []]);
    await expect(machine.scheduler.idle()).rejects.toThrow("bus error");
    // A newcomer finds the same, and nobody calls that a budget.
    const late = new RecordingNotifier();
    machine.diskSpace.attach(late);
    await expect(machine.scheduler.idle()).rejects.toThrow("bus error");
    expect([late.pageCount, budget]).toEqual([0, []]);
    machine.tables.scan = scan.bind(machine.tables);
    void machine.invalidate(3, 1);
    for (const { held } of [notifier, late].map((one) => ({ held: one.held() }))) expect(held).toEqual([run(0, 20, 0)]);
  });
});

describe("limits that nobody gives", () => {
  it("follow the RAM of the machine, and have a least", () => {
    const limitsOf = (frames: number): Limits =>
      new Machine({ memory: new FakeMemory({ ram: [range(0, frames)] }) }).unit.limits;
    expect(limitsOf(2 ** 24)).toEqual({
      entriesPerSlice: 65_536,
      mappingsPerSlice: 65_536,
      mappingsPerView: 2 ** 26,
      bytesPerView: 2 ** 30,
      tablesPerView: 2 ** 25,
      callsInFlight: 65_536,
      invalidationsInFlight: 64,
      consumerDeadlineMilliseconds: 5000,
      leaseDeadlineMilliseconds: 1000,
    });
    expect(limitsOf(16)).toMatchObject({ mappingsPerView: 2 ** 20, bytesPerView: 2 ** 26, tablesPerView: 2 ** 18 });
    const parts = new FakeMemory({ ram: [range(0, 2 ** 23), range(2 ** 24, 2 ** 23)] });
    expect(new Machine({ memory: parts }).unit.limits.mappingsPerView).toBe(2 ** 26);
  });

  it("follow the regions that devices reach untranslated, where they are larger than RAM", () => {
    const notifier = new RecordingNotifier({ granularity: "block", largestBlock: 1 });
    const beyond = range(2 ** 22, 2 ** 20 + 512);
    const small = new FakeMemory({ ram: [range(0, 16)] });
    const { unit } = new Machine({ memory: small, regions: [range(0, 16), beyond] });
    expect(unit.limits).toMatchObject({ mappingsPerView: 4 * (2 ** 20 + 528), tablesPerView: 2 ** 18 });
    const machine = new Machine({ memory: small, limits: { tablesPerView: 7 } });
    void machine.backend.assign(machine.nic, new SimpleDomain("bypass", { kind: "bypass" }));
    const attachment = machine.nicSpace.attach(notifier);
    void machine.unit.setRegions([range(0, 16), beyond]);
    while (machine.scheduler.turn() > 0);
    expect(machine.unit.limits).toMatchObject({ mappingsPerView: 4 * (2 ** 20 + 528), tablesPerView: 7 });
    expect([attachment.heldPages, attachment.refusedPages]).toEqual([2 ** 20 + 528, 0]);
  });
});

describe("the budget of a view", () => {
  function overBudget(limits: Partial<Limits>) {
    const machine = new Machine({ limits });
    const notifier = new RecordingNotifier();
    const block = new RecordingNotifier({ granularity: "block" });
    const attachments = [machine.nicSpace.attach(notifier), machine.diskSpace.attach(block)];
    const budget = machine.watch("budget");
    return { machine, notifier, block, attachments, budget };
  }

  it("fails closed: everything announced is unmapped, the event says why, and notifiers stay attached", () => {
    const { machine, notifier, block, attachments, budget } = overBudget({ mappingsPerView: 50 });
    machine.tables.map(0, 20, 0);
    void machine.invalidate();
    expect(notifier.pageCount).toBe(20);
    for (let i = 0; i < 100; i++) machine.tables.map(1000 + i * 2, 1, i);
    void machine.invalidate();
    expect(notifier.pageCount).toBe(0);
    expect(block.pageCount).toBe(0);
    expect(budget).toEqual(["budget budget=mappings limit=50", "budget budget=mappings limit=50"]);
    expect(attachments.map(({ state }) => state)).toEqual(["active", "active"]);
    expect(notifier.breaches).toEqual([]);
  });

  it("announces everything again at the guest's next invalidation that finds smaller tables, whatever its range", () => {
    const { machine, notifier, block } = overBudget({ mappingsPerView: 50 });
    machine.tables.map(0, 20, 0);
    for (let i = 0; i < 100; i++) machine.tables.map(1000 + i * 2, 1, i);
    void machine.invalidate();
    expect(notifier.pageCount).toBe(0);
    void machine.invalidate(5, 1);
    expect(notifier.pageCount).toBe(0);
    machine.tables.unmap(1000, 500);
    void machine.invalidate(5, 1);
    expect(notifier.held()).toEqual([run(0, 20, 0)]);
    expect(block.held()).toEqual([run(0, 20, 0)]);
  });

  it("counts a superpage as one mapping, and bounds memory as well", () => {
    const { machine, notifier, budget } = overBudget({ mappingsPerView: 50 });
    machine.tables.map(0, 2 ** 27, 0);
    void machine.invalidate();
    expect(notifier.pageCount).toBe(2 ** 27);
    expect(budget).toEqual([]);
    const other = overBudget({ bytesPerView: 200_000 });
    for (let i = 0; i < 40; i++) other.machine.tables.map(i * 2 ** 18, 1, i);
    void other.machine.invalidate();
    expect(other.notifier.pageCount).toBe(0);
    expect(other.budget).toHaveLength(2);
  });

  it("ends a pass where it is met, and not only where the slice ends", () => {
    const { machine, notifier, budget } = overBudget({ mappingsPerView: 50, mappingsPerSlice: 100_000 });
    for (let i = 0; i < 20_000; i++) machine.tables.map(i * 512, 1, i);
    void machine.invalidate();
    expect(notifier.pageCount).toBe(0);
    expect(notifier.calls.filter(({ type }) => type === "map")).toHaveLength(51);
    expect(budget).toHaveLength(2);
  });

  it("bounds the tables that one pass reads: a table whose entries all point to itself ends it", async () => {
    const memory = new FakeMemory();
    const tables = new PageTables(memory);
    for (let i = 0; i < 512; i++) memory.pokeEntry(tables.rootPfn * 4096 + i * 8, (tables.rootPfn << 12) | 3, 0);
    const scheduler = new ManualScheduler();
    const domain = new TableDomain("loop", tables);
    const backend = new TableBackend(domain);
    const unit = new BackendIommu({
      backend,
      memory,
      scheduler,
      limits: { tablesPerView: 1000, mappingsPerView: 10_000 },
    });
    const notifier = new RecordingNotifier();
    const space = unit.addressSpace(0);
    let budgets = 0;
    space.events.on("budget", () => (budgets += 1));
    const attachment = space.attach(notifier);
    await scheduler.idle();
    expect(attachment.state).toBe("active");
    expect(budgets).toBe(1);
    expect(notifier.pageCount).toBe(0);
    expect(domain.entriesRead).toBeLessThan(512 * 1200);
    memory.clear(tables.rootPfn);
    tables.map(0, 1, 1);
    void backend.invalidate(range(0, 1));
    await scheduler.idle();
    expect(notifier.held()).toEqual([run(0, 1, 1)]);
  });

  it("takes back what was announced in slices, however small they are", async () => {
    const { machine, notifier, budget } = overBudget({ mappingsPerView: 50, mappingsPerSlice: 3 });
    for (let i = 0; i < 100; i++) machine.tables.map(1000 + i * 600, 1, i);
    let done = false;
    const completion = machine.invalidate();
    void completion?.then(() => (done = true));
    const held: number[] = [];
    for (let turn = 0; turn < 200 && machine.scheduler.turn() > 0; turn++) held.push(notifier.pageCount);
    const most = Math.max(...held);
    expect(most).toBeGreaterThanOrEqual(48);
    // Down again in steps of a slice, never at once.
    expect(held.slice(held.indexOf(most)).every((count, at, all) => at === 0 || (all[at - 1] ?? 0) - count <= 3)).toBe(
      true,
    );
    expect(held.at(-1)).toBe(0);
    await completion;
    expect([done, budget.length]).toEqual([true, 2]);
  });

  it("is met exactly: as many mappings as it says are announced", () => {
    const { machine, notifier, budget } = overBudget({ mappingsPerView: 50 });
    for (let i = 0; i < 50; i++) machine.tables.map(i * 2, 1, i);
    void machine.invalidate();
    expect([notifier.pageCount, budget]).toEqual([50, []]);
  });

  it("unmaps a newcomer's share too, in a view that fails while it joins", () => {
    const machine = new Machine({ limits: { mappingsPerView: 50 } });
    const first = new RecordingNotifier();
    machine.tables.map(0, 5, 0);
    machine.nicSpace.attach(first);
    for (let i = 0; i < 100; i++) machine.tables.map(1000 + i * 2, 1, i);
    const second = new RecordingNotifier();
    machine.diskSpace.attach(second);
    expect([first.pageCount, second.pageCount]).toEqual([0, 0]);
    machine.tables.unmap(1000, 500);
    void machine.invalidate();
    expect(second.held()).toEqual([run(0, 5, 0)]);
    expect(first.held()).toEqual([run(0, 5, 0)]);
  });
});

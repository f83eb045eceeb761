import { describe, expect, it } from "vitest";
import { BackendIommu, type SourceId, sourceId } from "../src/index.js";
import {
  FakeMemory,
  ManualScheduler,
  PageTables,
  RecordingNotifier,
  SimpleBackend,
  SimpleDomain,
} from "../src/testing/index.js";
import { Machine, range, run } from "./support/machine.js";
import { TableBackend, TableDomain } from "./support/table-backend.js";

/** A unit with devices in domains of their own, each with a notifier. */
function devices(count: number, limits: object = {}) {
  const backend = new SimpleBackend();
  const scheduler = new ManualScheduler();
  const unit = new BackendIommu({ backend, memory: new FakeMemory(), scheduler, limits });
  const all = Array.from({ length: count }, (_, i) => {
    const id: SourceId = sourceId(1, i, 0);
    const domain = new SimpleDomain(`domain ${i}`);
    void backend.assign(id, domain);
    const notifier = new RecordingNotifier({ name: `notifier ${i}` });
    const space = unit.addressSpace(id);
    return { id, domain, notifier, space, attachment: space.attach(notifier) };
  });
  return { backend, scheduler, unit, all };
}

describe("an invalidation of many domains", () => {
  it("reaches the notifiers of all of them", () => {
    const { backend, all } = devices(3);
    for (const [i, { domain }] of all.entries()) domain.map(i, 1, 10 + i);
    expect(backend.invalidateAll()).toBeUndefined();
    expect(all.map(({ notifier }) => notifier.held())).toEqual([[run(0, 1, 10)], [run(1, 1, 11)], [run(2, 1, 12)]]);
  });

  it.each([{ mappingsPerSlice: 1 }, { entriesPerSlice: 1 }])(
    "takes a slice for each where a slice is no more: %o",
    async (limits) => {
      const { backend, scheduler, all } = devices(20, limits);
      for (const { domain } of all) domain.map(0, 1, 7);
      const told = (): number => all.filter(({ notifier }) => notifier.take().length > 0).length;
      told();
      void backend.invalidateAll();
      const turns = [told()];
      while (scheduler.turn() > 0) turns.push(told());
      await scheduler.idle();
      expect(Math.max(...turns)).toBe(1);
      expect(turns.reduce((sum, each) => sum + each, 0)).toBe(20);
      for (const { notifier } of all) expect(notifier.held()).toEqual([run(0, 1, 7)]);
    },
  );

  it("does not reach those that have failed, and reads no tables for a view in which nobody is left", () => {
    const memory = new FakeMemory();
    const tables = new PageTables(memory);
    const domain = new TableDomain("tables", tables);
    const backend = new TableBackend(domain);
    const unit = new BackendIommu({ backend, memory, scheduler: new ManualScheduler() });
    const broken = new RecordingNotifier({ steps: false });
    const attachment = unit.addressSpace(1).attach(broken);
    broken.map = () => {
      throw new Error("no");
    };
    tables.map(0, 1, 5);
    void backend.invalidate(range(0, 2 ** 36));
    expect(attachment.state).toBe("failed");
    void backend.invalidate(range(0, 2 ** 36));
    const before = domain.entriesRead;
    tables.map(1, 1, 5);
    void backend.invalidate(range(0, 2 ** 36));
    expect(domain.entriesRead).toBe(before);
  });
});

describe("devices that share a view", () => {
  it("have their tables read once, also after some of them have left and others have come", () => {
    const memory = new FakeMemory();
    const tables = new PageTables(memory);
    const domain = new TableDomain("tables", tables);
    const backend = new TableBackend(domain);
    const unit = new BackendIommu({ backend, memory, scheduler: new ManualScheduler() });
    tables.map(0, 1, 5);
    const notifiers = [0, 1, 2, 3].map(() => new RecordingNotifier());
    const attach = (i: number) => unit.addressSpace(i).attach(notifiers[i]!);
    const readBy = (act: () => unknown): number => {
      const before = domain.entriesRead;
      act();
      return domain.entriesRead - before;
    };
    const first = attach(0);
    const once = readBy(() => backend.invalidate(range(0, 1)));
    const others = [attach(1), attach(2)];
    void others[0]?.detach();
    void first.detach();
    attach(3);
    tables.map(0, 1, 6);
    expect(readBy(() => backend.invalidate(range(0, 1)))).toBe(once);
    for (const i of [2, 3]) expect(notifiers[i]?.held()).toEqual([run(0, 1, 6)]);
    for (const i of [0, 1]) expect(notifiers[i]?.held()).toEqual([]);
    expect([...unit.hub.views]).toHaveLength(1);
  });

  it("have the events of a newcomer's replay enclosed for those who hear what had been pending", () => {
    const machine = new Machine();
    const early = new RecordingNotifier();
    machine.nicSpace.attach(early);
    machine.tables.map(0, 1, 5);
    expect(early.calls).toEqual([]);
    machine.diskSpace.attach(new RecordingNotifier());
    expect(early.calls.map(({ type }) => type)).toEqual(["begin", "map", "commit"]);
  });

  it("have what was mapped told in unmap events while one of them has its writes tracked", () => {
    const machine = new Machine();
    for (const space of [machine.nicSpace, machine.diskSpace]) space.attach(new RecordingNotifier());
    machine.tables.map(0, 2, 100);
    void machine.invalidate();
    const seen = machine.watch("unmap");
    machine.diskSpace.onWrite = () => undefined;
    machine.tables.unmap(1, 1);
    void machine.invalidate();
    expect(seen).toEqual(Array.from({ length: 2 }, () => "unmap iovaPfn=1 pageCount=1 gpaPfn=101 access=3"));
  });
});

describe("a notifier of several devices that the guest has put into different domains", () => {
  it("holds nothing until those that are left agree, whoever leaves", () => {
    const { backend, unit, all } = devices(4);
    const shared = new RecordingNotifier();
    const home = new SimpleDomain("home");
    home.map(0, 4, 50);
    for (const { id } of all) void backend.assign(id, home);
    const attachments = all.slice(0, 3).map(({ space }) => space.attach(shared));
    expect(shared.pageCount).toBe(4);
    for (const { id, domain } of all) {
      domain.map(9, 1, 90);
      void backend.assign(id, domain);
    }
    expect(shared.held()).toEqual([]);
    void attachments[0]?.detach();
    expect(shared.held()).toEqual([]);
    expect([...unit.hub.views].length).toBe(4);
    void attachments[1]?.detach();
    expect(shared.held()).toEqual([run(9, 1, 90)]);
    expect(attachments[2]?.state).toBe("active");
    shared.check();
  });
});

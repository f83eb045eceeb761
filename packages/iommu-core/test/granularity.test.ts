import { describe, expect, it } from "vitest";
import { BackendIommu, type MapReports, sourceId } from "../src/index.js";
import { FakeMemory, ManualScheduler, PageTables, RecordingNotifier } from "../src/testing/index.js";
import { Machine, range, run } from "./support/machine.js";
import { TableBackend, TableDomain } from "./support/table-backend.js";

/** A block notifier on tables in guest memory, with the windows that were reported. */
function blockMachine(options: { replace?: boolean; largestBlock?: number } = {}) {
  const memory = new FakeMemory();
  const tables = new PageTables(memory);
  const backend = new TableBackend(new TableDomain("tables", tables));
  const unit = new BackendIommu({ backend, memory, scheduler: new ManualScheduler() });
  const space = unit.addressSpace(sourceId(0, 3, 0));
  const notifier = new RecordingNotifier({ granularity: "block", ...options });
  const windows: string[] = [];
  space.events.on("window", ({ iovaPfn, pageCount }) => windows.push(`${iovaPfn}+${pageCount}`));
  return {
    tables,
    space,
    notifier,
    windows,
    attach: () => space.attach(notifier),
    sync: (firstPfn = 0, pageCount = 2 ** 36) => void backend.invalidate(range(firstPfn, pageCount)),
  };
}

describe("a block notifier", () => {
  it("gets table entries as naturally aligned blocks of their size", () => {
    const { tables, notifier, attach } = blockMachine();
    tables.map(2 ** 18, 2 ** 18, 2 ** 20, 3, 2 ** 18);
    tables.map(512, 512, 1024, 3, 512);
    tables.map(3, 2, 100);
    attach();
    expect(notifier.take()).toEqual([
      "map 0x3+1 -> 0x64 rw",
      "map 0x4+1 -> 0x65 rw",
      "map 0x200+512 -> 0x400 rw",
      "map 0x40000+262144 -> 0x100000 rw",
    ]);
  });

  it("is only asked to unmap whole blocks: a cut block goes, the rest is put back and reported", () => {
    const { tables, notifier, windows, attach, sync } = blockMachine();
    tables.map(512, 512, 1024, 3, 512);
    attach();
    notifier.take();
    tables.unmap(700, 2);
    sync(700, 2);
    const calls = notifier.take();
    expect(calls[0]).toBe("unmap 0x200+512");
    expect(calls).toHaveLength(1 + 510);
    expect(notifier.held()).toEqual([run(512, 188, 1024), run(702, 322, 1214)]);
    expect(windows).toEqual(["512+188", "702+322"]);
    expect(notifier.breaches).toEqual([]);
  });

  it("loses no page of a cut block for longer than the one call, and is told of each changed page once", () => {
    const { tables, notifier, windows, attach, sync } = blockMachine();
    tables.map(512, 512, 1024, 3, 512);
    attach();
    notifier.take();
    tables.unmap(512, 1);
    tables.map(520, 1, 9000);
    tables.map(530, 1, 1042, 1);
    sync();
    const calls = notifier.take();
    expect(calls.filter((call) => call.startsWith("unmap"))).toEqual(["unmap 0x200+512"]);
    expect(calls).toHaveLength(1 + 511);
    expect(notifier.lookup(520)).toEqual({ gpaPfn: 9000, access: 3 });
    expect(notifier.lookup(530)).toEqual({ gpaPfn: 1042, access: 1 });
    expect(windows).toEqual(["513+511"]);
  });

  it("keeps the far parts of a cut 1 GiB block in blocks of 2 MiB", () => {
    const { tables, notifier, windows, attach, sync } = blockMachine();
    tables.map(0, 2 ** 18, 2 ** 18, 3, 2 ** 18);
    attach();
    notifier.take();
    tables.unmap(512, 512);
    sync(512, 512);
    expect(notifier.entries).toHaveLength(511);
    expect(notifier.held()).toEqual([run(0, 512, 2 ** 18), run(1024, 2 ** 18 - 1024, 2 ** 18 + 1024)]);
    expect(windows).toEqual(["0+512", `1024+${2 ** 18 - 1024}`]);
  });

  it("puts back what is announced at that moment: the parts behind the pass are as they were, and are told later", () => {
    const { tables, notifier, attach, sync } = blockMachine();
    tables.map(0, 2 ** 18, 2 ** 18, 3, 2 ** 18);
    attach();
    notifier.take();
    tables.unmap(0, 1);
    tables.unmap(100_000, 1);
    tables.map(200_192, 512, 2 ** 20, 3, 512);
    sync();
    expect(notifier.lookup(0)).toBeUndefined();
    expect(notifier.lookup(100_000)).toBeUndefined();
    expect(notifier.lookup(200_200)).toEqual({ gpaPfn: 2 ** 20 + 8, access: 3 });
    expect(notifier.pageCount).toBe(2 ** 18 - 2);
    expect(notifier.take().filter((call) => call.startsWith("unmap"))).toEqual([
      "unmap 0x0+262144",
      "unmap 0x18600+512",
      "unmap 0x30e00+512",
    ]);
  });

  it("gets a changed block as one replace where it can do that, whatever the other blocks do", () => {
    const { tables, notifier, windows, attach, sync } = blockMachine({ replace: true });
    tables.map(0, 4, 100);
    tables.map(512, 512, 1024, 3, 512);
    attach();
    notifier.take();
    tables.map(0, 4, 200);
    tables.map(512, 512, 4096, 3, 512);
    sync();
    expect(notifier.take()).toEqual([
      "replace 0x0+1 -> 0xc8 rw",
      "replace 0x1+1 -> 0xc9 rw",
      "replace 0x2+1 -> 0xca rw",
      "replace 0x3+1 -> 0xcb rw",
      "replace 0x200+512 -> 0x1000 rw",
    ]);
    expect(windows).toEqual([]);
  });

  it("sees no window if its largest block is one page", () => {
    const { tables, notifier, windows, attach, sync } = blockMachine({ largestBlock: 1, replace: true });
    tables.map(512, 512, 1024, 3, 512);
    attach();
    notifier.take();
    tables.unmap(700, 2);
    tables.map(800, 3, 9000);
    sync();
    expect(notifier.take()).toEqual([
      "unmap 0x2bc+1",
      "unmap 0x2bd+1",
      "replace 0x320+1 -> 0x2328 rw",
      "replace 0x321+1 -> 0x2329 rw",
      "replace 0x322+1 -> 0x232a rw",
    ]);
    expect(windows).toEqual([]);
  });

  it("handles the removal of 1 GiB and larger blocks without looking at single frames", () => {
    const machine = new Machine();
    machine.tables.map(0, 2 ** 27, 0);
    const notifier = new RecordingNotifier({ granularity: "block", supports: (gpaPfn) => gpaPfn < 2 ** 30 });
    machine.nicSpace.attach(notifier);
    machine.tables.map(2 ** 27, 2 ** 27, 2 ** 31);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["map 0x0+134217728 -> 0x0 rw", "map 0x8000000+134217728 -> 0x80000000 rw"]);
    machine.tables.unmap(0, 2 ** 52);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["unmap 0x0+134217728"]);
  });

  it("is refused if its largest block is not a power of two", () => {
    const machine = new Machine();
    for (const largestBlock of [0, 3, -1, 0.5, Number.NaN]) {
      expect(() => machine.nicSpace.attach(new RecordingNotifier({ largestBlock }))).toThrow(
        /expected a largest block that is a power of two/,
      );
    }
    expect(machine.nicSpace.attachments).toEqual([]);
  });
});

describe("a full consumer", () => {
  it("is offered again what it refused as soon as entries free up, in the same invalidation", () => {
    for (const granularity of ["page", "block"] as const) {
      const machine = new Machine();
      const notifier = new RecordingNotifier({ capacity: 2, granularity });
      const attachment = machine.nicSpace.attach(notifier);
      for (const pfn of [0, 10, 20, 30]) machine.tables.map(pfn, 1, 100 + pfn);
      const refused = machine.watch("refused");
      void machine.invalidate();
      expect(notifier.held()).toEqual([run(0, 1, 100), run(10, 1, 110)]);
      expect(attachment.refusedPages).toBe(2);
      expect(attachment.heldPages).toBe(2);
      expect(refused).toEqual([
        "refused iovaPfn=20 pageCount=1 gpaPfn=120 answer=full",
        "refused iovaPfn=30 pageCount=1 gpaPfn=130 answer=full",
      ]);
      machine.tables.unmap(0, 1);
      void machine.invalidate();
      expect(notifier.held()).toEqual([run(10, 1, 110), run(20, 1, 120)]);
      machine.tables.unmap(10, 20);
      void machine.invalidate();
      expect(notifier.held()).toEqual([run(30, 1, 130)]);
      expect(attachment.refusedPages).toBe(0);
      expect(notifier.breaches).toEqual([]);
    }
  });

  it("takes an addition that comes before the removal which makes room for it", () => {
    const machine = new Machine();
    machine.tables.map(5000, 1, 1);
    const notifier = new RecordingNotifier({ capacity: 1 });
    machine.nicSpace.attach(notifier);
    machine.tables.unmap(5000, 1);
    machine.tables.map(0, 1, 2);
    void machine.invalidate();
    expect(notifier.held()).toEqual([run(0, 1, 2)]);
  });

  it("is not asked to unmap what it refused, and never offered what the guest has unmapped since", () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier({ capacity: 1 });
    const attachment = machine.nicSpace.attach(notifier);
    machine.tables.map(0, 1, 1);
    machine.tables.map(10, 4, 10);
    void machine.invalidate();
    machine.tables.unmap(11, 2);
    void machine.invalidate();
    expect(attachment.refusedPages).toBe(2);
    notifier.take();
    machine.tables.unmap(0, 14);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["unmap 0x0+1"]);
    expect(attachment.refusedPages).toBe(0);
  });

  it("is offered the new target, not the refused one, after a change", () => {
    for (const granularity of ["page", "block"] as const) {
      const machine = new Machine();
      const notifier = new RecordingNotifier({ capacity: 1, granularity });
      machine.nicSpace.attach(notifier);
      machine.tables.map(0, 1, 1);
      machine.tables.map(10, 1, 10);
      void machine.invalidate();
      machine.tables.map(10, 1, 50);
      void machine.invalidate();
      notifier.capacity = 5;
      machine.tables.unmap(0, 1);
      void machine.invalidate();
      expect(notifier.held()).toEqual([run(10, 1, 50)]);
    }
  });

  it("is offered again on request, when entries freed up for reasons of its own", () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier({ capacity: 1 });
    const attachment = machine.nicSpace.attach(notifier);
    machine.tables.map(0, 1, 1);
    machine.tables.map(10, 1, 10);
    void machine.invalidate();
    notifier.capacity = 5;
    attachment.retry();
    expect(notifier.pageCount).toBe(2);
    expect(attachment.refusedPages).toBe(0);
  });

  it("that finds room while it is told something is offered again what it refused in the same invalidation", () => {
    const machine = new Machine();
    const calls: string[] = [];
    let reports: MapReports | undefined;
    let room = 1;
    machine.nicSpace.attach({
      kind: "map",
      granularity: "page",
      reportTo: (own) => (reports = own),
      begin: () => void calls.push("begin"),
      commit: () => void calls.push("commit"),
      map: (iovaPfn) => {
        calls.push(`map ${iovaPfn}`);
        if (iovaPfn === 20) {
          room = 2;
          reports?.retry();
        }
        return --room < 0 ? "full" : undefined;
      },
      unmap: () => undefined,
    });
    machine.tables.map(0, 1, 100);
    machine.tables.map(10, 1, 110);
    void machine.invalidate();
    expect(calls.splice(0)).toEqual(["begin", "map 0", "map 10", "commit"]);
    machine.tables.map(20, 1, 120);
    void machine.invalidate();
    expect(calls).toEqual(["begin", "map 20", "map 10", "commit"]);
  });

  it("is not offered again what it cannot hold at all", () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier({ supports: (gpaPfn) => gpaPfn < 1000 });
    const attachment = machine.nicSpace.attach(notifier);
    const refused = machine.watch("refused");
    machine.tables.map(0, 1, 1);
    machine.tables.map(10, 1, 5000);
    void machine.invalidate();
    attachment.retry();
    machine.tables.unmap(0, 1);
    void machine.invalidate();
    expect(refused).toEqual(["refused iovaPfn=10 pageCount=1 gpaPfn=5000 answer=unsupported"]);
    expect(attachment.state).toBe("active");
    expect(attachment.refusedPages).toBe(1);
    machine.tables.map(10, 1, 20);
    void machine.invalidate();
    expect(notifier.held()).toEqual([run(10, 1, 20)]);
    expect(attachment.refusedPages).toBe(0);
  });

  it("holds neither target after it refused a replace", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 1);
    const notifier = new RecordingNotifier({ replace: true, supports: (gpaPfn) => gpaPfn < 1000 });
    const attachment = machine.nicSpace.attach(notifier);
    machine.tables.map(0, 1, 5000);
    void machine.invalidate();
    expect(attachment.heldPages).toBe(0);
    notifier.take();
    machine.tables.map(0, 1, 2);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["map 0x0+1 -> 0x2 rw"]);
    expect(attachment.heldPages).toBe(1);
  });
});

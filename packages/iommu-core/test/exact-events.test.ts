import { describe, expect, it } from "vitest";
import { BackendIommu, DirtyTracker, sourceId } from "../src/index.js";
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

/** One device whose tables are real ones in guest memory. */
function tableMachine(levels = 4) {
  const memory = new FakeMemory();
  const tables = new PageTables(memory, { levels });
  const backend = new TableBackend(new TableDomain("tables", tables));
  const unit = new BackendIommu({ backend, memory, scheduler: new ManualScheduler() });
  return { memory, tables, backend, unit, space: unit.addressSpace(sourceId(0, 3, 0)) };
}

/** The same edits on a backend that reports runs ... */
function simpleEditor() {
  const machine = new Machine();
  return {
    space: machine.nicSpace,
    edit: (pfn: number, gpaPfn: number | undefined) =>
      gpaPfn === undefined ? machine.tables.unmap(pfn, 1) : machine.tables.map(pfn, 1, gpaPfn),
    invalidate: () => void machine.invalidate(),
  };
}

/** ... and on one that reports whole leaf tables. */
function tableEditor() {
  const { tables, backend, space } = tableMachine();
  return {
    space,
    edit: (pfn: number, gpaPfn: number | undefined) =>
      gpaPfn === undefined ? tables.unmap(pfn, 1) : tables.map(pfn, 1, gpaPfn),
    invalidate: () => void backend.invalidate(range(0, 2 ** 36)),
  };
}

describe("what a MAP notifier is told", () => {
  it("hears what is mapped when it attaches, and nothing else", () => {
    const machine = new Machine();
    machine.tables.map(0x10, 2, 0x100);
    machine.tables.map(0x12, 1, 0x200, 1);
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    expect(notifier.take()).toEqual(["map 0x10+2 -> 0x100 rw", "map 0x12+1 -> 0x200 r-"]);
  });

  it("hears only the difference after an invalidation", () => {
    const machine = new Machine();
    machine.tables.map(0x10, 4, 0x100);
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    notifier.take();
    machine.tables.unmap(0x11, 1);
    machine.tables.map(0x20, 1, 0x300);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["unmap 0x11+1", "map 0x20+1 -> 0x300 rw"]);
    expect(notifier.held()).toEqual([run(0x10, 1, 0x100), run(0x12, 2, 0x102), run(0x20, 1, 0x300)]);
  });

  it("hears nothing of an invalidation that finds no difference", () => {
    const machine = new Machine();
    machine.tables.map(0x10, 600, 0x100);
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    notifier.calls.length = 0;
    void machine.invalidate();
    expect(notifier.calls).toEqual([]);
  });

  it("hears nothing of an edit outside the invalidated range", () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    machine.tables.map(0x10, 4, 0x100);
    void machine.invalidate(0x11, 2);
    expect(notifier.take()).toEqual(["map 0x11+2 -> 0x101 rw"]);
  });

  it("gets removals, then changes, then additions within one leaf table", () => {
    for (const { edit, invalidate, space } of [simpleEditor(), tableEditor()]) {
      edit(0x10, 0x100);
      edit(0x20, 0x200);
      const notifier = new RecordingNotifier();
      space.attach(notifier);
      notifier.take();
      edit(0x08, 0x400);
      edit(0x10, 0x500);
      edit(0x20, undefined);
      invalidate();
      expect(notifier.take()).toEqual([
        "unmap 0x20+1",
        "unmap 0x10+1",
        "map 0x10+1 -> 0x500 rw",
        "map 0x8+1 -> 0x400 rw",
      ]);
    }
  });

  it("gets leaf tables in ascending order", () => {
    const machine = new Machine();
    machine.tables.map(512, 1, 1);
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    notifier.take();
    machine.tables.unmap(512, 1);
    machine.tables.map(0, 1, 2);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["map 0x0+1 -> 0x2 rw", "unmap 0x200+1"]);
  });

  it("hears of a change of rights alone, as an unmap directly followed by a map", () => {
    const machine = new Machine();
    machine.tables.map(0x10, 2, 0x100, 1);
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    const windows = machine.watch("window");
    notifier.take();
    machine.tables.map(0x11, 1, 0x101, 3);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["unmap 0x11+1", "map 0x11+1 -> 0x101 rw"]);
    expect(windows).toEqual(["window iovaPfn=17 pageCount=1"]);
  });

  it("gets a change as one replace where it can do that, and no window is reported", () => {
    const machine = new Machine();
    machine.tables.map(0x10, 4, 0x100);
    const notifier = new RecordingNotifier({ replace: true });
    machine.nicSpace.attach(notifier);
    const windows = machine.watch("window");
    notifier.take();
    machine.tables.map(0x11, 2, 0x500, 1);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["replace 0x11+2 -> 0x500 r-"]);
    expect(windows).toEqual([]);
  });

  it("is never told more pages at once than its largest block, in maps, changes and retries", () => {
    const machine = new Machine();
    machine.tables.map(0, 1024, 0x1000);
    const notifier = new RecordingNotifier({ largestBlock: 8 });
    const swapping = new RecordingNotifier({ largestBlock: 8, replace: true });
    const attached = [machine.nicSpace.attach(notifier), machine.nicSpace.attach(swapping)];
    machine.tables.map(4, 20, 0x9000);
    machine.tables.map(512, 512, 0xa000);
    void machine.invalidate();
    expect(attached.map((attachment) => attachment.failure)).toEqual([undefined, undefined]);
    expect(notifier.held()).toEqual([
      run(0, 4, 0x1000),
      run(4, 20, 0x9000),
      run(24, 488, 0x1018),
      run(512, 512, 0xa000),
    ]);
    expect(swapping.held()).toEqual(notifier.held());
  });

  it("gets begin before the events of one invalidation and commit behind them, once each", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 1);
    machine.tables.map(600, 1, 1);
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    expect(notifier.calls.map((call) => call.type)).toEqual(["begin", "map", "map", "commit"]);
    notifier.calls.length = 0;
    machine.tables.unmap(600, 1);
    void machine.invalidate();
    expect(notifier.calls.map((call) => call.type)).toEqual(["begin", "unmap", "commit"]);
  });

  it("works without begin and commit", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 1);
    const notifier = new RecordingNotifier({ steps: false });
    machine.nicSpace.attach(notifier);
    expect(notifier.calls.map((call) => call.type)).toEqual(["map"]);
  });

  it("is told addresses above 2^32 frames and targets above 2^31 frames exactly", () => {
    const machine = new Machine();
    machine.tables.map(2 ** 45 - 1, 2, 2 ** 39 - 1);
    machine.tables.map(2 ** 52 - 1, 1, 2 ** 31 + 5, 2);
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    expect(notifier.held()).toEqual([run(2 ** 45 - 1, 2, 2 ** 39 - 1), run(2 ** 52 - 1, 1, 2 ** 31 + 5, 2)]);
    machine.tables.unmap(0, 2 ** 52);
    void machine.invalidate();
    expect(notifier.held()).toEqual([]);
  });
});

describe("large pages", () => {
  it("causes no event when a 2 MiB leaf is rewritten as 512 equal 4 KiB leaves, and none on the way back", () => {
    for (const granularity of ["page", "block"] as const) {
      const { tables, backend, space } = tableMachine();
      tables.map(1024, 512, 2048, 3, 512);
      const notifier = new RecordingNotifier({ granularity });
      space.attach(notifier);
      expect(notifier.take()).toEqual(["map 0x400+512 -> 0x800 rw"]);
      tables.split(1024);
      void backend.invalidate(range(1024, 512));
      void backend.invalidate(range(0, 2 ** 36));
      tables.map(1024, 512, 2048, 3, 512);
      void backend.invalidate(range(1024, 512));
      expect(notifier.take()).toEqual([]);
      tables.unmap(1024, 512);
      void backend.invalidate(range(0, 2 ** 36));
      expect(notifier.take()).toEqual(["unmap 0x400+512"]);
      notifier.end();
    }
  });

  it("causes no event when a 1 GiB leaf is rewritten in 2 MiB leaves", () => {
    const { tables, backend, space } = tableMachine();
    tables.map(2 ** 18, 2 ** 18, 2 ** 20, 3, 2 ** 18);
    const notifier = new RecordingNotifier();
    space.attach(notifier);
    notifier.take();
    tables.split(2 ** 18);
    void backend.invalidate(range(0, 2 ** 36));
    expect(notifier.take()).toEqual([]);
    tables.unmap(2 ** 18 + 512, 512);
    void backend.invalidate(range(2 ** 18 + 512, 512));
    expect(notifier.take()).toEqual([`unmap 0x40200+512`]);
  });

  it("hears of a 2 MiB leaf whose rights alone, or whose target alone, change", () => {
    const { tables, backend, space } = tableMachine();
    tables.map(512, 512, 512, 3, 512);
    const notifier = new RecordingNotifier({ replace: true });
    space.attach(notifier);
    notifier.take();
    tables.map(512, 512, 512, 1, 512);
    void backend.invalidate(range(512, 512));
    tables.map(512, 512, 1024, 1, 512);
    void backend.invalidate(range(512, 512));
    expect(notifier.take()).toEqual(["replace 0x200+512 -> 0x200 r-", "replace 0x200+512 -> 0x400 r-"]);
  });

  it("hears of a target that moves by a multiple of 4 GiB: only the high word of the entry changes", () => {
    const { tables, backend, space } = tableMachine();
    tables.map(0, 1, 5);
    const notifier = new RecordingNotifier({ replace: true });
    space.attach(notifier);
    notifier.take();
    tables.map(0, 1, 2 ** 20 + 5);
    void backend.invalidate(range(0, 1));
    expect(notifier.take()).toEqual(["replace 0x0+1 -> 0x100005 rw"]);
  });

  it("hears of a change in either word of any one entry of a table, and in no other", () => {
    const { tables, backend, space } = tableMachine();
    tables.map(0, 512, 5000);
    const notifier = new RecordingNotifier({ replace: true });
    space.attach(notifier);
    notifier.take();
    const entries = [...Array.from({ length: 18 }, (_, i) => i), 100, 495, 496, 503, 510, 511];
    for (const pfn of entries) {
      for (const target of [5000 + pfn + 1, 5000 + pfn + 1 + 2 ** 20]) {
        tables.map(pfn, 1, target);
        void backend.invalidate(range(0, 512));
        expect(notifier.take()).toEqual([`replace 0x${pfn.toString(16)}+1 -> 0x${target.toString(16)} rw`]);
      }
    }
    void backend.invalidate(range(0, 512));
    expect(notifier.take()).toEqual([]);
  });

  it("hears of any one entry that appears in a table that is empty but for another, and of its end", () => {
    const { tables, backend, space } = tableMachine();
    tables.map(0, 2, 5000);
    tables.map(512 + 100, 1, 700);
    const notifier = new RecordingNotifier();
    space.attach(notifier);
    notifier.take();
    const entries = [...Array.from({ length: 18 }, (_, i) => i), 495, 496, 503, 510, 511];
    for (const pfn of entries.map((entry) => 512 + entry)) {
      for (const target of [0, 2 ** 20]) {
        tables.map(pfn, 1, target, 1);
        void backend.invalidate(range(512, 512));
        tables.unmap(pfn, 1);
        void backend.invalidate(range(512, 512));
        const at = `0x${pfn.toString(16)}+1`;
        expect(notifier.take()).toEqual([`map ${at} -> 0x${target.toString(16)} r-`, `unmap ${at}`]);
      }
    }
  });

  it("hears of as many pages at once as it takes, whether they are aligned or not", () => {
    const machine = new Machine();
    machine.tables.map(1, 4, 101);
    machine.tables.map(33, 3, 201);
    const notifier = new RecordingNotifier({ largestBlock: 4 });
    machine.nicSpace.attach(notifier);
    expect(notifier.take()).toEqual(["map 0x1+4 -> 0x65 rw", "map 0x21+3 -> 0xc9 rw"]);
  });

  it("hears of a 1 GiB leaf that appears in front of another mapping, and of one that goes elsewhere, in one event each", () => {
    const { tables, backend, space } = tableMachine();
    tables.map(2 ** 18, 1, 9);
    const notifier = new RecordingNotifier({ replace: true });
    space.attach(notifier);
    notifier.take();
    for (const [target, access] of [
      [2 ** 20, 3],
      [2 ** 21, 3],
      [2 ** 21, 1],
    ] as const) {
      tables.map(0, 2 ** 18, target, access, 2 ** 18);
      void backend.invalidate(range(0, 2 ** 36));
    }
    expect(notifier.take()).toEqual([
      "map 0x0+262144 -> 0x100000 rw",
      "replace 0x0+262144 -> 0x200000 rw",
      "replace 0x0+262144 -> 0x200000 r-",
    ]);
  });

  it("are held as one mapping of a view, also when they were small ones before or are told in smaller ones", () => {
    const { tables, backend, unit, space } = tableMachine();
    space.attach(new RecordingNotifier());
    const slots = (): number => {
      void backend.invalidate(range(0, 2 ** 36));
      return [...unit.hub.views].reduce((sum, { tree }) => sum + tree.slotCount, 0);
    };
    tables.map(512, 512, 1024);
    expect(slots()).toBe(512);
    tables.map(512, 512, 1024, 3, 512);
    expect(slots()).toBe(1);
    tables.map(2 ** 18, 2 ** 18, 2 ** 20, 3, 2 ** 18);
    expect(slots()).toBe(2);
    tables.split(2 ** 18);
    expect(slots()).toBe(2);
    tables.unmap(2 ** 18, 512);
    expect(slots()).toBe(1 + 511);
  });

  it("map nothing where a backend reports a run without rights", () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    machine.tables.map(0, 600, 5);
    machine.tables.map(600, 2, 5000, 0);
    machine.tables.map(1024, 512, 1024, 0);
    void machine.invalidate();
    expect(notifier.held()).toEqual([run(0, 600, 5)]);
  });

  it("is told neighbouring leaves in one event only if their targets are consecutive and their rights equal", () => {
    const { tables, space } = tableMachine();
    tables.map(0, 2, 100);
    tables.map(2, 1, 200);
    tables.map(3, 1, 201, 1);
    tables.map(4, 1, 202, 1);
    tables.map(5, 1, 202 + 2 ** 20, 1);
    const notifier = new RecordingNotifier();
    space.attach(notifier);
    expect(notifier.take()).toEqual([
      "map 0x0+2 -> 0x64 rw",
      "map 0x2+1 -> 0xc8 rw",
      "map 0x3+2 -> 0xc9 r-",
      "map 0x5+1 -> 0x1000ca r-",
    ]);
  });

  it("tells one frame when one of 512 leaves under a former large page changes", () => {
    const { tables, backend, space } = tableMachine();
    tables.map(512, 512, 512, 3, 512);
    const notifier = new RecordingNotifier();
    space.attach(notifier);
    notifier.take();
    tables.unmap(700, 1);
    void backend.invalidate(range(700, 1));
    expect(notifier.take()).toEqual(["unmap 0x2bc+1"]);
  });

  it("reads each table once in a sync, and decodes nothing that has not changed", () => {
    const { tables, backend, space } = tableMachine();
    for (let i = 0; i < 20; i++) tables.map(i * 512, 512, 0x4000 + i * 1024, 3);
    const notifier = new RecordingNotifier();
    space.attach(notifier);
    notifier.take();
    backend.domain.entriesRead = 0;
    tables.unmap(5000, 1);
    void backend.invalidate(range(0, 2 ** 36));
    expect(notifier.take()).toEqual(["unmap 0x1388+1"]);
    expect(backend.domain.entriesRead).toBe(512 * (20 + 3));
  });

  it("unmaps what an unreadable table described (fails closed), and maps it again when it can be read", () => {
    const { memory, tables, backend, space } = tableMachine();
    tables.map(0, 3, 0x100);
    tables.map(512, 3, 0x200);
    const notifier = new RecordingNotifier();
    space.attach(notifier);
    notifier.take();
    const leaf = Math.floor(tables.entryGpa(512, 1) / 4096);
    memory.poison(leaf);
    void backend.invalidate(range(0, 2 ** 36));
    expect(notifier.take()).toEqual(["unmap 0x200+3"]);
    memory.heal(leaf);
    void backend.invalidate(range(0, 2 ** 36));
    expect(notifier.take()).toEqual(["map 0x200+3 -> 0x200 rw"]);
  });
});

describe("notifier ranges", () => {
  it("clips at both ends and advances the target by as much", () => {
    const machine = new Machine();
    machine.tables.map(0x10, 0x20, 0x100);
    const wanted = range(0x18, 8);
    const notifier = new RecordingNotifier({ range: wanted });
    const attachment = machine.nicSpace.attach(notifier, { range: wanted });
    expect(notifier.take()).toEqual(["map 0x18+8 -> 0x108 rw"]);
    machine.tables.map(0x10, 0x20, 0x200);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["unmap 0x18+8", "map 0x18+8 -> 0x208 rw"]);
    machine.tables.unmap(0x10, 0x0c);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["unmap 0x18+4"]);
    void attachment.detach();
    notifier.end();
  });

  it("tells two notifiers that split the space at the interrupt window each their own side of a superpage", () => {
    const machine = new Machine();
    const holes = [range(0xfee00, 0x100)];
    const domain = new SimpleDomain("with a hole", { holes });
    domain.map(0xfec00, 512, 0x40000);
    domain.map(0xfee00, 512, 0x50000);
    void machine.backend.assign(machine.nic, domain);
    const below = range(0, 0xfee00);
    const above = range(0xfef00, 2 ** 52 - 0xfef00);
    const low = new RecordingNotifier({ range: below });
    const high = new RecordingNotifier({ range: above, granularity: "block" });
    machine.nicSpace.attach(low, { range: below });
    machine.nicSpace.attach(high, { range: above });
    expect(low.take()).toEqual(["map 0xfec00+512 -> 0x40000 rw"]);
    expect(high.held()).toEqual([run(0xfef00, 256, 0x50100)]);
    domain.unmap(0xfec00, 1024);
    void machine.backend.invalidate(domain);
    expect(low.take()).toEqual(["unmap 0xfec00+512"]);
    expect(high.held()).toEqual([]);
    expect([...low.breaches, ...high.breaches]).toEqual([]);
  });

  it("tells a notifier nothing about frames outside its range", () => {
    const machine = new Machine();
    const wanted = range(0x100, 0x10);
    const notifier = new RecordingNotifier({ range: wanted });
    const flush = new RecordingFlushNotifier({ range: wanted });
    machine.nicSpace.attach(notifier, { range: wanted });
    machine.nicSpace.attach(flush, { range: wanted });
    flush.take();
    machine.tables.map(0x80, 0x10, 1);
    void machine.invalidate(0x80, 0x10);
    expect(notifier.calls).toEqual([]);
    expect(flush.take()).toEqual([]);
  });
});

describe("holes", () => {
  it("never announces a hole, and announces the rest of a superpage around it", () => {
    for (const granularity of ["page", "block"] as const) {
      const machine = new Machine();
      const domain = new SimpleDomain("with a hole", { holes: [range(0x210, 0x10)] });
      domain.map(0, 2048, 0x1000);
      void machine.backend.assign(machine.nic, domain);
      const notifier = new RecordingNotifier({ granularity });
      machine.nicSpace.attach(notifier);
      expect(notifier.held()).toEqual([run(0, 0x210, 0x1000), run(0x220, 2048 - 0x220, 0x1220)]);
      notifier.take();
      void machine.backend.invalidate(domain);
      expect(notifier.take()).toEqual([]);
    }
  });

  it("keeps holes out of leaf tables as well, at both ends", () => {
    const memory = new FakeMemory();
    const tables = new PageTables(memory);
    tables.map(0, 512, 0x2000);
    const backend = new TableBackend(new TableDomain("tables", tables, [range(0, 1), range(100, 2), range(511, 1)]));
    const unit = new BackendIommu({ backend, memory, scheduler: new ManualScheduler() });
    const notifier = new RecordingNotifier();
    unit.addressSpace(sourceId(0, 3, 0)).attach(notifier);
    expect(notifier.take()).toEqual(["map 0x1+99 -> 0x2001 rw", "map 0x66+409 -> 0x2066 rw"]);
    void backend.invalidate(range(0, 2 ** 36));
    expect(notifier.take()).toEqual([]);
  });
});

describe("what an UNMAP-only notifier is told", () => {
  it("gets one unmap of its whole range when it attaches and when it is detached", async () => {
    const machine = new Machine();
    machine.tables.map(0x10, 4, 1);
    const flush = new RecordingFlushNotifier();
    const attachment = machine.nicSpace.attach(flush);
    expect(flush.take()).toEqual([range(0, 2 ** 52)]);
    await attachment.detach();
    expect(flush.take()).toEqual([range(0, 2 ** 52)]);
    flush.end();
    void machine.invalidate();
    expect(flush.breaches).toEqual([]);
  });

  it("gets exactly the invalidated range, without a walk of the tables", () => {
    const machine = new Machine();
    machine.tables.map(0x10, 4, 1);
    const flush = new RecordingFlushNotifier();
    machine.nicSpace.attach(flush);
    flush.take();
    let scans = 0;
    machine.tables.scan = () => void (scans += 1);
    void machine.invalidate(0x11, 2);
    expect(flush.take()).toEqual([range(0x11, 2)]);
    expect(scans).toBe(0);
  });

  it("is told before any MAP notifier, after the backend's caches have dropped the range", () => {
    const machine = new Machine();
    machine.tables.map(0x10, 1, 1);
    const order: string[] = [];
    machine.nicSpace.attach(new RecordingNotifier({ onCall: (call) => order.push(call.type) }));
    machine.nicSpace.attach(new RecordingFlushNotifier({ onCall: () => order.push("flush") }));
    order.length = 0;
    machine.tables.unmap(0x10, 1);
    void machine.invalidate();
    expect(order).toEqual(["flush", "begin", "unmap", "commit"]);
  });
});

describe("what is remembered of superpages", () => {
  it("is each part that became another one, so it is told once", () => {
    const machine = new Machine();
    machine.tables.map(0, 2 ** 18, 0);
    machine.nicSpace.attach(new RecordingNotifier());
    const seen = machine.watch("map", "unmap", "change");
    machine.tables.map(512, 512, 99 * 512);
    void machine.invalidate();
    expect(seen.splice(0)).toEqual(["change iovaPfn=512 pageCount=512 gpaPfn=50688 access=3"]);
    void machine.invalidate();
    expect(seen).toEqual([]);
  });

  it("stays what the view says when a device of it moves to where a superpage stands in the place", () => {
    for (const gap of [false, true]) {
      const machine = new Machine();
      machine.tables.map(0, 512, 0);
      if (gap) machine.tables.unmap(5, 1);
      machine.nicSpace.attach(new RecordingNotifier());
      machine.diskSpace.attach(new RecordingNotifier());
      const other = new SimpleDomain("other");
      other.map(0, 512, 9 * 512);
      void machine.backend.assign(machine.nic, other);
      const seen = machine.watch("map", "unmap", "change");
      void machine.invalidate();
      expect(seen).toEqual([]);
    }
  });
});

it("says what removed frames led to, run by run, where somebody follows the writes", () => {
  const machine = new Machine();
  new DirtyTracker(machine.nicSpace).start();
  machine.nicSpace.attach(new RecordingNotifier());
  const seen = machine.watch("map", "unmap", "change");
  machine.tables.map(0, 1, 100);
  machine.tables.map(1, 3, 200);
  void machine.invalidate();
  machine.tables.unmap(0, 4);
  void machine.invalidate();
  machine.tables.map(0, 1, 100);
  machine.tables.map(1, 1, 200);
  void machine.invalidate();
  machine.tables.unmap(0, 2);
  void machine.invalidate();
  expect(seen).toEqual([
    "map iovaPfn=0 pageCount=1 gpaPfn=100 access=3",
    "map iovaPfn=1 pageCount=3 gpaPfn=200 access=3",
    "unmap iovaPfn=0 pageCount=1 gpaPfn=100 access=3",
    "unmap iovaPfn=1 pageCount=3 gpaPfn=200 access=3",
    "map iovaPfn=0 pageCount=1 gpaPfn=100 access=3",
    "map iovaPfn=1 pageCount=1 gpaPfn=200 access=3",
    "unmap iovaPfn=0 pageCount=1 gpaPfn=100 access=3",
    "unmap iovaPfn=1 pageCount=1 gpaPfn=200 access=3",
  ]);
});

it("says that a superpage is gone", () => {
  const machine = new Machine();
  machine.tables.map(0, 512, 0);
  machine.nicSpace.attach(new RecordingNotifier());
  const seen = machine.watch("map", "unmap", "change");
  machine.tables.unmap(0, 512);
  void machine.invalidate();
  expect(seen).toEqual(["unmap iovaPfn=0 pageCount=512 gpaPfn=-1 access=0"]);
});

import { describe, expect, it } from "vitest";
import { Access, ALL_FRAMES, BackendIommu, type Lease, sourceId } from "../src/index.js";
import {
  FakeMemory,
  ManualScheduler,
  RecordingFlushNotifier,
  RecordingNotifier,
  type Run,
  RunList,
  SimpleBackend,
  SimpleDomain,
} from "../src/testing/index.js";
import { Machine, range, run } from "./support/machine.js";

const GIB = 2 ** 18;

/** Frames, and where they go: first, count, first target. */
type Piece = readonly [number, number, number];

function domainOf(label: string, ...runs: readonly Piece[]): SimpleDomain {
  const domain = new SimpleDomain(label);
  for (const [iovaPfn, pageCount, gpaPfn] of runs) domain.map(iovaPfn, pageCount, gpaPfn);
  return domain;
}

function runsOf(domain: SimpleDomain): Run[] {
  const list = new RunList();
  domain.scan(range(0, 2 ** 52), {
    run: (iovaPfn, pageCount, gpaPfn, access) => {
      list.set({ iovaPfn, pageCount, gpaPfn, access });
      return true;
    },
    reach: () => true,
    table: () => true,
  });
  return list.joined();
}

describe("moves between domains", () => {
  it("announces only the difference when the domains share 90 % of their pages", () => {
    const machine = new Machine();
    const a = domainOf("a", [0, 100, 1000]);
    const b = domainOf("b", [0, 90, 1000], [90, 5, 5000], [200, 5, 6000]);
    void machine.backend.assign(machine.nic, a);
    const notifier = new RecordingNotifier({ truth: (pfn) => b.lookup(pfn) });
    machine.nicSpace.attach(notifier);
    notifier.take();
    void machine.backend.assign(machine.nic, b);
    expect(notifier.take()).toEqual([
      "unmap 0x5f+5",
      "unmap 0x5a+5",
      "map 0x5a+5 -> 0x1388 rw",
      "map 0xc8+5 -> 0x1770 rw",
    ]);
    expect(notifier.breaches).toEqual([]);
  });

  it("announces only the difference when the other domain's view exists already", () => {
    const machine = new Machine();
    const a = domainOf("a", [0, 100, 1000]);
    const b = domainOf("b", [0, 90, 1000], [200, 5, 6000]);
    void machine.backend.assign(machine.nic, a);
    void machine.backend.assign(machine.disk, b);
    const nic = new RecordingNotifier({ truth: (pfn) => b.lookup(pfn) });
    const disk = new RecordingNotifier();
    machine.nicSpace.attach(nic);
    machine.diskSpace.attach(disk);
    nic.take();
    disk.take();
    void machine.backend.assign(machine.nic, b);
    expect(nic.take()).toEqual(["unmap 0x5a+10", "map 0xc8+5 -> 0x1770 rw"]);
    expect(disk.calls).toEqual([]);
    b.unmap(0, 1);
    void machine.backend.invalidate(b);
    expect([nic.take(), disk.take()]).toEqual([["unmap 0x0+1"], ["unmap 0x0+1"]]);
    expect([...machine.unit.hub.views]).toHaveLength(1);
  });

  it("puts back what the device reaches at that moment when a move cuts a block: the new domain below, the old one above", () => {
    const machine = new Machine();
    const a = domainOf("a", [0, 2048, 2 ** 20]);
    const b = domainOf("b", [0, 5, 2 ** 20], [6, 1018, 2 ** 20 + 6], [1024, 512, 2 ** 22], [1536, 512, 2 ** 20 + 1536]);
    void machine.backend.assign(machine.nic, a);
    void machine.backend.assign(machine.disk, b);
    const notifier = new RecordingNotifier({ granularity: "block" });
    machine.nicSpace.attach(notifier);
    machine.diskSpace.attach(new RecordingNotifier());
    const windows = machine.watch("window");
    expect(notifier.entries).toHaveLength(4);
    notifier.take();
    void machine.backend.assign(machine.nic, b);
    const calls = notifier.take();
    expect(calls.filter((call) => call.startsWith("unmap"))).toEqual(["unmap 0x0+512", "unmap 0x400+512"]);
    expect(calls).toContain("map 0x400+512 -> 0x400000 rw");
    expect(notifier.held()).toEqual(runsOf(b));
    expect(windows).toEqual([
      "window iovaPfn=0 pageCount=5",
      "window iovaPfn=6 pageCount=506",
      "window iovaPfn=1024 pageCount=512",
    ]);
  });

  it("tells nothing of a block's far parts before the pass gets there", () => {
    const machine = new Machine();
    const a = domainOf("a", [0, 2 ** 18, 2 ** 20]);
    const b = domainOf("b", [0, 5, 2 ** 20], [6, 1018, 2 ** 20 + 6], [1024, 512, 2 ** 22], [1536, 512, 2 ** 20 + 1536]);
    void machine.backend.assign(machine.nic, a);
    const notifier = new RecordingNotifier({ granularity: "block" });
    machine.nicSpace.attach(notifier);
    notifier.take();
    void machine.backend.assign(machine.nic, b, false);
    const other = new RecordingNotifier();
    void machine.backend.assign(machine.disk, b);
    machine.diskSpace.attach(other);
    void machine.backend.invalidateAll();
    const calls = notifier.take();
    expect(calls[0]).toBe("unmap 0x0+262144");
    expect(calls.indexOf("map 0x400+1024 -> 0x100400 rw")).toBeGreaterThan(0);
    expect(calls.indexOf("map 0x400+512 -> 0x400000 rw")).toBeGreaterThan(
      calls.indexOf("map 0x400+1024 -> 0x100400 rw"),
    );
    expect(notifier.held()).toEqual(runsOf(b));
    expect(other.held()).toEqual(runsOf(b));
    expect(notifier.breaches).toEqual([]);
  });

  it.each<[string, Piece, Piece]>([
    ["a superpage to another", [0, 512, 4096], [0, 512, 8192]],
    ["pages to a superpage", [0, 500, 4096], [0, 512, 8192]],
    ["a superpage to pages", [0, 512, 4096], [0, 500, 8192]],
    ["a superpage of 1 GiB to another", [0, GIB, GIB], [0, GIB, 2 * GIB]],
    ["a page to a superpage of 1 GiB around it", [5, 1, 4096], [0, GIB, 2 * GIB]],
    ["nothing to a superpage of 1 GiB", [0, 0, 0], [0, GIB, 2 * GIB]],
  ])("from %s is told once, and nothing of it changes for those who stay", (_what, here, there) => {
    const machine = new Machine();
    const [a, b] = [domainOf("a", here), domainOf("b", there)];
    for (const device of [machine.nic, machine.disk]) void machine.backend.assign(device, a);
    const [mover, other] = [new RecordingNotifier({ replace: true }), new RecordingNotifier({ replace: true })];
    machine.nicSpace.attach(mover);
    machine.diskSpace.attach(other);
    for (const notifier of [mover, other]) notifier.take();
    void machine.backend.assign(machine.nic, b);
    expect([mover.held(), other.take()]).toEqual([runsOf(b), []]);
    const named = mover.calls.reduce((sum, call) => sum + ("pageCount" in call ? call.pageCount : 0), 0);
    expect(named).toBe(Math.max(here[1], there[1]));
    // What the others are told next begins at what they were told last.
    a.unmap(0, 2 ** 40);
    a.map(...there);
    void machine.backend.invalidate(a);
    expect(other.held()).toEqual(runsOf(b));
    for (const notifier of [mover, other]) notifier.check();
  });

  it("goes from blocked to a table, to bypass, and back: always a difference", () => {
    const machine = new Machine({ regions: [range(0, 16), range(100, 4)] });
    const bypass = new SimpleDomain("bypass", { kind: "bypass" });
    const blocked = new SimpleDomain("blocked", { kind: "blocked" });
    const table = domainOf("table", [8, 4, 8], [12, 2, 77]);
    void machine.backend.assign(machine.nic, blocked);
    const notifier = new RecordingNotifier({ replace: true });
    machine.nicSpace.attach(notifier);
    expect(notifier.take()).toEqual([]);
    void machine.backend.assign(machine.nic, table);
    expect(notifier.take()).toEqual(["map 0x8+4 -> 0x8 rw", "map 0xc+2 -> 0x4d rw"]);
    void machine.backend.assign(machine.nic, bypass);
    expect(notifier.take()).toEqual([
      "replace 0xc+2 -> 0xc rw",
      "map 0x0+8 -> 0x0 rw",
      "map 0xe+2 -> 0xe rw",
      "map 0x64+4 -> 0x64 rw",
    ]);
    void machine.backend.assign(machine.nic, blocked);
    expect(notifier.take()).toEqual(["unmap 0x0+16", "unmap 0x64+4"]);
    expect(notifier.breaches).toEqual([]);
  });

  it("tells UNMAP-only notifiers to drop everything on a move", () => {
    const machine = new Machine();
    const flush = new RecordingFlushNotifier();
    const other = new RecordingFlushNotifier();
    machine.nicSpace.attach(flush);
    machine.diskSpace.attach(other);
    flush.take();
    other.take();
    void machine.backend.assign(machine.nic, domainOf("a"));
    expect(flush.take()).toEqual([range(0, 2 ** 52)]);
    expect(other.take()).toEqual([]);
  });
});

describe("bypass", () => {
  function bypassMachine(options: { regions?: { firstPfn: number; pageCount: number }[]; holes?: boolean } = {}) {
    const holes = options.holes === true ? [range(0xfee00, 0x100)] : [];
    const backend = new SimpleBackend(new SimpleDomain("bypass", { kind: "bypass", holes }));
    const memory = new FakeMemory({ ram: [range(0, 0xa0), range(0x100, 2 ** 20)] });
    const unit = new BackendIommu({
      backend,
      memory,
      scheduler: new ManualScheduler(),
      ...(options.regions === undefined ? {} : { regions: options.regions }),
    });
    return { unit, space: unit.addressSpace(0x18) };
  }

  it("is the identity mapping of RAM by default, without the holes of the domain", () => {
    const { space } = bypassMachine({ holes: true });
    const notifier = new RecordingNotifier();
    space.attach(notifier);
    expect(notifier.held()).toEqual([
      run(0, 0xa0, 0),
      run(0x100, 0xfed00, 0x100),
      run(0xfef00, 0x100100 - 0xfef00, 0xfef00),
    ]);
  });

  it("is given in blocks no larger than the notifier asks for", () => {
    const { space } = bypassMachine({ regions: [range(0, 2048)] });
    const notifier = new RecordingNotifier({ granularity: "block", largestBlock: 128 });
    space.attach(notifier);
    expect(notifier.entries).toHaveLength(16);
    expect(notifier.held()).toEqual([run(0, 2048, 0)]);
    const whole = new RecordingNotifier({ granularity: "block" });
    space.attach(whole);
    expect(whole.entries).toHaveLength(4);
  });

  it("announces differences of the regions: memory plugged in, a BAR moved", () => {
    const { unit, space } = bypassMachine({ regions: [range(0, 512), range(1000, 10)] });
    const notifier = new RecordingNotifier({ truth: (pfn) => (pfn < 700 ? { gpaPfn: pfn, access: 3 } : undefined) });
    const flush = new RecordingFlushNotifier();
    space.attach(notifier);
    space.attach(flush);
    notifier.take();
    flush.take();
    void unit.setRegions([range(0, 700), range(2000, 10)]);
    expect(notifier.take()).toEqual(["unmap 0x3e8+10", "map 0x200+188 -> 0x200 rw", "map 0x7d0+10 -> 0x7d0 rw"]);
    expect(flush.take()).toEqual([range(0, 2 ** 52)]);
    expect(notifier.breaches).toEqual([]);
  });

  it("does not concern devices behind a table", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 1);
    const flush = new RecordingFlushNotifier();
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(flush);
    machine.nicSpace.attach(notifier);
    flush.take();
    notifier.calls.length = 0;
    void machine.unit.setRegions([range(0, 5)]);
    expect(flush.take()).toEqual([]);
    expect(notifier.calls).toEqual([]);
  });

  it("refuses regions that overlap, descend or are not frames", () => {
    const { unit } = bypassMachine();
    for (const regions of [[range(0, 5), range(4, 5)], [range(10, 1), range(0, 1)], [range(0.5, 1)], [range(0, 0)]]) {
      expect(() => unit.setRegions(regions)).toThrow(/regions: expected/);
    }
  });
});

describe("views that several devices share", () => {
  it("scans once for all devices of a domain, and tells each notifier", () => {
    const machine = new Machine();
    machine.tables.map(0, 5, 100);
    const notifiers = [new RecordingNotifier(), new RecordingNotifier({ granularity: "block" })];
    machine.nicSpace.attach(notifiers[0]!);
    machine.diskSpace.attach(notifiers[1]!);
    let scans = 0;
    const scan = machine.tables.scan.bind(machine.tables);
    machine.tables.scan = (...args) => {
      scans += 1;
      scan(...args);
    };
    machine.tables.unmap(2, 1);
    void machine.invalidate();
    expect(scans).toBe(1);
    for (const notifier of notifiers) expect(notifier.held()).toEqual([run(0, 2, 100), run(3, 2, 103)]);
  });

  it("part when they diverge: each device keeps what stays mapped for it", () => {
    const machine = new Machine();
    machine.tables.map(0, 10, 100);
    const nic = new RecordingNotifier();
    const disk = new RecordingNotifier();
    machine.nicSpace.attach(nic);
    machine.diskSpace.attach(disk);
    nic.take();
    disk.take();
    const own = domainOf("own", [0, 9, 100]);
    void machine.backend.assign(machine.nic, own);
    expect(nic.take()).toEqual(["unmap 0x9+1"]);
    expect(disk.take()).toEqual([]);
    own.unmap(0, 1);
    void machine.backend.invalidate(own);
    expect([nic.take(), disk.take()]).toEqual([["unmap 0x0+1"], []]);
    void machine.backend.assign(machine.nic, machine.tables);
    expect([nic.take(), disk.take()]).toEqual([["map 0x0+1 -> 0x64 rw", "map 0x9+1 -> 0x6d rw"], []]);
  });

  it("moves one container with the only device that leaves, while the others' pending edits reach them too", () => {
    const machine = new Machine();
    machine.tables.map(0, 2, 100);
    const nic = new RecordingNotifier();
    const disk = new RecordingNotifier();
    machine.nicSpace.attach(nic);
    machine.diskSpace.attach(disk);
    machine.tables.unmap(0, 1);
    void machine.backend.assign(machine.nic, domainOf("own", [0, 2, 100]), false);
    void machine.backend.invalidateAll();
    expect(nic.held()).toEqual([run(0, 2, 100)]);
    expect(disk.held()).toEqual([run(1, 1, 101)]);
  });
});

describe("a container that serves several devices", () => {
  it("is told once, and keeps following when one of them is detached", () => {
    const machine = new Machine();
    machine.tables.map(0, 5, 100);
    const notifier = new RecordingNotifier();
    const first = machine.nicSpace.attach(notifier);
    const second = machine.diskSpace.attach(notifier);
    expect(notifier.take()).toEqual(["map 0x0+5 -> 0x64 rw"]);
    void first.detach();
    expect(notifier.take()).toEqual([]);
    machine.tables.unmap(0, 1);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["unmap 0x0+1"]);
    void second.detach();
    expect(notifier.take()).toEqual(["unmap 0x1+4"]);
    notifier.end();
  });

  it("is refused for two devices that see different views, and says which", () => {
    const machine = new Machine();
    void machine.backend.assign(machine.disk, domainOf("another"));
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    expect(() => machine.diskSpace.attach(notifier)).toThrow(
      /expected what 00:03.0 sees, tables, got 00:04.0 with another/,
    );
    expect(machine.diskSpace.attachments).toEqual([]);
    machine.tables.map(0, 1, 1);
    void machine.invalidate();
    expect(notifier.pageCount).toBe(1);
  });

  it("is parked while its devices disagree: it holds nothing, and is replayed when they agree again", () => {
    const machine = new Machine();
    machine.tables.map(0, 5, 100);
    const notifier = new RecordingNotifier();
    const attachments = [machine.nicSpace.attach(notifier), machine.diskSpace.attach(notifier)];
    const other = domainOf("other", [3, 4, 103]);
    void machine.backend.assign(machine.nic, other);
    expect(attachments.map(({ state }) => state)).toEqual(["parked", "parked"]);
    expect(notifier.pageCount).toBe(0);
    machine.tables.unmap(0, 1);
    void machine.backend.invalidateAll();
    expect(notifier.pageCount).toBe(0);
    void machine.backend.assign(machine.disk, other);
    expect(attachments.map(({ state }) => state)).toEqual(["active", "active"]);
    expect(notifier.held()).toEqual([run(3, 4, 103)]);
  });

  it("is replayed when they agree again by a change that finds another view as it should be", () => {
    const machine = new Machine();
    machine.tables.map(0, 5, 100);
    const container = new RecordingNotifier();
    const gpu = sourceId(0, 5, 0);
    const other = domainOf("other", [3, 4, 103]);
    void machine.backend.assign(gpu, other);
    machine.nicSpace.attach(container);
    machine.diskSpace.attach(container);
    const settled = new RecordingNotifier();
    machine.unit.addressSpace(gpu).attach(settled);
    void machine.backend.assign(machine.nic, other);
    expect(container.pageCount).toBe(0);
    void machine.backend.assign(machine.disk, other, false);
    void machine.backend.invalidateAll();
    expect(container.held()).toEqual(settled.held());
  });

  it("is served again when the device that disagreed is detached or unplugged", () => {
    for (const leave of ["detach", "unplug"] as const) {
      const machine = new Machine();
      machine.tables.map(0, 5, 100);
      const notifier = new RecordingNotifier();
      const nic = machine.nicSpace.attach(notifier);
      const disk = machine.diskSpace.attach(notifier);
      void machine.backend.assign(machine.nic, domainOf("other", [3, 4, 103]));
      expect(notifier.pageCount).toBe(0);
      void (leave === "detach" ? nic.detach() : machine.nicSpace.unplug());
      expect(disk.state).toBe("active");
      expect(notifier.held()).toEqual([run(0, 5, 100)]);
      expect(notifier.breaches).toEqual([]);
    }
  });

  it("moves as one when the guest moves all its devices in one invalidation", () => {
    const machine = new Machine();
    machine.tables.map(0, 5, 100);
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    machine.diskSpace.attach(notifier);
    notifier.take();
    const other = domainOf("other", [0, 6, 100]);
    void machine.backend.assign(machine.nic, other, false);
    void machine.backend.assign(machine.disk, other, false);
    void machine.backend.invalidateAll();
    expect(notifier.take()).toEqual(["map 0x5+1 -> 0x69 rw"]);
  });

  it("cannot be given a second range, and none of its attachments survives its failure", () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier({ onCall: () => void notifier.lookup(0) });
    const first = machine.nicSpace.attach(notifier);
    expect(() => machine.diskSpace.attach(notifier, { range: range(0, 5) })).toThrow(/expected the range of its other/);
    const second = machine.diskSpace.attach(notifier);
    Object.assign(notifier, {
      map: () => {
        throw new Error("no");
      },
    });
    machine.tables.map(0, 1, 1);
    void machine.invalidate();
    expect([first.state, second.state]).toEqual(["failed", "failed"]);
    void first.detach();
    expect(() => machine.nicSpace.attach(notifier)).toThrow(/expected one that works, got a failed one/);
    void second.detach();
    Reflect.deleteProperty(notifier, "map");
  });
});

describe("what devices hold of a domain that they no longer see", () => {
  function moved(): { readonly machine: Machine; readonly cache: RecordingFlushNotifier; readonly lease: Lease } {
    const machine = new Machine();
    machine.tables.map(0, 5, 100);
    const cache = new RecordingFlushNotifier();
    machine.nicSpace.attach(cache);
    const lease = machine.nicSpace.dma.segments(0, 4096, Access.read);
    if (lease === undefined) throw new Error("expected a lease");
    lease.onRecall = () => lease.release();
    cache.take();
    void machine.backend.assign(machine.nic, domainOf("other", [0, 5, 200]), false);
    return { machine, cache, lease };
  }

  it("goes with the first invalidation that finds it there, however few pages that names: those that follow name another domain", () => {
    const { machine, cache, lease } = moved();
    void machine.invalidate(90, 1);
    expect([cache.take(), lease.valid]).toEqual([[ALL_FRAMES], false]);
    void machine.invalidate(90, 1);
    expect(cache.take()).toEqual([]);
  });

  it("goes when somebody else is attached", () => {
    const { machine, cache, lease } = moved();
    machine.nicSpace.attach(new RecordingFlushNotifier());
    expect([cache.take(), lease.valid]).toEqual([[ALL_FRAMES], false]);
  });
});

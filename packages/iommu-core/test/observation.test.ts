import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type AddressSpace, BackendIommu, type MappingEvent } from "../src/index.js";
import { ManualScheduler, RecordingFlushNotifier, RecordingNotifier, SimpleDomain } from "../src/testing/index.js";
import { Machine } from "./support/machine.js";

describe("observation events", () => {
  it("say what is mapped, unmapped and changed in the address space, on it and on the unit", () => {
    const machine = new Machine();
    machine.nicSpace.attach(new RecordingNotifier());
    const unit = machine.watch("map", "unmap", "change");
    const own: string[] = [];
    machine.nicSpace.events.on("map", ({ iovaPfn, pageCount, gpaPfn, access }: MappingEvent) => {
      own.push(`${iovaPfn}+${pageCount} ${gpaPfn} ${access}`);
    });
    machine.tables.map(0, 3, 100);
    void machine.invalidate();
    machine.tables.map(1, 1, 500, 1);
    machine.tables.unmap(2, 1);
    void machine.invalidate();
    expect(unit).toEqual([
      "map iovaPfn=0 pageCount=3 gpaPfn=100 access=3",
      "unmap iovaPfn=2 pageCount=1 gpaPfn=-1 access=0",
      "change iovaPfn=1 pageCount=1 gpaPfn=500 access=1",
    ]);
    expect(own).toEqual(["0+3 100 3"]);
  });

  it("say the same of a move, and of the device that joins or leaves a view that others keep", () => {
    const machine = new Machine();
    machine.tables.map(0, 2, 100);
    machine.nicSpace.attach(new RecordingNotifier());
    const seen: string[] = [];
    for (const name of ["map", "unmap"] as const) {
      machine.diskSpace.events.on(name, ({ iovaPfn, pageCount }) => seen.push(`${name} ${iovaPfn}+${pageCount}`));
    }
    const attachment = machine.diskSpace.attach(new RecordingNotifier());
    expect(seen.splice(0)).toEqual(["map 0+2"]);
    const other = new SimpleDomain("other");
    other.map(1, 2, 101);
    void machine.backend.assign(machine.disk, other);
    expect(seen.splice(0)).toEqual(["unmap 0+1", "map 2+1"]);
    void attachment.detach();
    expect(seen.splice(0)).toEqual(["unmap 1+2"]);
  });

  it("say nothing when a device that is followed already gets a second notifier, or loses one of two", () => {
    const machine = new Machine();
    machine.tables.map(0, 2, 100);
    machine.nicSpace.attach(new RecordingNotifier());
    const seen = machine.watch("map", "unmap", "change");
    const second = machine.nicSpace.attach(new RecordingNotifier());
    void second.detach();
    expect(seen).toEqual([]);
  });

  it("report invalidations, moves, attach and detach", () => {
    const machine = new Machine();
    const seen = machine.watch("invalidate", "move", "attach", "detach");
    const attachment = machine.nicSpace.attach(new RecordingFlushNotifier());
    void machine.invalidate(5, 2);
    void machine.backend.assign(machine.nic, new SimpleDomain("other"));
    void attachment.detach();
    expect(seen).toEqual([
      "attach",
      "invalidate iovaPfn=5 pageCount=2",
      "move",
      `invalidate iovaPfn=0 pageCount=${2 ** 52}`,
      "detach",
    ]);
  });

  it("report every refused request of a device, with the page that was refused", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 1, 1);
    const faults: string[] = [];
    machine.unit.events.on("fault", ({ space, address, access, reason, cause }) => {
      faults.push(`${space.label} ${address.toString(16)} ${access} ${reason} ${cause}`);
    });
    const { dma } = machine.nicSpace;
    expect(dma.write(0x10, new Uint8Array(4))).toBe(false);
    expect(dma.read(0x10, new Uint8Array(8192))).toBe(false);
    expect(dma.read(0xfffffffffffffff0n, new Uint8Array(4))).toBe(false);
    expect(faults).toEqual([
      "00:03.0 10 2 3 no right",
      "00:03.0 1000 1 2 not mapped",
      "00:03.0 fffffffffffffff0 1 2 not mapped",
    ]);
  });

  it("are not built when nobody listens", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 100);
    machine.nicSpace.attach(new RecordingNotifier({ granularity: "block", capacity: 1 }));
    machine.nicSpace.attach(new RecordingFlushNotifier());
    const { observers } = machine.unit.hub;
    const built: string[] = [];
    observers.emit = (name) => void built.push(name);
    machine.tables.map(0, 4, 200);
    void machine.invalidate();
    void machine.backend.assign(machine.nic, new SimpleDomain("other"));
    machine.nicSpace.dma.read(0, new Uint8Array(1));
    expect(built).toEqual([]);
  });

  it("whose listener throws harm nobody: the host sees the error from its event loop", () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier();
    machine.nicSpace.attach(notifier);
    machine.unit.events.on("map", () => {
      throw new Error("listener");
    });
    machine.tables.map(0, 3, 100);
    expect(machine.invalidate()).toBeUndefined();
    expect(notifier.pageCount).toBe(3);
    expect(() => machine.scheduler.turn()).toThrow("listener");
  });

  it("are the only thing that an emitter carries: notifiers are called directly, in the order in which they came", () => {
    const machine = new Machine();
    const order: string[] = [];
    for (const name of ["a", "b", "c"]) {
      machine.nicSpace.attach(new RecordingNotifier({ name, steps: false, onCall: () => order.push(name) }));
    }
    machine.tables.map(0, 1, 1);
    void machine.invalidate();
    expect(order).toEqual(["a", "b", "c"]);
  });
});

describe("a listener of invalidations and moves", () => {
  const ACTIONS = ["attach", "detach", "resync", "invalidate", "move", "unplug", "nothing"] as const;

  it("may do, once, whatever a host may do: mirrors end as the tables say, caches are told of every page, and nothing is left undone", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("invalidate", "move"),
        fc.constantFrom(...ACTIONS),
        fc.boolean(),
        (event, action, ofItself) => {
          const machine = new Machine();
          const { nicSpace, diskSpace, backend, tables, unit } = machine;
          tables.map(0, 8, 100);
          const other = new SimpleDomain("other");
          other.map(0, 6, 100);
          other.map(20, 2, 300);
          const [mine, disks, late] = [0, 1, 2].map(() => new RecordingNotifier()) as [
            RecordingNotifier,
            RecordingNotifier,
            RecordingNotifier,
          ];
          const cache = new RecordingFlushNotifier();
          const attachment = nicSpace.attach(mine);
          nicSpace.attach(cache);
          diskSpace.attach(disks);
          cache.take();
          const actor = ofItself ? nicSpace : diskSpace;
          const acts = {
            attach: () => actor.attach(late),
            detach: () => attachment.detach(),
            resync: () => actor.resync(),
            invalidate: () => {
              tables.unmap(2, 1);
              other.unmap(2, 1);
              return backend.invalidateAll();
            },
            move: () => backend.assign(actor.sourceId, other),
            unplug: () => actor.unplug(),
            nothing: () => undefined,
          } as const;
          let acted = false;
          unit.events.on(event as "move", () => {
            if (acted) return;
            acted = true;
            void acts[action]();
          });
          tables.unmap(7, 1);
          void backend.assign(machine.nic, other, false);
          void backend.assign(machine.disk, event === "move" ? tables : other, false);
          expect(backend.invalidateAll()).toBeUndefined();
          expect(acted).toBe(true);
          const seenBy = (space: AddressSpace): SimpleDomain => backend.domainOf(space);
          const expected = (space: AddressSpace, isThere: boolean): number[] =>
            Array.from({ length: 24 }, (_, pfn) => (isThere ? (seenBy(space).lookup(pfn)?.gpaPfn ?? -1) : -1));
          const held = (notifier: RecordingNotifier): number[] =>
            Array.from({ length: 24 }, (_, pfn) => notifier.lookup(pfn)?.gpaPfn ?? -1);
          expect(held(mine)).toEqual(expected(nicSpace, nicSpace.plugged && attachment.state !== "detached"));
          expect(held(disks)).toEqual(expected(diskSpace, diskSpace.plugged));
          if (action === "attach") expect(held(late)).toEqual(expected(actor, true));
          expect(cache.take()).toContainEqual({ firstPfn: 0, pageCount: 2 ** 52 });
          for (const notifier of [mine, disks, late]) expect(notifier.breaches).toEqual([]);
          machine.scheduler.turn();
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe("a backend that announces nothing", () => {
  it("costs no work: no device, no notifier, no lease", () => {
    const machine = new Machine();
    const spaces: AddressSpace[] = [machine.nicSpace, machine.diskSpace];
    let scans = 0;
    machine.tables.scan = () => void (scans += 1);
    expect(machine.invalidate()).toBeUndefined();
    expect(scans).toBe(0);
    expect(spaces.every((space) => space.attachments.length === 0)).toBe(true);
    const unit = new BackendIommu({
      backend: machine.backend,
      memory: machine.memory,
      scheduler: new ManualScheduler(),
    });
    expect(unit.addressSpaces).toEqual([]);
  });
});

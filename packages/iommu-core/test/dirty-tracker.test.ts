import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Access, type AddressSpace, DirtyTracker, IommuError } from "../src/index.js";
import { FrameSet } from "../src/dma/frame-set.js";
import { RecordingNotifier } from "../src/testing/index.js";
import { Machine } from "./support/machine.js";

function tracked(machine: Machine): {
  readonly space: AddressSpace;
  readonly take: () => { iova: string[]; gpa: string[] };
} {
  const space = machine.nicSpace;
  const tracker = new DirtyTracker(space);
  tracker.start();
  return { space, take: () => taken(tracker) };
}

function taken(tracker: DirtyTracker): { iova: string[]; gpa: string[] } {
  const iova: string[] = [];
  const gpa: string[] = [];
  tracker.collect({
    iova: (first, count) => iova.push(`${first}+${count}`),
    gpa: (first, count) => gpa.push(`${first}+${count}`),
  });
  return { iova, gpa };
}

describe("a dirty tracker", () => {
  it("hears of a lease at its first release only", () => {
    const machine = new Machine();
    machine.tables.map(0, 4, 50);
    const { space, take } = tracked(machine);
    const lease = space.dma.segments(0, 10, Access.write);
    lease?.release();
    expect(take()).toEqual({ iova: ["0+1"], gpa: ["50+1"] });
    lease?.release();
    expect(take()).toEqual({ iova: [], gpa: [] });
  });

  it("reports each page that was written once, by IOVA and by guest frame, and begins anew", () => {
    const machine = new Machine();
    machine.tables.map(0, 4, 50);
    machine.tables.map(4, 4, 10);
    const { space, take } = tracked(machine);
    space.dma.write(4090, new Uint8Array(10));
    space.dma.write(4090, new Uint8Array(2));
    space.dma.write(5 * 4096, new Uint8Array(1));
    space.dma.read(7 * 4096, new Uint8Array(4096));
    expect(take()).toEqual({ iova: ["0+2", "5+1"], gpa: ["11+1", "50+2"] });
    expect(take()).toEqual({ iova: [], gpa: [] });
    space.dma.compareExchange(6 * 4096, 0, 1);
    expect(take()).toEqual({ iova: ["6+1"], gpa: ["12+1"] });
  });

  it("reports pages that were unmapped, or moved, after they were written", () => {
    const machine = new Machine();
    machine.tables.map(0, 2, 50);
    const { space, take } = tracked(machine);
    space.dma.write(0, new Uint8Array(8192));
    machine.tables.unmap(0, 1);
    machine.tables.map(1, 1, 99);
    void machine.invalidate();
    space.dma.write(4096, new Uint8Array(1));
    expect(take()).toEqual({ iova: ["0+2"], gpa: ["50+2", "99+1"] });
  });

  it("makes unmap events say what the frames were, also from the middle of a superpage on", () => {
    const machine = new Machine();
    machine.tables.map(512, 512, 4096);
    machine.nicSpace.attach(new RecordingNotifier());
    tracked(machine);
    const told = machine.watch("unmap");
    machine.tables.unmap(768, 256);
    void machine.invalidate(768, 100);
    void machine.invalidate(868, 156);
    expect(told).toEqual([
      "unmap iovaPfn=768 pageCount=100 gpaPfn=4352 access=3",
      "unmap iovaPfn=868 pageCount=156 gpaPfn=4452 access=3",
    ]);
  });

  it("makes unmap events say what each of several frames was, above 4 GiB as well", () => {
    const machine = new Machine();
    for (const pfn of [0, 1, 2]) machine.tables.map(pfn, 1, 2 ** 20 * (pfn + 1) + 7);
    machine.nicSpace.attach(new RecordingNotifier());
    tracked(machine);
    const told = machine.watch("unmap");
    machine.tables.unmap(0, 3);
    void machine.invalidate();
    expect(told).toEqual(
      [0, 1, 2].map((pfn) => `unmap iovaPfn=${pfn} pageCount=1 gpaPfn=${2 ** 20 * (pfn + 1) + 7} access=3`),
    );
  });

  it("reports nothing that was written before it started or after it stopped", () => {
    const machine = new Machine();
    machine.tables.map(0, 2, 50);
    const tracker = new DirtyTracker(machine.nicSpace);
    machine.nicSpace.dma.write(0, new Uint8Array(1));
    expect(taken(tracker)).toEqual({ iova: [], gpa: [] });
    tracker.start();
    expect(taken(tracker)).toEqual({ iova: [], gpa: [] });
    machine.nicSpace.dma.write(0, new Uint8Array(1));
    tracker.stop();
    machine.nicSpace.dma.write(4096, new Uint8Array(1));
    tracker.start();
    expect(taken(tracker)).toEqual({ iova: [], gpa: [] });
  });

  it("counts a page whose write is refused by memory half-way", () => {
    const machine = new Machine();
    const end = machine.memory.ram.at(-1)!;
    machine.tables.map(0, 2, end.firstPfn + end.pageCount - 1);
    const { space, take } = tracked(machine);
    expect(space.dma.write(100, new Uint8Array(5000))).toBe(false);
    expect(take().iova[0]).toMatch(/^0\+/);
  });

  it("counts every page of a write lease for as long as it is held, and once more at its end", () => {
    const machine = new Machine();
    machine.tables.map(0, 2, 50);
    machine.tables.map(2, 1, 10);
    const { space, take } = tracked(machine);
    const lease = space.dma.segments(0xffe, 0x1004, Access.write)!;
    const both = { iova: ["0+3"], gpa: ["10+1", "50+2"] };
    expect(take()).toEqual(both);
    expect(take()).toEqual(both);
    lease.release();
    expect(take()).toEqual(both);
    expect(take()).toEqual({ iova: [], gpa: [] });
    space.dma.segments(0, 4096, Access.read)!.release();
    expect(take()).toEqual({ iova: [], gpa: [] });
  });

  it("counts a lease that an invalidation revokes", () => {
    const machine = new Machine();
    machine.tables.map(0, 2, 50);
    const { space, take } = tracked(machine);
    const lease = space.dma.segments(0, 4096, Access.readWrite)!;
    lease.onRecall = () => lease.release();
    void machine.invalidate();
    expect(lease.valid).toBe(false);
    expect(take()).toEqual({ iova: ["0+1"], gpa: ["50+1"] });
    expect(take()).toEqual({ iova: [], gpa: [] });
  });

  it("is the only one of its address space", () => {
    const machine = new Machine();
    const first = new DirtyTracker(machine.nicSpace);
    first.start();
    first.start();
    const second = new DirtyTracker(machine.nicSpace);
    expect(() => second.start()).toThrow(IommuError);
    second.stop();
    expect(first.running).toBe(true);
    first.stop();
    second.start();
    expect(second.running).toBe(true);
  });

  it("leaves another tracker of the address space alone when it is stopped, or asked, without having been started", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 50);
    const { space, take } = tracked(machine);
    const idle = new DirtyTracker(space);
    idle.stop();
    space.dma.write(0, Uint8Array.of(1));
    const seen: number[] = [];
    idle.collect({ iova: (firstPfn) => seen.push(firstPfn), gpa: (firstPfn) => seen.push(firstPfn) });
    expect([idle.running, seen]).toEqual([false, []]);
    expect(take()).toEqual({ iova: ["0+1"], gpa: ["50+1"] });
  });

  it("tells each kind of page only to whoever asks for it, and counts translated writes by where they go", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 50);
    const space = machine.nicSpace;
    const tracker = new DirtyTracker(space);
    space.wroteTranslated(6);
    tracker.start();
    space.wroteTranslated(7);
    space.dma.write(0, Uint8Array.of(1));
    const iova: number[] = [];
    tracker.collect({ iova: (firstPfn, pageCount) => iova.push(firstPfn, pageCount) });
    expect(iova).toEqual([0, 1]);
    space.wroteTranslated(8);
    space.dma.write(0, Uint8Array.of(1));
    const gpa: number[] = [];
    tracker.collect({ gpa: (firstPfn, pageCount) => gpa.push(firstPfn, pageCount) });
    expect(gpa).toEqual([8, 1, 50, 1]);
    expect([tracker.running, (tracker.stop(), tracker.running)]).toEqual([true, false]);
  });

  it("lets unmap events say where the pages went, run by run, and only while it runs", () => {
    const machine = new Machine();
    machine.nicSpace.attach(new RecordingNotifier());
    machine.tables.map(0, 3, 100);
    machine.tables.map(3, 1, 500, Access.read);
    machine.tables.map(512, 512, 1024);
    void machine.invalidate();
    const seen = machine.watch("unmap");
    const tracker = new DirtyTracker(machine.nicSpace);
    tracker.start();
    machine.tables.unmap(0, 1024);
    void machine.invalidate();
    expect(seen.splice(0)).toEqual([
      "unmap iovaPfn=0 pageCount=3 gpaPfn=100 access=3",
      "unmap iovaPfn=3 pageCount=1 gpaPfn=500 access=1",
      "unmap iovaPfn=512 pageCount=512 gpaPfn=1024 access=3",
    ]);
    machine.tables.map(0, 3, 100);
    void machine.invalidate();
    tracker.stop();
    machine.tables.unmap(0, 3);
    void machine.invalidate();
    expect(seen).toEqual(["unmap iovaPfn=0 pageCount=3 gpaPfn=-1 access=0"]);
  });

  it("equals a model that notes every byte written", () => {
    const write = fc.record({ at: fc.nat(40_000), length: fc.integer({ min: 1, max: 9000 }), move: fc.nat(9) });
    fc.assert(
      fc.property(fc.array(write, { maxLength: 12 }), (writes) => {
        const machine = new Machine();
        machine.tables.map(0, 16, 100);
        const { space, take } = tracked(machine);
        const iova = new Set<number>();
        const gpa = new Set<number>();
        const where = new Map(Array.from({ length: 16 }, (_, pfn) => [pfn, 100 + pfn]));
        for (const { at, length, move } of writes) {
          space.dma.write(at, new Uint8Array(length));
          for (let byte = at; byte < at + length; byte++) {
            iova.add(Math.floor(byte / 4096));
            gpa.add(where.get(Math.floor(byte / 4096))!);
          }
          machine.tables.map(move, 1, 200 + move * 2);
          where.set(move, 200 + move * 2);
          void machine.invalidate();
        }
        const { iova: gotIova, gpa: gotGpa } = take();
        expect(pagesOf(gotIova)).toEqual([...iova].sort((a, b) => a - b));
        expect(pagesOf(gotGpa)).toEqual([...gpa].sort((a, b) => a - b));
      }),
    );
  });
});

describe("a frame set", () => {
  it("equals a set of numbers, and tells maximal runs in ascending order", () => {
    const range = fc.record({
      first: fc.oneof(fc.nat(10_000), fc.constant(2 ** 51)),
      count: fc.integer({ min: 1, max: 5000 }),
    });
    fc.assert(
      fc.property(fc.array(range, { maxLength: 6 }), (ranges) => {
        const set = new FrameSet();
        const model = new Set<number>();
        for (const { first, count } of ranges) {
          set.add(first, count);
          for (let pfn = first; pfn < first + count; pfn++) model.add(pfn);
        }
        expect(set.empty).toBe(model.size === 0);
        let last = -2;
        const got: number[] = [];
        set.takeRuns((first, count) => {
          expect(first).toBeGreaterThan(last + 1);
          last = first + count - 1;
          for (let pfn = first; pfn < first + count; pfn++) got.push(pfn);
        });
        expect(got).toEqual([...model].sort((a, b) => a - b));
        expect(set.empty).toBe(true);
      }),
      { numRuns: 50 },
    );
  });
});

function pagesOf(runs: readonly string[]): number[] {
  return runs.flatMap((run) => {
    const [first = 0, count = 0] = run.split("+").map(Number);
    return Array.from({ length: count }, (_, index) => first + index);
  });
}

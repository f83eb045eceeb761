/** What a consumer refused: offered as it was, dropped as far as the guest goes, and never more than the tables say. */
import { describe, expect, it } from "vitest";
import type { MapNotifier } from "../src/index.js";
import { RecordingNotifier } from "../src/testing/index.js";
import { Machine, range, run } from "./support/machine.js";

const GIB = 2 ** 18;

/** A consumer that holds frames 0 to 15. */
function mirrorOfSixteen() {
  const machine = new Machine();
  const notifier = new RecordingNotifier();
  const attachment = machine.nicSpace.attach(notifier);
  machine.tables.map(0, 16, 100);
  void machine.invalidate();
  notifier.take();
  return { notifier, attachment };
}

describe("frames that a consumer refused", () => {
  it("are offered again in blocks as large as before", () => {
    for (const granularity of ["page", "block"] as const) {
      const machine = new Machine();
      machine.tables.map(0, GIB, 0);
      machine.tables.map(GIB, 512, GIB);
      const notifier = new RecordingNotifier({ granularity, capacity: 0 });
      const attachment = machine.nicSpace.attach(notifier);
      expect(attachment.refusedPages).toBe(GIB + 512);
      notifier.take();
      notifier.capacity = 2;
      attachment.retry();
      expect(notifier.take()).toEqual(["map 0x0+262144 -> 0x0 rw", "map 0x40000+512 -> 0x40000 rw"]);
      expect(attachment.refusedPages).toBe(0);
    }
  });

  it("stay refused where only a part of them changes", () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier({ supports: (gpaPfn) => gpaPfn < 1000 });
    machine.tables.map(10, 10, 5000);
    const attachment = machine.nicSpace.attach(notifier);
    expect(attachment.refusedRanges).toEqual([range(10, 10)]);
    notifier.take();
    machine.tables.map(13, 2, 100);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["map 0xd+2 -> 0x64 rw"]);
    expect(attachment.refusedRanges).toEqual([range(10, 3), range(15, 5)]);
    expect(attachment.heldPages).toBe(2);
  });

  it("are none any more once it has failed, wherever they lie", () => {
    const machine = new Machine();
    let works = true;
    const notifier: MapNotifier = {
      kind: "map",
      granularity: "page",
      map: (_, __, gpaPfn) => {
        if (!works) throw new Error("no");
        return gpaPfn < 1000 ? undefined : gpaPfn < 2000 ? "full" : "unsupported";
      },
      unmap: () => undefined,
    };
    for (const [pfn, gpaPfn] of [
      [0, 1],
      [10, 1500],
      [20, 2500],
    ] as const)
      machine.tables.map(pfn, 1, gpaPfn);
    const attachment = machine.nicSpace.attach(notifier);
    expect(attachment).toMatchObject({ heldPages: 1, refusedRanges: [range(10, 1), range(20, 1)] });
    works = false;
    machine.tables.map(30, 1, 2);
    void machine.invalidate();
    expect(attachment).toMatchObject({ state: "failed", heldPages: 0, refusedPages: 0, refusedRanges: [] });
  });
});

describe("frames that a consumer says it has given up", () => {
  it.each([
    ["more frames than the tables map", 14, 4, 114, 3],
    ["frames that lead elsewhere", 4, 2, 105, 3],
    ["rights that they do not have", 4, 2, 104, 1],
  ] as const)(
    "end its attachment when they are offered again if they were %s",
    (_what, iovaPfn, pageCount, gpaPfn, access) => {
      const { notifier, attachment } = mirrorOfSixteen();
      notifier.reports?.refused(iovaPfn, pageCount, gpaPfn, access, "full");
      notifier.reports?.retry();
      expect(attachment.failure).toMatchObject({ code: "notifier-contract" });
      expect(notifier.take()).toEqual(["revoke"]);
      expect(attachment).toMatchObject({ heldPages: 0, refusedPages: 0 });
    },
  );

  it.each([
    [4.5, 1],
    [4, 1.5],
    [4, 0],
    [4, -1],
    [-1, 1],
    [Number.NaN, 1],
    [4, Number.NaN],
    [4, Infinity],
  ])("end its attachment at once if they are no frames: %d and %d of them", (firstPfn, pageCount) => {
    const { notifier, attachment } = mirrorOfSixteen();
    expect(() => notifier.reports?.refused(firstPfn, pageCount, 104, 3, "full")).not.toThrow();
    expect(attachment.failure).toMatchObject({ code: "notifier-contract" });
    expect(attachment).toMatchObject({ heldPages: 0, refusedPages: 0 });
  });

  it("are no reason to keep it when it is detached, not even if they never were its own", () => {
    const { notifier, attachment } = mirrorOfSixteen();
    notifier.reports?.refused(1000, 4, 2000, 3, "full");
    expect(attachment.refusedRanges).toEqual([range(1000, 4)]);
    expect(attachment.detach()).toBeUndefined();
    expect(attachment.state).toBe("detached");
    expect(notifier.take()).toEqual(["unmap 0x0+16"]);
  });

  it("end the attachment of one that is given blocks unless they are whole ones, at either end", () => {
    for (const [firstPfn, pageCount, state] of [
      [4, 4, "active"],
      [4, 8, "active"],
      [6, 2, "failed"],
      [4, 2, "failed"],
      [5, 2, "failed"],
      [2, 6, "failed"],
      [6, 6, "failed"],
    ] as const) {
      const machine = new Machine();
      const notifier = new RecordingNotifier({ granularity: "block", largestBlock: 4 });
      const attachment = machine.nicSpace.attach(notifier);
      machine.tables.map(0, 16, 100);
      void machine.invalidate();
      notifier.reports?.refused(firstPfn, pageCount, 100 + firstPfn, 3, "full");
      expect([firstPfn, pageCount, attachment.state]).toEqual([firstPfn, pageCount, state]);
      if (state === "active") expect(attachment.refusedRanges).toEqual([range(firstPfn, pageCount)]);
    }
  });
});

describe("a block that the guest cuts", () => {
  it.each([
    ["at its end", 1000, 24],
    ["at its end, and what lies behind it", 1000, 300],
    ["at its beginning", 512, 8],
    ["at its beginning, and what lies before it", 0, 520],
    ["in the middle", 600, 1],
  ])("%s is put back but for what is gone", (_where, firstPfn, pageCount) => {
    for (const target of [undefined, 2 ** 21]) {
      for (const replace of [false, true]) {
        const machine = new Machine();
        machine.tables.map(0, 3 * 512, 2 ** 20);
        const notifier = new RecordingNotifier({ granularity: "block", replace });
        const attachment = machine.nicSpace.attach(notifier);
        const windows: [number, number][] = [];
        machine.unit.events.on("window", (event) => windows.push([event.iovaPfn, event.pageCount]));
        if (target === undefined) machine.tables.unmap(firstPfn, pageCount);
        else machine.tables.map(firstPfn, pageCount, target);
        void machine.invalidate();
        const end = firstPfn + pageCount;
        const rest = [
          ...(firstPfn > 0 ? [run(0, firstPfn, 2 ** 20)] : []),
          ...(target === undefined ? [] : [run(firstPfn, pageCount, target)]),
          run(end, 3 * 512 - end, 2 ** 20 + end),
        ];
        expect(notifier.held()).toEqual(rest);
        expect(attachment).toMatchObject({ state: "active", refusedPages: 0 });
        // Unmapped for a moment are only frames that shared a block with others that went or changed, and what changes where nothing replaces it: each named once.
        const cut = (pfn: number): boolean => {
          const block = pfn - (pfn % 512);
          return (firstPfn > block && firstPfn < block + 512) || (end > block && end < block + 512);
        };
        const named = windows.flatMap(([first, count]) => Array.from({ length: count }, (_, i) => first + i));
        expect(new Set(named).size).toBe(named.length);
        const expected = Array.from({ length: 3 * 512 }, (_, pfn) => pfn).filter((pfn) => {
          const within = pfn >= firstPfn && pfn < end;
          return target === undefined ? cut(pfn) && !within : cut(pfn) || (within && !replace);
        });
        expect(named.toSorted((a, b) => a - b).join()).toBe(expected.join());
        notifier.check();
      }
    }
  });
});

describe("what was put back of a block", () => {
  it("changes and goes like anything else, in the next invalidation as in later ones", () => {
    for (const replace of [false, true]) {
      const machine = new Machine();
      machine.tables.map(512, 512, 2 ** 20);
      const notifier = new RecordingNotifier({ granularity: "block", replace });
      machine.nicSpace.attach(notifier);
      machine.tables.unmap(600, 1);
      void machine.invalidate();
      for (const [pfn, gpaPfn] of [
        [601, 1],
        [512, 2],
        [1023, 3],
        [601, 4],
      ] as const) {
        machine.tables.map(pfn, 1, gpaPfn);
        void machine.invalidate();
        expect(notifier.lookup(pfn)).toEqual({ gpaPfn, access: 3 });
        void machine.invalidate();
        expect(notifier.lookup(pfn)).toEqual({ gpaPfn, access: 3 });
      }
      machine.tables.unmap(512, 512);
      void machine.invalidate();
      expect(notifier.held()).toEqual([]);
      notifier.check();
    }
  });

  it("is told once to a consumer that can replace: what the block was put back as is no change any more, at each place where one is cut", () => {
    const machine = new Machine();
    machine.tables.map(0, 3 * 512, 2 ** 20);
    const notifier = new RecordingNotifier({ granularity: "block", replace: true });
    machine.nicSpace.attach(notifier);
    for (const block of [0, 512, 1024]) {
      machine.tables.unmap(block + 3, 1);
      machine.tables.map(block + 5, 1, 1 + block);
    }
    notifier.take();
    void machine.invalidate();
    expect(notifier.take().filter((call) => !call.startsWith("map"))).toEqual([
      "unmap 0x0+512",
      "unmap 0x200+512",
      "unmap 0x400+512",
    ]);
    for (const block of [0, 512, 1024]) expect(notifier.lookup(block + 5)?.gpaPfn).toBe(1 + block);
    notifier.check();
  });
});

describe("a block beside one that the guest cuts", () => {
  it.each([0, 4])("is told that it leads elsewhere, when the block at %d is the one that is cut", (cut) => {
    for (const replace of [false, true]) {
      const machine = new Machine();
      const beside = 4 - cut;
      let runs = [run(cut, 4, 100 + cut), run(beside, 4, 100 + beside)];
      machine.tables.scan = (part, sink) => {
        for (const { iovaPfn, pageCount, gpaPfn, access } of runs.toSorted((a, b) => a.iovaPfn - b.iovaPfn))
          if (iovaPfn >= part.firstPfn && !sink.run(iovaPfn, pageCount, gpaPfn, access)) return;
      };
      const notifier = new RecordingNotifier({ granularity: "block", replace });
      machine.nicSpace.attach(notifier);
      runs = [run(cut, 3, 100 + cut), run(beside, 4, 200)];
      void machine.invalidate();
      expect(notifier.lookup(beside)).toEqual({ gpaPfn: 200, access: 3 });
      expect(notifier.held()).toEqual(runs.toSorted((a, b) => a.iovaPfn - b.iovaPfn));
      notifier.check();
    }
  });
});

describe("runs that a backend tells one by one", () => {
  it("are blocks of their own, also where the next one goes on where they end", () => {
    const machine = new Machine();
    machine.tables.scan = (part, sink) => {
      for (const first of [0, 2, 4]) if (first >= part.firstPfn && !sink.run(first, 2, 100 + first, 3)) return;
    };
    const block = new RecordingNotifier({ granularity: "block" });
    const page = new RecordingNotifier();
    machine.nicSpace.attach(block);
    machine.diskSpace.attach(page);
    expect(block.take()).toEqual(["map 0x0+2 -> 0x64 rw", "map 0x2+2 -> 0x66 rw", "map 0x4+2 -> 0x68 rw"]);
    expect(page.held()).toEqual([run(0, 6, 100)]);
  });
});

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Access, IommuError } from "../src/index.js";
import {
  FakeMemory,
  ManualScheduler,
  PageTables,
  RecordingFlushNotifier,
  RecordingNotifier,
  type RecordingNotifierOptions,
  type Run,
  RunList,
} from "../src/testing/index.js";
import { range, run } from "./support/machine.js";

describe("FakeMemory", () => {
  it("equals a byte array with holes, for any sequence of accesses", () => {
    const access = fc.record({
      kind: fc.constantFrom("read", "write", "word", "exchange", "fetch", "poison", "heal"),
      at: fc.oneof(fc.nat(20 * 4096), fc.constantFrom(0, 4090, 4 * 4096 - 2, 5 * 4096 - 4)),
      length: fc.oneof(fc.nat(20), fc.constantFrom(4096, 9000)),
      value: fc.integer(),
    });
    fc.assert(
      fc.property(fc.array(access, { maxLength: 25 }), fc.boolean(), (accesses, windows) => {
        const memory = new FakeMemory({ ram: [range(0, 4), range(5, 1), range(8, 40)], windows });
        const bytes = new Uint8Array(64 * 4096);
        const words = new DataView(bytes.buffer);
        const poisoned = new Set<number>();
        const isRam = (gpa: number): boolean => {
          const pfn = Math.floor(gpa / 4096);
          return (pfn < 4 || pfn === 5 || (pfn >= 8 && pfn < 48)) && !poisoned.has(pfn);
        };
        for (const { kind, at, length, value } of accesses) {
          const aligned = at - (at % 4);
          let reachable = true;
          for (let gpa = at; gpa < at + length; gpa++) reachable &&= isRam(gpa);
          if (kind === "poison") memory.poison(Math.floor(at / 4096));
          if (kind === "heal") memory.heal(Math.floor(at / 4096));
          if (kind === "poison") poisoned.add(Math.floor(at / 4096));
          if (kind === "heal") poisoned.delete(Math.floor(at / 4096));
          if (kind === "read") {
            const into = new Uint8Array(length);
            expect(memory.read(at, into)).toBe(reachable);
            if (reachable) expect(Buffer.compare(into, bytes.subarray(at, at + length))).toBe(0);
          }
          if (kind === "write" && (reachable || length === 0)) {
            const from = new Uint8Array(length).fill(value & 0xff);
            expect(memory.write(at, from)).toBe(true);
            bytes.set(from, at);
          }
          if (kind === "word") {
            expect(memory.writeWord(aligned, value)).toBe(isRam(aligned));
            if (isRam(aligned)) words.setInt32(aligned, value, true);
          }
          if (kind === "exchange") {
            const expected = value % 2 === 0 ? words.getInt32(aligned, true) : value;
            const done = isRam(aligned) && words.getInt32(aligned, true) === expected;
            expect(memory.compareExchange(aligned, expected, 77)).toBe(done);
            if (done) words.setInt32(aligned, 77, true);
          }
          if (kind === "fetch") {
            const into = new Int32Array(4);
            const gpa = at - (at % 16);
            expect(memory.fetch(gpa, into)).toBe(isRam(gpa));
            if (isRam(gpa)) expect([...into]).toEqual([0, 4, 8, 12].map((i) => words.getInt32(gpa + i, true)));
          }
          const window = memory.window?.(Math.floor(at / 4096));
          if (window === undefined || window.words.length === 0) continue;
          expect(window.words[(aligned - window.firstPfn * 4096) / 4]).toBe(words.getInt32(aligned, true));
        }
      }),
      { numRuns: 80 },
    );
  });

  it("costs nothing for address space that nobody touches", () => {
    const memory = new FakeMemory({ ram: [range(0, 2 ** 40)], windows: true });
    expect(memory.writeWord(2 ** 51, 5)).toBe(true);
    expect(memory.peek(2 ** 51)).toBe(5);
    expect(memory.peek(2 ** 50)).toBe(0);
  });

  it("counts what was read, and what was refused too", () => {
    const memory = new FakeMemory({ ram: [range(0, 1)] });
    memory.read(0, new Uint8Array(4));
    memory.fetch(4096, new Int32Array(8));
    memory.write(0, new Uint8Array(4));
    memory.compareExchange(0, 1, 1);
    expect(memory.counters).toEqual({ reads: 1, writes: 1, fetches: 1, fetchedWords: 8, compareExchanges: 1 });
    memory.resetCounters();
    expect(memory.counters).toEqual({ reads: 0, writes: 0, fetches: 0, fetchedWords: 0, compareExchanges: 0 });
  });

  it("ends a window when a page of it is poisoned or unplugged, and gives a new one after that", () => {
    const memory = new FakeMemory({ ram: [range(0, 64)], windows: true });
    const window = memory.window!(3)!;
    expect(memory.window!(3)).toBe(window);
    expect(memory.window!(15)).toBe(window);
    memory.poke(3 * 4096, 9);
    expect(window.words[3 * 1024]).toBe(9);
    memory.poison(4);
    expect(window.words).toHaveLength(0);
    expect(memory.window!(3)).toBeUndefined();
    memory.heal(4);
    const next = memory.window!(3)!;
    expect(next.words[3 * 1024]).toBe(9);
    memory.setRam([range(16, 48)]);
    expect(next.words).toHaveLength(0);
    expect(memory.window!(3)).toBeUndefined();
    expect(new FakeMemory().window).toBeUndefined();
  });

  it("counts generations of frames that change, whoever changes them", () => {
    const memory = new FakeMemory({ generations: true });
    const at = (): number[] => [0, 1, 2].map((pfn) => memory.generation!(pfn));
    expect(at()).toEqual([0, 0, 0]);
    memory.write(4090, new Uint8Array(10));
    expect(at()).toEqual([1, 1, 0]);
    memory.poke(8192, 1);
    memory.writeWord(8192, 2);
    memory.clear(1);
    expect(at()).toEqual([1, 2, 2]);
    memory.compareExchange(0, 1, 2);
    memory.read(0, new Uint8Array(1));
    expect(at()).toEqual([1, 2, 2]);
    expect(new FakeMemory().generation).toBeUndefined();
  });

  it("counts a frame that is lost, found, plugged or unplugged as changed: whoever is vouched for does not read", () => {
    const memory = new FakeMemory({ generations: true });
    const seen = new Set([memory.generation!(1)]);
    for (const change of [
      () => memory.poison(1),
      () => memory.heal(1),
      () => memory.setRam([range(0, 1)]),
      () => memory.setRam([range(0, 2)]),
    ]) {
      change();
      expect(seen).not.toContain(memory.generation!(1));
      seen.add(memory.generation!(1));
    }
  });

  it("refuses RAM that overlaps or descends", () => {
    expect(() => new FakeMemory({ ram: [range(0, 5), range(4, 1)] })).toThrow(IommuError);
    expect(() => new FakeMemory().setRam([range(8, 1), range(0, 1)])).toThrow(/ascending, disjoint/);
  });
});

describe("ManualScheduler", () => {
  it("runs deferred tasks a turn at a time, and time-outs when time passes, in order", async () => {
    const scheduler = new ManualScheduler();
    const seen: string[] = [];
    scheduler.defer(() => {
      seen.push("a");
      scheduler.defer(() => seen.push("b"));
    });
    scheduler.after(20, () => seen.push("late"));
    const cancel = scheduler.after(5, () => seen.push("cancelled"));
    scheduler.after(10, () => {
      seen.push("early");
      scheduler.after(5, () => seen.push("nested"));
    });
    cancel();
    expect(scheduler.turn()).toBe(1);
    expect(seen).toEqual(["a"]);
    expect(scheduler.deferredCount).toBe(1);
    await scheduler.idle();
    scheduler.advance(12);
    expect(seen).toEqual(["a", "b", "early"]);
    scheduler.advance(8);
    expect(seen).toEqual(["a", "b", "early", "nested", "late"]);
    expect(scheduler.timerCount).toBe(0);
    expect(scheduler.now).toBe(20);
  });

  it("says so when work never ends", async () => {
    const scheduler = new ManualScheduler();
    const again = (): void => scheduler.defer(again);
    again();
    await expect(scheduler.idle(50)).rejects.toThrow("still busy after 50 turns");
  });
});

/** Walks tables word by word. */
function walk(memory: FakeMemory, tables: PageTables, iovaPfn: number): { gpaPfn: number; access: number } | undefined {
  let table = tables.rootPfn;
  for (let level = tables.levels; ; level--) {
    const span = 512 ** (level - 1);
    const gpa = table * 4096 + (Math.floor(iovaPfn / span) % 512) * 8;
    const low = memory.peek(gpa);
    const frame = (memory.peek(gpa + 4) >>> 0) * 2 ** 20 + (low >>> 12);
    if ((low & 3) === 0) return undefined;
    if (level === 1 || (low & 0x80) !== 0) return { gpaPfn: frame + (iovaPfn % span), access: low & 3 };
    table = frame;
  }
}

describe("PageTables", () => {
  it("says of every frame what a map of runs says, after any edits with leaves of three sizes", () => {
    const edit = fc.record({
      op: fc.constantFrom("map", "map", "unmap", "split"),
      leaf: fc.constantFrom(1, 1, 512, 2 ** 18),
      at: fc.nat(2),
      offset: fc.nat(1100),
      count: fc.integer({ min: 1, max: 700 }),
      gpa: fc.constantFrom(0, 2 ** 18, 2 ** 30),
      access: fc.constantFrom<Access>(1, 2, 3),
    });
    fc.assert(
      fc.property(fc.array(edit, { maxLength: 8 }), fc.constantFrom(3, 4, 5), (edits, levels) => {
        const memory = new FakeMemory();
        const tables = new PageTables(memory, { levels });
        const model = new RunList();
        for (const { op, leaf, at, offset, count, gpa, access } of edits) {
          const first = leaf === 1 ? offset : (at % 2) * leaf;
          const pages = leaf === 1 ? count : leaf;
          if (op === "split") tables.split(first);
          else if (op === "map") tables.map(first, pages, gpa, access, leaf);
          else tables.unmap(first, pages);
          if (op === "map") model.set({ iovaPfn: first, pageCount: pages, gpaPfn: gpa, access });
          if (op === "unmap") model.delete(first, pages);
        }
        for (const pfn of [0, 1, 511, 512, 513, 1023, 1024, 1500, 1799, 2 ** 18 - 1, 2 ** 18, 2 ** 19 - 1, 2 ** 19]) {
          expect(walk(memory, tables, pfn)).toEqual(model.lookup(pfn));
        }
        for (const { offset, count } of edits) {
          for (const pfn of [offset - 1, offset, offset + count - 1, offset + count]) {
            if (pfn >= 0) expect(walk(memory, tables, pfn)).toEqual(model.lookup(pfn));
          }
        }
      }),
      { numRuns: 60 },
    );
  });

  it("refuses what does not fit a leaf", () => {
    const tables = new PageTables(new FakeMemory());
    expect(() => tables.map(1, 512, 512, 3, 512)).toThrow(/multiples of 512 pages, got 1/);
    expect(() => tables.map(0, 512, 5, 3, 512)).toThrow(/multiples of 512 pages, got 5/);
    expect(() => tables.map(0, 64, 0, 3, 64)).toThrow(/expected leaves of 1, 512 or 262144 pages/);
    expect(tables.tableCount).toBe(1);
  });
});

describe("RunList", () => {
  it("equals a map of single frames", () => {
    const step = fc.record({
      at: fc.nat(60),
      count: fc.integer({ min: 1, max: 20 }),
      gpa: fc.nat(90),
      set: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
        const list = new RunList();
        const model = new Map<number, number>();
        for (const { at, count, gpa, set } of steps) {
          if (set) list.set(run(at, count, gpa));
          else list.delete(at, count);
          for (let i = 0; i < count; i++) {
            if (set) model.set(at + i, gpa + i);
            else model.delete(at + i);
          }
        }
        for (let pfn = 0; pfn < 85; pfn++) expect(list.lookup(pfn)?.gpaPfn).toBe(model.get(pfn));
        expect(list.pageCount).toBe(model.size);
        const joined: Run[] = list.joined(10, 30);
        const pages = joined.flatMap(({ iovaPfn, pageCount }) =>
          Array.from({ length: pageCount }, (_, i) => iovaPfn + i),
        );
        expect(pages).toEqual([...model.keys()].filter((pfn) => pfn >= 10 && pfn < 40).sort((a, b) => a - b));
        expect(list.covers(10, 30)).toBe(pages.length === 30);
      }),
    );
  });
});

describe("RecordingNotifier objects to", () => {
  const begun = (options: RecordingNotifierOptions = {}): RecordingNotifier => {
    const notifier = new RecordingNotifier({ replace: true, ...options });
    notifier.begin?.();
    return notifier;
  };
  const cases: [string, RegExp, () => unknown][] = [
    [
      "a map over a held page",
      /holds 4 pages from 0x0 on already/,
      () => {
        const notifier = begun();
        void notifier.map(0, 4, 1, 3);
        void notifier.map(3, 1, 1, 3);
      },
    ],
    [
      "an unmap of an unheld page",
      /not all of it is held/,
      () => {
        const notifier = begun();
        void notifier.map(0, 4, 1, 3);
        void notifier.unmap(3, 2);
      },
    ],
    [
      "an unmap that cuts a block",
      /cuts the block of 4 pages at 0x0/,
      () => {
        const notifier = begun({ granularity: "block" });
        void notifier.map(0, 4, 1, 3);
        void notifier.unmap(0, 1);
      },
    ],
    [
      "a block that is not aligned",
      /not a naturally aligned block/,
      () => begun({ granularity: "block" }).map(1, 2, 1, 3),
    ],
    [
      "a block that is no power of two",
      /not a naturally aligned block/,
      () => begun({ granularity: "block" }).map(0, 3, 1, 3),
    ],
    ["more than its largest block", /more than 2 pages/, () => begun({ largestBlock: 2 }).map(0, 3, 1, 3)],
    ["a map without rights", /no rights/, () => begun().map(0, 1, 1, 0)],
    ["a range that is not frames", /not a range of frames/, () => begun().map(0.5, 1, 1, 3)],
    ["an empty range", /not a range of frames/, () => begun().unmap(0, 0)],
    ["a negative target", /not a target/, () => begun().map(0, 1, -1, 3)],
    [
      "a frame outside of its range",
      /outside of 0x10..0x1f/,
      () => begun({ range: range(0x10, 16) }).map(0x1f, 2, 1, 3),
    ],
    ["a call outside of a step", /outside of begin and commit/, () => new RecordingNotifier().map(0, 1, 1, 3)],
    ["a step in a step", /begin inside of a step/, () => begun().begin?.()],
    ["a commit without begin", /commit outside of a step/, () => new RecordingNotifier().commit?.()],
    ["a step that is never committed", /never committed/, () => begun().end()],
    ["a replace of an unheld page", /not all of it is held/, () => begun().replace?.(0, 1, 1, 3)],
    [
      "a replace that changes nothing",
      /changes nothing/,
      () => {
        const notifier = begun();
        void notifier.map(0, 4, 1, 3);
        void notifier.replace?.(1, 2, 2, 3);
      },
    ],
    [
      "an unmap of a page that stays mapped",
      /0x1 stays mapped/,
      () => {
        const notifier = begun({ truth: (pfn) => (pfn === 1 ? { gpaPfn: 2, access: 3 } : undefined) });
        void notifier.map(0, 4, 1, 3);
        void notifier.unmap(0, 2);
      },
    ],
    [
      "a call after the end",
      /after the end of its attachment/,
      () => {
        const notifier = new RecordingNotifier({ steps: false });
        notifier.end();
        void notifier.map(0, 1, 1, 3);
      },
    ],
    [
      "a call after revoke",
      /after the end of its attachment/,
      () => {
        const notifier = new RecordingNotifier({ steps: false });
        notifier.revoke(new IommuError("notifier-failed", "x", { hint: "y" }));
        void notifier.unmap(0, 1);
      },
    ],
    [
      "pages held at the end",
      /still holds 1 pages/,
      () => {
        const notifier = new RecordingNotifier({ steps: false });
        void notifier.map(0, 1, 1, 3);
        notifier.end();
      },
    ],
  ];
  it.each(cases)("%s", (_name, message, breach) => {
    expect(breach).toThrow(message);
  });

  it("nothing that keeps the contract, and remembers a breach for check()", () => {
    const notifier = begun({ granularity: "block", truth: () => undefined });
    void notifier.map(0, 4, 1, 3);
    void notifier.replace?.(0, 4, 2, 3);
    void notifier.unmap(0, 4);
    void notifier.commit?.();
    notifier.end();
    notifier.check();
    expect(() => notifier.map(0, 1, 1, 3)).toThrow("after the end");
    expect(() => notifier.check()).toThrow(/after the end/);
  });

  it("RecordingFlushNotifier: a range that is empty, outside of its own, or after the end", () => {
    const notifier = new RecordingFlushNotifier({ range: range(10, 10) });
    expect(() => notifier.unmap(9, 2)).toThrow(/outside of its range/);
    expect(() => notifier.unmap(19, 2)).toThrow(/outside of its range/);
    expect(() => notifier.unmap(10, 0)).toThrow(/outside of its range/);
    expect(notifier.unmap(10, 10)).toBeUndefined();
    notifier.end();
    expect(() => notifier.unmap(10, 10)).toThrow(/after the end/);
    expect(() => notifier.check()).toThrow("after the end");
    expect(notifier.take()).toHaveLength(5);
  });
});

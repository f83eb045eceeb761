/** The account that the unit keeps of a consumer, where answers come late, calls fail, and superpages are many blocks. */
import { describe, expect, it } from "vitest";
import type { MapAnswer, MapNotifier } from "../src/index.js";
import { RecordingNotifier, SimpleDomain } from "../src/testing/index.js";
import { answering } from "./support/answering.js";
import { Machine, range, run } from "./support/machine.js";

const GIB = 2 ** 18;

/** Calls of a consumer in each turn of the host's event loop, from what the guest does on. */
async function turnsOf(machine: Machine, notifier: RecordingNotifier, act: () => unknown): Promise<number[]> {
  machine.unit.hub.queue.beginSlice();
  notifier.take();
  const done = act();
  const turns = [notifier.take().length];
  while (machine.scheduler.turn() > 0) turns.push(notifier.take().length);
  await Promise.all([done, machine.scheduler.idle()]);
  notifier.check();
  return turns.filter((calls) => calls > 0);
}

describe("a consumer of blocks under superpages", () => {
  it("loses the blocks of the superpage that goes, and no others", async () => {
    for (const replace of [false, true]) {
      const machine = new Machine();
      machine.tables.map(0, 4 * GIB, GIB);
      const notifier = new RecordingNotifier({ granularity: "block", largestBlock: 1024, replace });
      const attachment = machine.nicSpace.attach(notifier);
      await machine.scheduler.idle();
      machine.tables.unmap(GIB, GIB);
      void machine.invalidate();
      await machine.scheduler.idle();
      expect(notifier.held()).toEqual([run(0, GIB, GIB), run(2 * GIB, 2 * GIB, 3 * GIB)]);
      expect(attachment.heldPages).toBe(3 * GIB);
      machine.tables.map(2 * GIB, GIB, 0);
      void machine.invalidate();
      await machine.scheduler.idle();
      expect(notifier.held()).toEqual([run(0, GIB, GIB), run(2 * GIB, GIB, 0), run(3 * GIB, GIB, 4 * GIB)]);
      notifier.check();
    }
  });

  it("is told of a superpage that its range begins in the midst of, in steps of a table's calls, and keeps what lies beyond", async () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 1 } });
    machine.tables.map(GIB, GIB, 0);
    machine.tables.map(2 * GIB, 512, 2 * GIB);
    const mine = range(GIB + 1000, GIB);
    const notifier = new RecordingNotifier({ granularity: "block", largestBlock: 1, range: mine });
    // Of one page each, so many that no step may take all of them.
    const PAGES = 3000;
    const small = new SimpleDomain("small");
    for (let pfn = 0; pfn < PAGES; pfn++) small.map(mine.firstPfn + pfn, 1, 1000 + pfn);
    machine.diskSpace.attach(new RecordingNotifier());
    await Promise.all([machine.backend.assign(machine.nic, small), machine.scheduler.idle()]);
    const attachment = machine.nicSpace.attach(notifier, { range: mine });
    await machine.scheduler.idle();
    expect(attachment.heldPages).toBe(PAGES);
    const turns = await turnsOf(machine, notifier, () => {
      small.unmap(0, 2 ** 40);
      return machine.backend.invalidate(small);
    });
    expect(Math.max(...turns)).toBeLessThanOrEqual(512);
    expect(turns.reduce((sum, calls) => sum + calls)).toBe(PAGES);
    expect(attachment).toMatchObject({ heldPages: 0, refusedPages: 0 });
  });

  it.each([
    ["block", GIB + 100],
    ["page", GIB],
  ] as const)(
    "that holds a superpage of another domain in small blocks is told in steps that it changes, and that it goes (%s, from %d on)",
    async (granularity, firstPfn) => {
      const PAGES = 1100;
      const machine = new Machine({ limits: { mappingsPerSlice: 1 } });
      machine.tables.map(GIB, GIB, 4 * GIB);
      machine.tables.map(2 * GIB, GIB, 8 * GIB);
      const keeper = new RecordingNotifier();
      machine.diskSpace.attach(keeper);
      const small = new SimpleDomain("small");
      for (let pfn = 0; pfn < PAGES; pfn++) {
        small.map(GIB + pfn, 1, 4 * GIB + pfn);
        // Told one by one, so that no two of them are one run.
        if (pfn % 2 === 1) small.map(GIB + pfn, 1, 4 * GIB + pfn, 1);
      }
      small.map(2 * GIB, GIB, 8 * GIB);
      await Promise.all([machine.backend.assign(machine.nic, small), machine.scheduler.idle()]);
      const mine = range(firstPfn, 2 * GIB);
      const notifier = new RecordingNotifier({ granularity, range: mine, supports: (gpaPfn) => gpaPfn % 4 !== 1 });
      const attachment = machine.nicSpace.attach(notifier, { range: mine });
      await machine.scheduler.idle();
      for (let pfn = 1; pfn < PAGES; pfn += 2) small.map(GIB + pfn, 1, 4 * GIB + pfn);
      await Promise.all([machine.backend.invalidate(small), machine.scheduler.idle()]);
      await Promise.all([machine.backend.assign(machine.nic, machine.tables), machine.scheduler.idle()]);
      const inRange = 2 * GIB - (firstPfn - GIB);
      expect(attachment.heldPages + attachment.refusedPages).toBe(inRange);

      const changed = await turnsOf(machine, notifier, () => {
        machine.tables.map(GIB, GIB, 12 * GIB);
        return machine.invalidate();
      });
      expect(Math.max(...changed)).toBeLessThanOrEqual(2 * 512);
      expect(notifier.lookup(2 * GIB)).toEqual({ gpaPfn: 8 * GIB, access: 3 });
      expect(notifier.lookup(2 * GIB - 1)?.gpaPfn).toBe(13 * GIB - 1);

      const gone = await turnsOf(machine, notifier, () => {
        machine.tables.unmap(GIB, GIB);
        return machine.invalidate();
      });
      expect(Math.max(...gone)).toBeLessThanOrEqual(2 * 512);
      expect(notifier.held()).toEqual([run(2 * GIB, GIB, 8 * GIB)]);
      expect(attachment.refusedPages).toBe(0);
    },
  );

  describe("that holds the beginning of a superpage of another domain in many blocks", () => {
    // As many of them as a leaf table has frames end in the midst of the second table.
    const sizes = [...Array<number>(300).fill(2), ...Array<number>(212).fill(1), ...Array<number>(53).fill(4)];

    async function moved() {
      const machine = new Machine({ limits: { mappingsPerSlice: 1 } });
      machine.tables.map(0, GIB, 4 * GIB);
      const keeper = new RecordingNotifier();
      const notifier = new RecordingNotifier({ granularity: "block", replace: true });
      machine.diskSpace.attach(keeper);
      const small = new SimpleDomain("small");
      small.scan = (part, sink) => {
        let first = 0;
        for (const pageCount of sizes) {
          if (first >= part.firstPfn && !sink.run(first, pageCount, 4 * GIB + first, 3)) return;
          first += pageCount;
        }
      };
      await Promise.all([machine.backend.assign(machine.nic, small), machine.scheduler.idle()]);
      machine.nicSpace.attach(notifier);
      await machine.scheduler.idle();
      expect(notifier.entries).toHaveLength(sizes.length);
      await Promise.all([machine.backend.assign(machine.nic, machine.tables), machine.scheduler.idle()]);
      expect(notifier.held()).toEqual([run(0, GIB, 4 * GIB)]);
      return { machine, keeper, notifier };
    }

    it("is told in parts that it changes", async () => {
      const { machine, notifier } = await moved();
      const turns = await turnsOf(machine, notifier, () => {
        machine.tables.map(0, GIB, 8 * GIB);
        return machine.invalidate();
      });
      expect(Math.max(...turns)).toBeLessThanOrEqual(512);
      expect(notifier.held()).toEqual([run(0, GIB, 8 * GIB)]);
    });

    it("is told in whole tables that it goes, and nobody loses what lies behind", async () => {
      const { machine, keeper, notifier } = await moved();
      keeper.take();
      machine.tables.unmap(0, 1024);
      await Promise.all([machine.invalidate(), machine.scheduler.idle()]);
      for (const each of [notifier, keeper]) expect(each.held()).toEqual([run(1024, GIB - 1024, 4 * GIB + 1024)]);
      expect(keeper.take()).toEqual(["unmap 0x0+512", "unmap 0x200+512"]);
    });
  });

  it("is told of one superpage in a slice if that is as many calls as a slice may have", async () => {
    for (const granularity of ["page", "block"] as const) {
      const machine = new Machine({ limits: { mappingsPerSlice: 100 } });
      machine.tables.map(0, 4 * GIB, 0);
      const notifier = new RecordingNotifier({ granularity, largestBlock: 512, replace: true });
      const mapped = await turnsOf(machine, notifier, () => machine.nicSpace.attach(notifier));
      expect(mapped).toEqual([512, 512, 512, 512]);
      const changed = await turnsOf(machine, notifier, () => {
        machine.tables.map(0, 4 * GIB, 4 * GIB);
        return machine.invalidate();
      });
      expect(changed).toEqual([512, 512, 512, 512]);
      const unmapped = await turnsOf(machine, notifier, () => {
        machine.tables.unmap(0, 4 * GIB);
        return machine.invalidate();
      });
      expect(unmapped).toEqual(granularity === "page" ? [4] : [512, 512, 512, 512]);
    }
  });

  it("is told of as many superpages in a slice as their blocks are calls", async () => {
    for (const granularity of ["page", "block"] as const) {
      const machine = new Machine({ limits: { mappingsPerSlice: 2 } });
      machine.tables.map(0, 2048, 0);
      const notifier = new RecordingNotifier({ granularity, largestBlock: 256, replace: true });
      expect(await turnsOf(machine, notifier, () => machine.nicSpace.attach(notifier))).toEqual([2, 2, 2, 2]);
      const changed = await turnsOf(machine, notifier, () => {
        machine.tables.map(0, 2048, 4096);
        return machine.invalidate();
      });
      expect(changed).toEqual([2, 2, 2, 2]);
    }
  });

  it("is offered again in a slice as many blocks of what it refused as a slice has mappings", async () => {
    for (const granularity of ["page", "block"] as const) {
      const machine = new Machine({ limits: { mappingsPerSlice: 64 } });
      machine.tables.map(0, 2048, 0);
      const notifier = new RecordingNotifier({ granularity, largestBlock: 8, capacity: 0 });
      const attachment = machine.nicSpace.attach(notifier);
      await machine.scheduler.idle();
      notifier.capacity = Infinity;
      expect(await turnsOf(machine, notifier, () => attachment.retry())).toEqual([64, 64, 64, 64]);
      expect(attachment).toMatchObject({ heldPages: 2048, refusedPages: 0 });
    }
  });

  it("is not offered the rest of a superpage that found no room, nor more than the view may have", () => {
    for (const granularity of ["page", "block"] as const) {
      const full = new Machine();
      full.tables.map(0, GIB, 0);
      const notifier = new RecordingNotifier({ granularity, largestBlock: 512, capacity: 2 });
      const attachment = full.nicSpace.attach(notifier);
      expect(notifier.take()).toHaveLength(3);
      expect(attachment).toMatchObject({ heldPages: 1024, refusedRanges: [range(1024, GIB - 1024)] });
      notifier.capacity = 4;
      attachment.retry();
      expect(notifier.take()).toHaveLength(3);
      expect(attachment.heldPages).toBe(2048);

      const bounded = new Machine({ limits: { mappingsPerView: 3 } });
      bounded.tables.map(0, 4096, 0);
      const other = new RecordingNotifier({ granularity, largestBlock: 512 });
      const second = bounded.nicSpace.attach(other);
      const refused = bounded.watch("refused");
      expect(second).toMatchObject({ heldPages: 0, refusedPages: 0 });
      bounded.tables.unmap(0, 4096);
      bounded.tables.map(0, 512, 0);
      bounded.tables.map(GIB, GIB, 0);
      void bounded.invalidate();
      expect(second).toMatchObject({ heldPages: 1536, refusedRanges: [range(GIB + 1024, GIB - 1024)] });
      expect(refused).toEqual([`refused iovaPfn=${GIB + 1024} pageCount=${GIB - 1024} gpaPfn=1024 answer=full`]);
      bounded.tables.unmap(0, 512);
      void bounded.invalidate();
      expect(second).toMatchObject({ heldPages: 1536, refusedRanges: [range(GIB + 1536, GIB - 1536)] });
    }
  });
});

/** A consumer whose maps are answered late, in the order of the calls. */
function late(machine: Machine, more: Partial<MapNotifier> = {}) {
  const answers: ((answer: MapAnswer) => void)[] = [];
  return { answers, ...answering(machine, () => new Promise((resolve) => answers.push(resolve)), more) };
}

describe("a late refusal", () => {
  it("says nothing of frames that have been replaced since", async () => {
    const machine = new Machine();
    const { attachment, answers } = late(machine, { replace: () => undefined });
    machine.tables.map(0, 2, 100);
    void machine.invalidate();
    machine.tables.map(0, 1, 500);
    void machine.invalidate();
    answers[0]?.("full");
    await machine.scheduler.idle();
    expect(attachment).toMatchObject({ state: "active", heldPages: 1, refusedRanges: [range(1, 1)] });
  });

  it("is a reason to offer others again only if it was for want of room, and of frames that are still wanted", async () => {
    for (const [answer, wanted, again] of [
      ["full", true, true],
      ["unsupported", true, false],
      ["full", false, false],
      ["unsupported", false, false],
    ] as const) {
      const machine = new Machine();
      const { attachment, answers, take } = late(machine);
      for (const pfn of [0, 10, 20]) machine.tables.map(pfn, 1, 100 + pfn);
      void machine.invalidate();
      answers[0]?.("full");
      answers[2]?.(undefined);
      await machine.scheduler.idle();
      expect(attachment).toMatchObject({ heldPages: 2, refusedRanges: [range(0, 1)] });
      machine.tables.unmap(20, 1);
      if (!wanted) machine.tables.unmap(10, 1);
      void machine.invalidate();
      // An entry has gone: what was refused is offered once more, and is refused once more.
      answers[3]?.("full");
      await machine.scheduler.idle();
      expect(take().at(-1)).toBe("map 0+1 -> 100");
      answers[1]?.(answer);
      await machine.scheduler.idle();
      expect(take()).toEqual(again ? ["map 0+1 -> 100", "map 10+1 -> 110"] : []);
      expect(attachment.state).toBe("active");
    }
  });
});

describe("a report of frames as given up", () => {
  it("counts those only that had not been reported before, and each keeps its target", () => {
    const machine = new Machine();
    const told = machine.watch("refused");
    const notifier = new RecordingNotifier();
    const attachment = machine.nicSpace.attach(notifier);
    machine.tables.map(0, 16, 100);
    void machine.invalidate();
    notifier.lose(4, 2);
    notifier.lose(10, 1);
    told.splice(0);
    notifier.reports?.refused(2, 10, 102, 3, "full");
    expect(told).toEqual([
      "refused iovaPfn=2 pageCount=2 gpaPfn=102 answer=full",
      "refused iovaPfn=6 pageCount=4 gpaPfn=106 answer=full",
      "refused iovaPfn=11 pageCount=1 gpaPfn=111 answer=full",
    ]);
    expect(attachment).toMatchObject({ state: "active", heldPages: 6, refusedRanges: [range(2, 10)] });
  });

  it("that ends the attachment leaves nothing refused, and no window of it is reported", () => {
    const machine = new Machine();
    const told = machine.watch("refused", "window", "failed");
    const notifier = new RecordingNotifier({ granularity: "block", largestBlock: 4 });
    const attachment = machine.nicSpace.attach(notifier);
    machine.tables.map(0, 16, 100);
    void machine.invalidate();
    const { reports } = notifier;
    reports?.refused(6, 4, 106, 3, "full");
    reports?.window(0, 4);
    reports?.refused(0, 4, 100, 3, "full");
    expect(attachment).toMatchObject({ state: "failed", heldPages: 0, refusedPages: 0 });
    expect(told).toHaveLength(1);
  });
});

describe("a consumer that throws when it is to unmap what changes", () => {
  it("is told of no new target, and no window is reported of it", () => {
    for (const granularity of ["page", "block"] as const) {
      const machine = new Machine();
      machine.tables.map(0, 4, 100);
      const notifier = new RecordingNotifier({ granularity });
      const attachment = machine.nicSpace.attach(notifier);
      notifier.take();
      notifier.unmap = () => {
        throw new Error("no");
      };
      const windows = machine.watch("window");
      machine.tables.map(0, 4, 500);
      void machine.invalidate();
      expect(attachment).toMatchObject({ state: "failed", heldPages: 0, refusedPages: 0 });
      expect(notifier.take()).toEqual(["revoke"]);
      expect(windows).toEqual([]);
    }
  });
});

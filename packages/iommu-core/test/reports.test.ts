/** What a MAP notifier says of itself between the answers: the account of its attachment follows. */
import { describe, expect, it } from "vitest";
import type { MapNotifier, MapReports } from "../src/index.js";
import { RecordingFlushNotifier, RecordingNotifier, type RecordingNotifierOptions } from "../src/testing/index.js";
import { Machine, range, run } from "./support/machine.js";

function attached(options: RecordingNotifierOptions = {}) {
  const machine = new Machine();
  const notifier = new RecordingNotifier(options);
  const attachment = machine.nicSpace.attach(notifier);
  machine.tables.map(0, 16, 100);
  void machine.invalidate();
  notifier.take();
  return { machine, notifier, attachment };
}

describe("frames that a consumer has given up", () => {
  it("are counted as refused and said to be, for every attachment that it serves", () => {
    const { machine, notifier, attachment } = attached();
    const other = machine.diskSpace.attach(notifier);
    const told = machine.watch("refused");

    notifier.lose(4, 6);

    for (const served of [attachment, other])
      expect(served).toMatchObject({ state: "active", heldPages: 10, refusedPages: 6, refusedRanges: [range(4, 6)] });
    const event = "refused iovaPfn=4 pageCount=6 gpaPfn=104 answer=full";
    expect(told).toEqual([event, event]);
  });

  it.each(["page", "block"] as const)("are never unmapped, and mapped when entries free up (%s)", (granularity) => {
    const { machine, notifier, attachment } = attached({ granularity, largestBlock: 4 });
    notifier.lose(4, 4);
    machine.tables.unmap(7, 2);
    machine.tables.map(20, 1, 200);
    void machine.invalidate();

    const calls = notifier.take();
    expect(calls.filter((call) => call.startsWith("unmap"))).toEqual([
      granularity === "page" ? "unmap 0x8+1" : "unmap 0x8+4",
    ]);
    expect(notifier.held()).toEqual([run(0, 7, 100), run(9, 7, 109), run(20, 1, 200)]);
    expect(attachment).toMatchObject({ heldPages: 15, refusedPages: 0, refusedRanges: [] });
    expect(notifier.breaches).toEqual([]);
  });

  it("are none of an attachment that holds none: one that only flushes", () => {
    const attachment = new Machine().nicSpace.attach(new RecordingFlushNotifier());
    const { heldPages, refusedPages, refusedRanges } = attachment;
    expect([heldPages, refusedPages, refusedRanges]).toEqual([0, 0, []]);
  });

  it("are no reason to go on with one that threw at the first unmap", () => {
    const machine = new Machine();
    const unmaps: string[] = [];
    const attachment = machine.nicSpace.attach({
      kind: "map",
      granularity: "page",
      map: (_, __, gpaPfn) => (gpaPfn === 102 ? "unsupported" : undefined),
      unmap: (iovaPfn, pageCount) => {
        unmaps.push(`${iovaPfn}+${pageCount}`);
        throw new Error("no");
      },
    });
    for (const pfn of [0, 1, 2, 3]) {
      machine.tables.map(pfn, 1, 100 + pfn);
      void machine.invalidate();
    }
    expect(attachment).toMatchObject({ state: "active", heldPages: 3, refusedPages: 1 });
    machine.tables.unmap(0, 4);
    void machine.invalidate();

    expect(unmaps).toEqual(["0+2"]);
    expect(attachment).toMatchObject({ state: "failed", heldPages: 0, refusedPages: 0 });
  });

  it("are not mapped again where it cannot hold them at all", () => {
    const { machine, notifier, attachment } = attached();
    notifier.lose(4, 2, "unsupported");
    machine.tables.unmap(0, 1);
    void machine.invalidate();
    notifier.reports?.retry();

    expect(notifier.take()).toEqual(["unmap 0x0+1"]);
    expect(attachment).toMatchObject({ heldPages: 13, refusedPages: 2 });
  });

  it("are mapped to their new target after a change", () => {
    for (const granularity of ["page", "block"] as const) {
      const { machine, notifier, attachment } = attached({ granularity, largestBlock: 4, replace: true });
      notifier.lose(4, 4);
      machine.tables.map(0, 16, 500);
      void machine.invalidate();

      expect(notifier.held()).toEqual([run(0, 16, 500)]);
      expect(attachment).toMatchObject({ heldPages: 16, refusedPages: 0 });
      expect(notifier.breaches).toEqual([]);
    }
  });

  it.each(["page", "block"] as const)("may lie ahead of what it is being told (%s)", (granularity) => {
    for (const replace of [true, false]) {
      let once = true;
      const { machine, notifier, attachment } = attached({
        granularity,
        replace,
        largestBlock: 2,
        onCall: ({ type, iovaPfn }) => {
          if (!once || iovaPfn !== 4 || type === "map") return;
          once = false;
          notifier.lose(6, 4);
        },
      });

      machine.tables.map(2, 10, 700);
      machine.tables.unmap(12, 2);
      void machine.invalidate();

      expect(once).toBe(false);
      expect(notifier.held()).toEqual([run(0, 2, 100), run(2, 10, 700), run(14, 2, 114)]);
      expect(attachment).toMatchObject({ state: "active", heldPages: 14, refusedPages: 0 });
      expect(notifier.breaches).toEqual([]);
    }
  });

  it.each(["page", "block"] as const)("may be among those that are about to go (%s)", (granularity) => {
    let once = true;
    const { machine, notifier, attachment } = attached({
      granularity,
      largestBlock: 2,
      onCall: ({ type }) => {
        if (!once || type !== "unmap") return;
        once = false;
        notifier.lose(8, 4);
      },
    });
    notifier.lose(6, 2);

    machine.tables.unmap(0, 14);
    void machine.invalidate();

    expect(notifier.held()).toEqual([run(14, 2, 114)]);
    expect(attachment).toMatchObject({ state: "active", heldPages: 2, refusedPages: 0 });
    expect(notifier.breaches).toEqual([]);
  });

  it("follow a move, a detach and a new attachment as what was refused from the start does", async () => {
    const { machine, notifier, attachment } = attached();
    notifier.lose(4, 6);
    notifier.capacity = 0;
    void attachment.detach();
    expect(notifier.take()).toEqual(["unmap 0x0+4", "unmap 0xa+6"]);
    expect(attachment).toMatchObject({ heldPages: 0, refusedPages: 0, refusedRanges: [] });

    notifier.capacity = 5;
    const again = machine.nicSpace.attach(notifier);
    notifier.lose(2, 2);
    expect(again).toMatchObject({ heldPages: 14, refusedPages: 2 });
    await machine.backend.assign(machine.nic, machine.tables);
    expect(again).toMatchObject({ heldPages: 14, refusedPages: 2 });
    expect(notifier.breaches).toEqual([]);
  });
});

describe("an offer that is not answered yet", () => {
  it("counts once, whether it is then refused or accepted", async () => {
    for (const supports of [() => true, (gpaPfn: number) => gpaPfn < 300]) {
      const { machine, notifier, attachment } = attached({ answers: "manual", supports });
      notifier.answers.settle();
      machine.tables.map(32, 4, 300);
      const done = machine.invalidate();
      notifier.reports?.refused(33, 2, 301, 3, "unsupported");
      expect(attachment).toMatchObject({ heldPages: 18, refusedPages: 2 });
      notifier.answers.settle();
      await done;

      const accepted = supports(300);
      expect(attachment).toMatchObject({ heldPages: accepted ? 18 : 16, refusedPages: accepted ? 2 : 4 });
    }
  });
});

describe("a retry", () => {
  it("inside of an invalidation is made at its end, and outside of one at once", () => {
    let during = false;
    const { machine, notifier, attachment } = attached({
      onCall: ({ type }) => {
        if (!during || type !== "map") return;
        during = false;
        notifier.reports?.retry();
      },
    });
    notifier.lose(4, 6);
    notifier.reports?.retry();
    expect(notifier.take()).toEqual(["map 0x4+6 -> 0x68 rw"]);

    notifier.lose(4, 6);
    during = true;
    machine.tables.map(40, 1, 1);
    machine.tables.map(600, 1, 2);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["map 0x28+1 -> 0x1 rw", "map 0x258+1 -> 0x2 rw", "map 0x4+6 -> 0x68 rw"]);
    expect(attachment.refusedPages).toBe(0);
    expect(notifier.breaches).toEqual([]);
  });

  it("for which each offer is a reason for one more holds up no invalidation", async () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier();
    const attachment = machine.nicSpace.attach(notifier);
    machine.tables.map(0, 2, 100);
    machine.tables.map(5, 1, 200);
    void machine.invalidate();
    // It drops the other page for each that it is given, and wants it again.
    let offers = 0;
    const map = notifier.map.bind(notifier);
    notifier.map = (iovaPfn, pageCount, gpaPfn, access) => {
      offers += 1;
      if (offers < 1000) {
        notifier.lose(1 - iovaPfn, 1);
        notifier.reports?.retry();
      }
      return map(iovaPfn, pageCount, gpaPfn, access);
    };
    notifier.lose(0, 1);
    machine.tables.unmap(5, 1);
    void machine.invalidate();
    // One pass over what was refused: each page once.
    expect(offers).toBe(2);
    expect(attachment.state).toBe("active");
    await machine.scheduler.idle();
    expect(offers).toBeGreaterThanOrEqual(1000);
    expect(notifier.breaches).toEqual([]);
  });

  it("from inside of commit comes after the invalidation", async () => {
    let during = false;
    const { machine, notifier, attachment } = attached({
      onCall: ({ type }) => {
        if (!during || type !== "commit") return;
        during = false;
        notifier.lose(0, 2);
        notifier.reports?.retry();
      },
    });
    during = true;
    machine.tables.map(40, 1, 1);
    void machine.invalidate();
    await machine.scheduler.idle();
    expect(attachment.refusedPages).toBe(0);
    expect(notifier.breaches).toEqual([]);
  });
});

it("a window of its own making is reported as one of the unit's making is", () => {
  const { machine, notifier } = attached();
  const told = machine.watch("window");
  notifier.reports?.window(3, 5);
  expect(told).toEqual(["window iovaPfn=3 pageCount=5"]);
});

describe("a report that cannot be true", () => {
  it.each([
    ["of frames that are not mapped", 100, 200],
    ["of another target", 4, 999],
  ])("%s ends the attachment before anything is mapped by it", (_what, iovaPfn, gpaPfn) => {
    const { notifier, attachment } = attached();
    notifier.reports?.refused(iovaPfn, 2, gpaPfn, 3, "full");
    notifier.reports?.retry();

    expect(attachment.state).toBe("failed");
    expect(attachment.failure?.message).toMatch(/expected reports of frames as they were given, .* as refused/);
    expect(notifier.take()).toEqual(["revoke"]);
  });

  it.each(["page", "block"] as const)(
    "of frames that it was not given ends the attachment before the guest uses them: their unmap would be kept from it (%s)",
    (granularity) => {
      for (const answer of ["full", "unsupported"] as const) {
        const { machine, notifier, attachment } = attached({ granularity, largestBlock: 4 });
        notifier.reports?.refused(100, 2, 200, 3, answer);
        machine.tables.map(100, 2, 200);
        void machine.invalidate();
        machine.tables.unmap(100, 2);
        void machine.invalidate();

        expect(attachment.state).toBe("failed");
        expect(attachment.failure?.message).toMatch(/expected reports of frames as they were given, .* as refused/);
        expect(notifier.held()).toEqual([]);
      }
    },
  );

  it.each([
    ["no frames", 4, 0],
    ["half a frame", 4.5, 1],
    ["frames outside of its range", 16, 2],
  ])("of %s ends the attachment, and its account is not touched by it", (_what, iovaPfn, pageCount) => {
    const machine = new Machine();
    const notifier = new RecordingNotifier({ range: range(0, 16) });
    const attachment = machine.nicSpace.attach(notifier, { range: range(0, 16) });
    machine.tables.map(0, 32, 100);
    void machine.invalidate();
    notifier.reports?.refused(iovaPfn, pageCount, 100 + iovaPfn, 3, "full");

    expect([attachment.state, attachment.heldPages, attachment.refusedPages]).toEqual(["failed", 0, 0]);
    expect(attachment.failure?.message).toMatch(/expected reports of frames as they were given, .* as refused/);
  });

  it("may name the first frame of its range, the last one, and all of them; one before it ends the attachment", () => {
    for (const [firstPfn, pageCount, state] of [
      [4, 1, "active"],
      [15, 1, "active"],
      [4, 12, "active"],
      [3, 2, "failed"],
      [15, 2, "failed"],
    ] as const) {
      const machine = new Machine();
      const notifier = new RecordingNotifier({ range: range(4, 12) });
      const attachment = machine.nicSpace.attach(notifier, { range: range(4, 12) });
      machine.tables.map(0, 20, 100);
      void machine.invalidate();
      notifier.reports?.refused(firstPfn, pageCount, 100 + firstPfn, 3, "full");
      expect(attachment.state).toBe(state);
      if (state === "active") expect(attachment.refusedRanges).toEqual([range(firstPfn, pageCount)]);
      else expect(attachment.failure).toMatchObject({ code: "notifier-contract" });
    }
  });

  it("of a part of a block ends the attachment: the rest of it might stay reachable", () => {
    const { notifier, attachment } = attached({ granularity: "block", largestBlock: 4 });
    notifier.reports?.refused(4, 2, 104, 3, "full");

    expect(attachment.state).toBe("failed");
    expect(attachment.failure?.message).toMatch(/expected reports of frames as they were given, in whole blocks, got/);
  });

  it.each([
    [Number.NaN, 3],
    [-1, 3],
    [2 ** 40 - 1, 3],
    [104, 0],
    [104, 4],
    [104, 1.5],
  ])("of target %s with rights %s, which nothing can have, ends the attachment", (gpaPfn, access) => {
    const { notifier, attachment } = attached();
    expect(() => notifier.reports?.refused(4, 2, gpaPfn, access as 3, "full")).not.toThrow();

    expect(attachment.failure).toMatchObject({ code: "notifier-contract" });
    expect(attachment).toMatchObject({ state: "failed", heldPages: 0, refusedPages: 0 });
  });

  it("with an answer that means nothing ends the attachment", () => {
    const { notifier, attachment } = attached();
    notifier.reports?.refused(4, 2, 104, 3, "Full" as "full");

    expect(attachment.failure?.message).toMatch(/expected undefined, "full" or "unsupported".* got "Full"/);
  });

  it("that comes after the attachment has failed or ended is not heeded", () => {
    const { machine, notifier, attachment } = attached();
    const told = machine.watch("refused", "window");
    const { reports } = notifier;
    void attachment.detach();
    reports?.refused(4, 2, 104, 3, "full");
    reports?.window(4, 2);
    reports?.retry();
    expect([attachment.heldPages, attachment.refusedPages, told]).toEqual([0, 0, []]);
  });
});

describe("reportTo", () => {
  it("comes once for an attachment, before its first event, and anew for the next one", () => {
    const machine = new Machine();
    const calls: string[] = [];
    const given = new Set<MapReports>();
    const notifier: MapNotifier = {
      kind: "map",
      granularity: "page",
      reportTo: (reports) => void (given.add(reports), calls.push("reportTo")),
      begin: () => void calls.push("begin"),
      map: () => void calls.push("map"),
      unmap: () => void calls.push("unmap"),
    };
    const attachment = machine.nicSpace.attach(notifier);
    machine.tables.map(0, 1, 1);
    void machine.invalidate();
    machine.tables.map(1, 1, 2);
    void machine.invalidate();
    void attachment.detach();
    machine.nicSpace.attach(notifier);

    expect(calls).toEqual(["reportTo", "begin", "map", "begin", "map", "begin", "unmap", "reportTo", "begin", "map"]);
    expect(given.size).toBe(2);
  });

  it("that throws ends the attachment, as any callback does", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 1);
    const notifier = Object.assign(new RecordingNotifier(), {
      reportTo: () => {
        throw new Error("no");
      },
    });
    expect(machine.nicSpace.attach(notifier).state).toBe("failed");
  });

  it("is refused at attach where it is no method", () => {
    const machine = new Machine();
    const notifier = Object.assign(new RecordingNotifier(), { reportTo: 5 as never });
    expect(() => machine.nicSpace.attach(notifier)).toThrow(/expected a method reportTo, or none, got 5/);
  });
});

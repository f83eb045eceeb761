import { describe, expect, it } from "vitest";
import type { Attachment, MapAnswer, MapNotifier } from "../src/index.js";
import { RecordingNotifier } from "../src/testing/index.js";
import { answering } from "./support/answering.js";
import { Machine, range, run } from "./support/machine.js";

async function settle(machine: Machine): Promise<void> {
  await machine.scheduler.idle();
}

function counts({ state, heldPages, refusedPages }: Attachment): unknown[] {
  return [state, heldPages, refusedPages];
}

describe("a window", () => {
  it("is reported where the new target is held, or may be: not where it was refused, or the consumer failed", async () => {
    const cases: readonly (readonly [() => MapAnswer | Promise<MapAnswer>, number, readonly unknown[]])[] = [
      [() => undefined, 1, ["active", 1, 0]],
      [() => Promise.resolve(undefined), 1, ["active", 1, 0]],
      [() => "full", 0, ["active", 0, 1]],
      [() => "unsupported", 0, ["active", 0, 1]],
      [() => true as never, 0, ["failed", 0, 0]],
      [
        () => {
          throw new Error("no");
        },
        0,
        ["failed", 0, 0],
      ],
    ];
    for (const [answer, windows, after] of cases) {
      const machine = new Machine();
      machine.tables.map(0, 1, 1);
      const { attachment } = answering(machine, (gpaPfn) => (gpaPfn === 1 ? undefined : answer()));
      const seen = machine.watch("window");
      machine.tables.map(0, 1, 2);
      void machine.invalidate();
      await settle(machine);
      expect(seen).toHaveLength(windows);
      expect(counts(attachment)).toEqual(after);
    }
  });
});

describe("an answer that means nothing", () => {
  it("is quoted, and leaves nothing held or refused", async () => {
    for (const [answer, text] of [
      ["Full", '"Full"'],
      ["", '""'],
      [true, "true"],
      [7, "7"],
      [{}, "[object Object]"],
    ] as const) {
      for (const given of [answer, Promise.resolve(answer)] as MapAnswer[]) {
        const machine = new Machine();
        machine.tables.map(0, 3, 1);
        const { attachment } = answering(machine, () => given);
        await settle(machine);
        expect(counts(attachment)).toEqual(["failed", 0, 0]);
        expect(attachment.failure?.message).toContain(`got ${text} (`);
      }
    }
  });
});

describe("a consumer that has failed", () => {
  it("is revoked once, whatever it still answers", async () => {
    const machine = new Machine();
    const bad = new RecordingNotifier({ answers: "manual", steps: false });
    let revoked = 0;
    const notifier = Object.assign(bad, { revoke: () => void (revoked += 1) });
    machine.nicSpace.attach(notifier);
    const failed = machine.watch("failed");
    machine.tables.map(0, 1, 1);
    machine.tables.map(9, 1, 1);
    void machine.invalidate();
    bad.unmap = () => {
      throw new Error("no");
    };
    machine.tables.unmap(0, 1);
    void machine.invalidate();
    bad.answers.fail(new Error("and the socket is gone"));
    bad.answers.settle();
    await settle(machine);
    expect([revoked, failed.length]).toEqual([1, 1]);
  });
});

describe("refused frames", () => {
  it("are offered when their new target is supported, once there is room for it", () => {
    const machine = new Machine();
    for (const granularity of ["page", "block"] as const) {
      const notifier = new RecordingNotifier({ granularity, capacity: 1, supports: (gpaPfn) => gpaPfn < 1000 });
      machine.tables.map(0, 1, 1);
      machine.tables.map(5, 1, 5000);
      const attachment = machine.nicSpace.attach(notifier);
      void machine.invalidate();
      machine.tables.map(5, 1, 6);
      void machine.invalidate();
      expect(counts(attachment)).toEqual(["active", 1, 1]);
      machine.tables.unmap(0, 1);
      void machine.invalidate();
      expect(notifier.held()).toEqual([run(5, 1, 6)]);
      void attachment.detach();
    }
  });

  it("are tried with one call while the consumer is still full, and all of them when it is not", () => {
    const machine = new Machine();
    for (let pfn = 0; pfn < 20; pfn += 2) machine.tables.map(pfn, 1, 100 + pfn);
    let full = true;
    const { attachment, take } = answering(machine, () => (full ? "full" : undefined));
    expect([take().length, ...counts(attachment)]).toEqual([10, "active", 0, 10]);
    attachment.retry();
    expect(take()).toEqual(["map 0+1 -> 100"]);
    full = false;
    attachment.retry();
    expect([take().length, ...counts(attachment)]).toEqual([10, "active", 10, 0]);
  });

  it("do not keep the others from being tried when they turn out to be unsupported", () => {
    const machine = new Machine();
    for (let pfn = 0; pfn < 20; pfn += 2) machine.tables.map(pfn, 1, 100 + pfn);
    let answer: (gpaPfn: number) => MapAnswer = () => "full";
    const { attachment, take } = answering(machine, (gpaPfn) => answer(gpaPfn));
    take();
    answer = (gpaPfn) => (gpaPfn < 106 ? "unsupported" : undefined);
    attachment.retry();
    expect([take().length, ...counts(attachment)]).toEqual([10, "active", 7, 3]);
    attachment.retry();
    expect(take()).toEqual([]);
  });

  it("are offered again in slices, each with a part of them", async () => {
    const machine = new Machine({ limits: { mappingsPerSlice: 3 } });
    for (let pfn = 0; pfn < 20; pfn += 2) machine.tables.map(pfn, 1, 100 + pfn);
    let full = true;
    const { attachment, take } = answering(machine, () => (full ? "full" : undefined));
    await settle(machine);
    take();
    full = false;
    attachment.retry();
    const turns = [take().length];
    while (machine.scheduler.turn() > 0) turns.push(take().length);
    expect(turns.filter((calls) => calls > 0)).toEqual([3, 3, 3, 1]);
    expect(counts(attachment)).toEqual(["active", 10, 0]);
  });

  it("keep their targets when part of a late refusal is out of date", async () => {
    const machine = new Machine();
    const answers: ((answer: MapAnswer) => void)[] = [];
    const { attachment, take } = answering(machine, () => new Promise((resolve) => answers.push(resolve)));
    const refused = machine.watch("refused");
    machine.tables.map(10, 4, 100);
    void machine.invalidate();
    machine.tables.map(10, 1, 900);
    machine.tables.unmap(12, 1);
    void machine.invalidate();
    answers[0]?.("full");
    answers[1]?.(undefined);
    await settle(machine);
    take();
    // An entry went meanwhile, so they have been offered once more; that has not been answered yet.
    expect(refused).toEqual([
      "refused iovaPfn=11 pageCount=1 gpaPfn=101 answer=full",
      "refused iovaPfn=13 pageCount=1 gpaPfn=103 answer=full",
    ]);
    for (const answer of answers.slice(2)) answer(undefined);
    await settle(machine);
    expect(counts(attachment)).toEqual(["active", 3, 0]);
  });

  it("are not offered again by themselves where nothing has been unmapped meanwhile", async () => {
    const machine = new Machine();
    const { attachment, take } = answering(machine, () => Promise.resolve("full"));
    machine.tables.map(0, 1, 1);
    machine.tables.map(9, 1, 1);
    void machine.invalidate();
    await settle(machine);
    expect(take()).toHaveLength(2);
    expect(counts(attachment)).toEqual(["active", 0, 2]);
  });
});

describe("a change outside of a consumer's range", () => {
  it("is none for it, next to a block that the range cuts off", () => {
    for (const replace of [false, true]) {
      const machine = new Machine();
      machine.tables.map(0, 40, 100);
      const notifier = new RecordingNotifier({ granularity: "block", replace, range: range(10, 20) });
      const attachment = machine.nicSpace.attach(notifier, { range: range(10, 20) });
      notifier.take();
      machine.tables.map(0, 10, 500);
      machine.tables.map(30, 10, 600);
      void machine.invalidate();
      machine.tables.unmap(0, 10);
      machine.tables.unmap(30, 10);
      void machine.invalidate();
      expect(notifier.take()).toEqual([]);
      expect(counts(attachment)).toEqual(["active", 20, 0]);
    }
  });
});

describe("a consumer that answers later", () => {
  it("is told apart from its own past, however many frames it has been offered", async () => {
    const machine = new Machine();
    const notifier: MapNotifier = {
      kind: "map",
      granularity: "page",
      map: () => Promise.resolve(undefined),
      unmap: () => undefined,
      replace: () => Promise.resolve(undefined),
    };
    const attachment = machine.nicSpace.attach(notifier);
    // More frames than there are physical ones.
    for (let i = 0; i <= 2 ** 13 + 5; i++) {
      machine.tables.map(0, 2 ** 27, (i % 2) * 2 ** 27);
      void machine.invalidate();
      if (i % 1000 === 0) await settle(machine);
    }
    await settle(machine);
    expect(counts(attachment)).toEqual(["active", 2 ** 27, 0]);
  });
});

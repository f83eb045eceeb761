import { runInNewContext } from "node:vm";
import { describe, expect, it } from "vitest";
import type { IommuError, MapAnswer, MapNotifier, UnmapNotifier } from "../src/index.js";
import { RecordingFlushNotifier, RecordingNotifier } from "../src/testing/index.js";
import { Machine, range, run } from "./support/machine.js";

/** Whether a completion is done: `"now"`, or after what has settled so far. */
async function isDone(completion: void | Promise<void>): Promise<boolean> {
  if (completion === undefined) return true;
  let done = false;
  void completion.then(() => (done = true));
  for (let i = 0; i < 20; i++) await Promise.resolve();
  return done;
}

/** What another promise library may answer: `then`, and nothing else of a promise. */
function thenableOf<T>(begin: (settle: (value: T) => void) => void): Promise<T> {
  const thenable: object = new Proxy({}, { get: (_target, name) => (name === "then" ? begin : undefined) });
  return thenable as Promise<T>;
}

describe("completion", () => {
  it("is immediate with synchronous notifiers", () => {
    const machine = new Machine();
    machine.nicSpace.attach(new RecordingNotifier());
    machine.nicSpace.attach(new RecordingFlushNotifier());
    machine.tables.map(0, 10, 1);
    expect(machine.invalidate()).toBeUndefined();
  });

  it("waits for every notifier's promise: maps, unmaps, commits and flushes", async () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier({ answers: "manual" });
    const flush = new RecordingFlushNotifier();
    machine.nicSpace.attach(flush);
    const attachment = machine.nicSpace.attach(notifier);
    flush.answers.mode = "manual";
    machine.tables.map(0, 1, 1);
    const completion = machine.invalidate();
    expect(attachment.state).toBe("active");
    expect(await isDone(completion)).toBe(false);
    notifier.answers.settle(1);
    expect(await isDone(completion)).toBe(false);
    notifier.answers.settle();
    expect(await isDone(completion)).toBe(false);
    flush.answers.settle();
    expect(await isDone(completion)).toBe(true);
    expect(machine.scheduler.timerCount).toBe(0);
  });

  it("waits for any thenable, and for the promises of another realm", async () => {
    const foreign: unknown = runInNewContext("new Promise(() => undefined)");
    const thenable = thenableOf<void>(() => undefined);
    for (const answer of [foreign as Promise<void>, thenable]) {
      const machine = new Machine();
      const attachments = [
        machine.nicSpace.attach({ kind: "unmap", unmap: () => answer }),
        machine.nicSpace.attach({ kind: "map", granularity: "page", map: () => answer, unmap: () => answer }),
      ];
      machine.tables.map(0, 1, 1);
      expect(await isDone(machine.invalidate())).toBe(false);
      expect(attachments.map(({ state, refusedPages }) => [state, refusedPages])).toEqual([
        ["syncing", 0],
        ["active", 0],
      ]);
      machine.scheduler.advance(5000);
      expect(attachments.map(({ failure }) => failure?.code)).toEqual(["notifier-timeout", "notifier-timeout"]);
    }
  });

  it("hears what a thenable resolves to", async () => {
    const machine = new Machine();
    const full = thenableOf<MapAnswer>((settle) => settle("full"));
    const attachment = machine.nicSpace.attach({
      kind: "map",
      granularity: "page",
      map: () => full,
      unmap: () => undefined,
    });
    machine.tables.map(0, 1, 1);
    expect(await isDone(machine.invalidate())).toBe(true);
    expect([attachment.heldPages, attachment.refusedPages, attachment.failure]).toEqual([0, 1, undefined]);
  });

  it("fails a consumer whose answer to a map means nothing, now or later: what it holds is not known", async () => {
    for (const answer of [true, null, "Full", {}, 0]) {
      for (const given of [answer, Promise.resolve(answer)] as MapAnswer[]) {
        const machine = new Machine();
        const revoked: string[] = [];
        const attachment = machine.nicSpace.attach({
          kind: "map",
          granularity: "page",
          map: () => given,
          unmap: () => undefined,
          revoke: ({ code }) => void revoked.push(code),
        });
        machine.tables.map(0, 1, 1);
        expect(await isDone(machine.invalidate())).toBe(true);
        expect([attachment.state, revoked]).toEqual(["failed", ["notifier-contract"]]);
        expect(attachment.failure?.message).toMatch(/expected undefined, "full" or "unsupported" .*, got /);
      }
    }
  });

  it("issues events in order without waiting for answers", () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier({ answers: "manual" });
    machine.nicSpace.attach(notifier);
    machine.tables.map(0, 1, 1);
    void machine.invalidate();
    machine.tables.map(0, 1, 2);
    void machine.invalidate();
    expect(notifier.take()).toEqual(["map 0x0+1 -> 0x1 rw", "unmap 0x0+1", "map 0x0+1 -> 0x2 rw"]);
    expect(notifier.answers.size).toBe(5);
  });

  it("is syncing until the first replay is done, then active", async () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 1);
    const notifier = new RecordingNotifier({ answers: "manual" });
    const attachment = machine.nicSpace.attach(notifier);
    expect(attachment.state).toBe("syncing");
    expect(attachment.ready).toBeInstanceOf(Promise);
    notifier.answers.settle();
    await attachment.ready;
    expect(attachment.state).toBe("active");
    expect(attachment.ready).toBeUndefined();
  });

  it("cuts off a consumer that never answers at the deadline: revoked, reported, and the guest goes on", async () => {
    const machine = new Machine({ limits: { consumerDeadlineMilliseconds: 700 } });
    const silent = new RecordingNotifier({ name: "silent", answers: "manual" });
    const other = new RecordingNotifier();
    const attachment = machine.nicSpace.attach(silent);
    machine.diskSpace.attach(other);
    const failures: string[] = [];
    machine.unit.events.on("failed", ({ error }) => failures.push(`${error.code}: ${error.message}`));
    machine.tables.map(0, 1, 1);
    const completion = machine.invalidate();
    machine.scheduler.advance(699);
    expect(await isDone(completion)).toBe(false);
    machine.scheduler.advance(1);
    expect(await isDone(completion)).toBe(true);
    expect(silent.revoked?.code).toBe("notifier-timeout");
    expect(attachment.state).toBe("failed");
    expect(attachment.failure?.message).toMatch(/silent: expected an answer within 700 ms, got none/);
    expect(attachment.heldPages).toBe(0);
    expect(failures).toHaveLength(1);
    machine.tables.map(5, 1, 1);
    void machine.invalidate();
    expect(silent.breaches).toEqual([]);
    expect(other.held()).toEqual([run(0, 1, 1), run(5, 1, 1)]);
    silent.answers.settle();
    expect(await isDone(machine.invalidate())).toBe(true);
    expect(failures).toHaveLength(1);
  });

  it("cuts off an UNMAP-only notifier that never answers as well", async () => {
    const machine = new Machine({ limits: { consumerDeadlineMilliseconds: 700 } });
    const silent = new RecordingFlushNotifier();
    const attachment = machine.nicSpace.attach(silent);
    silent.answers.mode = "manual";
    const completion = machine.invalidate(0, 5);
    machine.scheduler.advance(700);
    expect(await isDone(completion)).toBe(true);
    expect(silent.revoked?.code).toBe("notifier-timeout");
    expect(attachment.state).toBe("failed");
    void machine.invalidate();
    expect(silent.breaches).toEqual([]);
  });

  it("fails a consumer that rejects, with its cause, and serves the others", async () => {
    const machine = new Machine();
    const bad = new RecordingNotifier({ answers: "manual" });
    const good = new RecordingNotifier();
    const attachment = machine.nicSpace.attach(bad);
    machine.nicSpace.attach(good);
    machine.tables.map(0, 1, 1);
    const completion = machine.invalidate();
    const cause = new Error("the socket is gone");
    bad.answers.fail(cause);
    bad.answers.settle();
    await completion;
    expect(attachment.state).toBe("failed");
    expect(attachment.failure).toMatchObject({ code: "notifier-failed", cause });
    expect(bad.revoked).toBe(attachment.failure);
    expect(good.held()).toEqual([run(0, 1, 1)]);
  });
});

describe("what a consumer owes", () => {
  it("keeps nobody waiting once it has failed, however many answers these are", async () => {
    const machine = new Machine();
    const bad = new RecordingNotifier({ answers: "manual" });
    const attachment = machine.nicSpace.attach(bad);
    const slow = new RecordingNotifier({ answers: "manual" });
    machine.diskSpace.attach(slow);
    for (let pfn = 0; pfn < 50; pfn += 10) machine.tables.map(pfn, 1, 100);
    const completion = machine.invalidate();
    expect(machine.scheduler.timerCount).toBe(12);
    bad.unmap = () => {
      throw new Error("no");
    };
    machine.tables.unmap(0, 1);
    const second = machine.invalidate();
    expect(attachment.state).toBe("failed");
    // What is left is owed by the other one.
    expect(machine.scheduler.timerCount).toBe(8);
    expect([await isDone(completion), await isDone(second)]).toEqual([false, false]);
    slow.answers.settle();
    expect([await isDone(completion), await isDone(second)]).toEqual([true, true]);
    expect(machine.scheduler.timerCount).toBe(0);
  });

  it("is counted once, whether the answer or the deadline comes first", async () => {
    const machine = new Machine({ limits: { callsInFlight: 1, consumerDeadlineMilliseconds: 100 } });
    const late = new RecordingNotifier({ answers: "manual", steps: false });
    const attachment = machine.nicSpace.attach(late);
    machine.tables.map(0, 1, 1);
    void machine.invalidate();
    machine.scheduler.advance(100);
    expect(attachment.state).toBe("failed");
    late.answers.settle();
    await machine.scheduler.idle();
    const next = new RecordingNotifier({ answers: "manual", steps: false });
    machine.diskSpace.attach(next);
    await machine.scheduler.idle();
    expect(next.calls).toHaveLength(1);
    // One call is in flight: the next invalidation has to wait.
    machine.tables.map(10, 1, 1);
    void machine.invalidate();
    await machine.scheduler.idle();
    expect(next.calls).toHaveLength(1);
    next.answers.settle();
    await machine.scheduler.idle();
    expect(next.calls).toHaveLength(2);
  });
});

describe("a notifier that throws", () => {
  const thrower = (when: keyof MapNotifier): MapNotifier & { revoked: number } => {
    const notifier: MapNotifier & { revoked: number } = {
      kind: "map",
      granularity: "page",
      name: "thrower",
      revoked: 0,
      map: () => undefined,
      unmap: () => undefined,
      begin: () => undefined,
      commit: () => undefined,
      revoke: () => void (notifier.revoked += 1),
    };
    Object.assign(notifier, {
      [when]: () => {
        throw new Error("no");
      },
    });
    return notifier;
  };

  it.each(["map", "unmap", "begin", "commit"] as const)(
    "from %s fails its own attachment, visibly, and no other",
    (when) => {
      const machine = new Machine();
      const bad = thrower(when);
      const good = new RecordingNotifier();
      const attachment = machine.nicSpace.attach(bad);
      machine.nicSpace.attach(good);
      const failed = machine.watch("failed");
      machine.tables.map(0, 2, 1);
      machine.tables.map(600, 2, 1);
      expect(machine.invalidate()).toBeUndefined();
      machine.tables.unmap(0, 1);
      expect(machine.invalidate()).toBeUndefined();
      expect(attachment.state).toBe("failed");
      expect(attachment.failure).toMatchObject({ code: "notifier-failed", cause: new Error("no") });
      expect(attachment.heldPages).toBe(0);
      expect(bad.revoked).toBe(1);
      expect(failed).toHaveLength(1);
      expect(good.held()).toEqual([run(1, 1, 2), run(600, 2, 1)]);
      expect(good.breaches).toEqual([]);
    },
  );

  it("from revoke is reported too, and nothing else suffers", () => {
    const machine = new Machine();
    const bad = thrower("map");
    bad.revoke = () => {
      throw new Error("cannot even stop");
    };
    const attachment = machine.nicSpace.attach(bad);
    const errors: IommuError[] = [];
    machine.unit.events.on("failed", ({ error }) => errors.push(error));
    machine.tables.map(0, 2, 1);
    void machine.invalidate();
    expect(errors).toHaveLength(2);
    expect(errors[0]).toBe(attachment.failure);
    expect(errors[1]?.message).toMatch(/expected revoke to let go of everything, got a failure/);
    expect(errors[1]?.cause).toEqual(new Error("cannot even stop"));
  });

  it("is replayed everything when it is attached again", () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier({ steps: false });
    const broken: UnmapNotifier = {
      kind: "unmap",
      unmap: () => {
        throw new Error("no");
      },
    };
    const failed = machine.nicSpace.attach(broken);
    expect(failed.state).toBe("failed");
    machine.tables.map(0, 2, 1);
    let attachment = machine.nicSpace.attach(Object.assign(notifier, { map: () => Promise.reject(new Error("once")) }));
    return Promise.resolve(attachment.ready).then(() => {
      expect(attachment.state).toBe("failed");
      void attachment.detach();
      Reflect.deleteProperty(notifier, "map");
      const again = new RecordingNotifier();
      attachment = machine.nicSpace.attach(again);
      expect(again.held()).toEqual([run(0, 2, 1)]);
      expect(attachment.state).toBe("active");
    });
  });
});

describe("a late refusal", () => {
  it("is remembered, reported and offered again, for what is still wanted only", async () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier({ answers: "manual", capacity: 1 });
    const attachment = machine.nicSpace.attach(notifier);
    const refused = machine.watch("refused");
    machine.tables.map(0, 1, 1);
    machine.tables.map(10, 1, 10);
    machine.tables.map(20, 1, 20);
    const first = machine.invalidate();
    expect(attachment.heldPages).toBe(3);
    machine.tables.unmap(10, 1);
    const second = machine.invalidate();
    notifier.answers.mode = "sync";
    notifier.answers.settle();
    await Promise.all([first, second]);
    expect(new Set(refused)).toEqual(new Set(["refused iovaPfn=20 pageCount=1 gpaPfn=20 answer=full"]));
    expect(attachment.heldPages).toBe(1);
    expect(attachment.refusedPages).toBe(1);
    machine.tables.unmap(0, 1);
    void machine.invalidate();
    expect(notifier.held()).toEqual([run(20, 1, 20)]);
    expect(attachment.heldPages).toBe(1);
  });

  it("never brings back a target that the guest has replaced meanwhile", async () => {
    for (const granularity of ["page", "block"] as const) {
      const machine = new Machine();
      const answers: ((answer: MapAnswer) => void)[] = [];
      const held = new Map<number, number>();
      const attachment = machine.nicSpace.attach({
        kind: "map",
        granularity,
        map: (iovaPfn, _pageCount, gpaPfn) => {
          held.set(iovaPfn, gpaPfn);
          return new Promise((resolve) => answers.push(resolve));
        },
        unmap: (iovaPfn) => void held.delete(iovaPfn),
      });
      machine.tables.map(0, 1, 100);
      const first = machine.invalidate();
      machine.tables.map(0, 1, 200);
      const second = machine.invalidate();
      answers[0]!("full");
      answers[1]!(undefined);
      await Promise.all([first, second]);
      expect(attachment.refusedPages).toBe(0);
      expect(attachment.heldPages).toBe(1);
      attachment.retry();
      expect([...held]).toEqual([[0, 200]]);
      machine.tables.unmap(0, 1);
      void machine.invalidate();
      expect(held.size).toBe(0);
      expect(attachment.heldPages).toBe(0);
    }
  });

  it("is offered again by itself if entries freed up while the consumer was still refusing", async () => {
    const machine = new Machine();
    const notifier = new RecordingNotifier({ answers: "manual", capacity: 1 });
    machine.nicSpace.attach(notifier);
    machine.tables.map(0, 1, 1);
    machine.tables.map(10, 1, 10);
    const first = machine.invalidate();
    machine.tables.unmap(0, 1);
    const second = machine.invalidate();
    notifier.answers.settle();
    notifier.answers.mode = "sync";
    await Promise.all([first, second]);
    expect(notifier.held()).toEqual([run(10, 1, 10)]);
  });
});

describe("leases and completion", () => {
  it("an invalidation of a leased page completes when the lease is released", async () => {
    const machine = new Machine();
    machine.tables.map(0, 4, 0x100);
    const lease = machine.nicSpace.dma.segments(0x800, 0x2000, 1);
    expect(lease?.segments).toEqual([{ gpa: 0x100_800, byteLength: 0x2000 }]);
    expect(lease?.range).toEqual(range(0, 3));
    expect(machine.invalidate(3, 1)).toBeUndefined();
    let recalled = 0;
    lease!.onRecall = () => void (recalled += 1);
    const completion = machine.invalidate(2, 1);
    const again = machine.invalidate(2, 1);
    expect(recalled).toBe(1);
    expect(machine.scheduler.timerCount).toBe(1);
    expect(await isDone(completion)).toBe(false);
    expect(await isDone(again)).toBe(false);
    expect(lease!.valid).toBe(true);
    lease!.release();
    expect(await isDone(completion)).toBe(true);
    expect(await isDone(again)).toBe(true);
    expect(lease!.valid).toBe(false);
    expect(machine.scheduler.timerCount).toBe(0);
    expect(machine.invalidate()).toBeUndefined();
  });

  it("completes at once when the holder releases inside onRecall", () => {
    const machine = new Machine();
    machine.tables.map(0, 4, 0x100);
    const lease = machine.nicSpace.dma.segments(0, 1, 1)!;
    lease.onRecall = () => lease.release();
    expect(machine.invalidate()).toBeUndefined();
    expect(machine.scheduler.timerCount).toBe(0);
  });

  it("revokes a lease at its deadline", async () => {
    const machine = new Machine({ limits: { leaseDeadlineMilliseconds: 50 } });
    machine.tables.map(0, 4, 0x100);
    const lease = machine.nicSpace.dma.segments(0, 1, 1)!;
    const completion = machine.invalidate();
    const other = machine.invalidate();
    machine.scheduler.advance(49);
    expect(await isDone(completion)).toBe(false);
    machine.scheduler.advance(1);
    expect(await isDone(completion)).toBe(true);
    expect(await isDone(other)).toBe(true);
    expect(lease.valid).toBe(false);
    lease.release();
  });

  it("takes the pages from a holder whose onRecall throws, and lets the host see the error", () => {
    const machine = new Machine();
    machine.tables.map(0, 4, 0x100);
    const lease = machine.nicSpace.dma.segments(0, 1, 1)!;
    lease.onRecall = () => {
      throw new Error("holder is broken");
    };
    expect(machine.invalidate()).toBeUndefined();
    expect(lease.valid).toBe(false);
    expect(() => machine.scheduler.turn()).toThrow("holder is broken");
  });

  it("knows its pages, wherever they begin", () => {
    const machine = new Machine();
    machine.tables.map(4, 4, 0x100);
    expect(machine.nicSpace.dma.segments(0x5800, 0x1000, 1)?.range).toEqual(range(5, 2));
  });

  it("is recalled by unplug", async () => {
    const machine = new Machine();
    machine.tables.map(0, 4, 0x100);
    const lease = machine.nicSpace.dma.segments(0, 1, 3)!;
    const completion = machine.nicSpace.unplug();
    expect(await isDone(completion)).toBe(false);
    lease.release();
    expect(await isDone(completion)).toBe(true);
  });

  it("is not recalled by an invalidation for another domain once the hub knows the device's", () => {
    const machine = new Machine();
    machine.tables.map(0, 4, 0x100);
    machine.nicSpace.attach(new RecordingFlushNotifier());
    const lease = machine.nicSpace.dma.segments(0, 1, 1)!;
    const other = machine.backend.unassigned;
    expect(machine.backend.invalidate(other)).toBeUndefined();
    expect(lease.valid).toBe(true);
  });

  it("refuses a lease over a page that is not mapped, or lacks the right", () => {
    const machine = new Machine();
    machine.tables.map(0, 1, 0x100, 1);
    expect(machine.nicSpace.dma.segments(0, 4097, 1)).toBeUndefined();
    expect(machine.nicSpace.dma.failure).toMatchObject({ iovaPfn: 1, cause: "not mapped" });
    expect(machine.nicSpace.dma.segments(0, 10, 2)).toBeUndefined();
    expect(machine.nicSpace.dma.failure).toMatchObject({ iovaPfn: 0, cause: "no right" });
    expect(machine.invalidate()).toBeUndefined();
  });
});

/**
 * Both halves of a worker's cache in one thread, so that every interleaving can be had on purpose. Real threads are in worker.test.ts.
 */
import { Access, IommuError, Translation } from "@iommu-kit/iommu-core";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ALWAYS_INVALIDATED } from "../src/index.js";
import {
  NO_ANSWER,
  NOT_ATTACHED,
  WORKER_REVOKED,
  WorkerCacheNotifier,
  WorkerDma,
  type WorkerPort,
} from "../src/worker/index.js";
import { FakeMachine, Ram } from "./fake-machine.js";

const PAGES = 64;

/** Host and worker with a way between them whose messages to the worker wait until they are delivered. */
class Pair {
  readonly machine = new FakeMachine({ memory: new Ram(PAGES) });
  readonly cache: WorkerCacheNotifier;
  readonly dma: WorkerDma;
  /** Runs right after the host has answered a miss, before the worker looks. */
  afterAnswer: (() => void) | undefined;
  /** Loses the worker's misses. */
  deaf = false;
  /** Decides when the host hears a message of the worker, and does what else happens meanwhile. */
  onTheWay: ((kind: "miss" | "ack", arrive: () => void) => void) | undefined;
  readonly revocations: { readonly code: string; readonly inAccess: boolean }[] = [];
  readonly #toWorker: unknown[] = [];
  #workerHears = (_message: unknown): void => undefined;

  constructor(
    options: {
      readonly web?: boolean;
      readonly rights?: "requested";
      readonly answerDeadlineMilliseconds?: number;
    } = {},
  ) {
    let hostHears = (_message: unknown): void => undefined;
    const host: WorkerPort = {
      postMessage: (message) => this.#toWorker.push(message),
      on: (_event: "message", listener: (message: unknown) => void) => (hostHears = listener),
    };
    const postMessage = (message: unknown): void => {
      if (this.deaf) return;
      const { kind } = message as { readonly kind: "miss" | "ack" };
      if (this.onTheWay !== undefined) return this.onTheWay(kind, () => hostHears(message));
      hostHears(message);
      if (kind === "miss") this.afterAnswer?.();
    };
    const worker: WorkerPort =
      options.web === true
        ? {
            postMessage,
            addEventListener: (_event, listener) => (this.#workerHears = (data) => listener({ data })),
            start: () => undefined,
          }
        : {
            postMessage,
            on: (_event: "message", listener: (message: unknown) => void) => (this.#workerHears = listener),
          };
    const { scheduler } = this.machine;
    this.cache = new WorkerCacheNotifier(this.machine.space, {
      port: host,
      scheduler,
      entries: 16,
      onRevoke: ({ code }, inAccess) => this.revocations.push({ code, inAccess }),
      ...(options.rights && { rights: options.rights }),
    });
    this.machine.space.attach(this.cache);
    this.dma = new WorkerDma(this.cache.setup, {
      port: worker,
      memory: this.machine.memory,
      ...(options.answerDeadlineMilliseconds !== undefined && {
        answerDeadlineMilliseconds: options.answerDeadlineMilliseconds,
      }),
    });
    for (let frame = 0; frame < PAGES; frame++) this.machine.memory.bytes[frame * 4096] = frame;
  }

  /** The host sends something else on the same port. */
  say(message: unknown): void {
    this.#workerHears(message);
  }

  /** The host cuts the worker off. */
  revoke(): void {
    this.cache.revoke(new IommuError("notifier-failed", "the host had enough of it", { hint: "none" }));
  }

  /** The worker returns to its event loop. */
  deliver(): void {
    for (const message of this.#toWorker.splice(0)) this.#workerHears(message);
  }

  /** The first byte of a page, which names its frame; `undefined` if refused. */
  read(page: number): number | undefined {
    const byte = new Uint8Array(1);
    return this.dma.read(page * 4096, byte) ? byte[0] : undefined;
  }
}

describe("WorkerDma", () => {
  for (const web of [false, true]) {
    it(`works off an invalidation when it is idle, through ${web ? "a browser's" : "Node's"} port`, async () => {
      const pair = new Pair({ web });
      pair.machine.map(5, 10);
      expect(pair.read(5)).toBe(10);
      const completion = pair.machine.invalidate(5, 1);
      expect(pair.dma.entryCount).toBe(1);
      pair.deliver();
      expect(pair.dma.entryCount).toBe(0);
      await completion;
      expect(pair.cache.status.state).toBe("running");
    });
  }

  it("works off an invalidation before the next access, and in a poll", async () => {
    const pair = new Pair();
    pair.machine.map(5, 10);
    pair.machine.map(6, 11);
    pair.read(5);
    void pair.machine.invalidate(5, 1);
    pair.read(6);
    expect(pair.cache.status.pendingInvalidations).toBe(0);
    const completion = pair.machine.invalidate(6, 1);
    pair.dma.poll();
    await completion;
    expect(pair.dma.entryCount).toBe(0);
  });

  it("takes messages of other parts of the host for what they are", () => {
    const pair = new Pair();
    pair.machine.map(5, 10);
    expect(pair.read(5)).toBe(10);
    pair.say({ hello: "worker" });
    pair.say(5);
    pair.say({ tag: "@iommu-kit/notifier-cache" });
    expect(pair.read(5)).toBe(10);
  });

  it("asks again when an invalidation of the page overtook the answer, and gives up on a page that never rests", () => {
    const pair = new Pair();
    pair.machine.map(5, 10);
    pair.afterAnswer = () => {
      pair.afterAnswer = undefined;
      pair.machine.map(5, 12);
      void pair.machine.invalidate(5, 1);
    };
    expect(pair.read(5)).toBe(12);
    expect(pair.cache.status.discarded).toBe(1);
    pair.afterAnswer = () => void pair.machine.invalidate(6, 1);
    pair.machine.map(6, 13);
    expect(pair.read(6)).toBeUndefined();
    expect(pair.dma.reason).toBe(ALWAYS_INVALIDATED);
  });

  it("holds a superpage's answer for the page alone when an invalidation touched another page of it meanwhile", () => {
    const pair = new Pair();
    pair.machine.map(512, 0, Access.readWrite, 512);
    pair.afterAnswer = () => void pair.machine.invalidate(600, 1);
    const out = new Translation();
    expect(pair.dma.translate(520, Access.read, out)).toBe(true);
    expect(out).toMatchObject({ gpaPfn: 8, pageCount: 1 });
    pair.afterAnswer = undefined;
    expect(pair.dma.translate(521, Access.read, out)).toBe(true);
    expect(out).toMatchObject({ gpaPfn: 9, pageCount: 512 });
  });

  it("holds a superpage's answer whole when only pages far away from it were invalidated meanwhile", () => {
    const largest = 2 ** 18;
    for (const far of [largest - 1, 2 * largest, 5 * largest]) {
      const pair = new Pair();
      pair.machine.map(largest + 512, 0, Access.readWrite, 512);
      pair.afterAnswer = () => void pair.machine.invalidate(far, 1);
      const out = new Translation();
      expect(pair.dma.translate(largest + 520, Access.read, out)).toBe(true);
      expect(out).toMatchObject({ gpaPfn: 8, pageCount: 512 });
    }
  });

  it("waits for the answer to its own request, and not for one that came too late for the request before", () => {
    const pair = new Pair({ answerDeadlineMilliseconds: 10 });
    pair.machine.map(5, 10);
    pair.machine.map(6, 11);
    pair.machine.map(7, 12);
    expect(pair.read(7)).toBe(12);
    const late: (() => void)[] = [];
    pair.onTheWay = (_kind, arrive) => void late.push(arrive);
    expect(pair.read(5)).toBeUndefined();
    expect(pair.dma.reason).toBe(NO_ANSWER);
    pair.onTheWay = (kind, arrive) => {
      late.push(arrive);
      // The host hears the request before with this one's sending, and this one with an acknowledgement.
      if (kind === "miss") void pair.machine.invalidate(7, 1);
      for (const each of kind === "miss" ? late.splice(0, 1) : late.splice(0)) each();
    };
    expect(pair.read(6)).toBe(11);
    expect(pair.cache.status).toMatchObject({ fills: 2, discarded: 0, pendingInvalidations: 0 });
  });

  it("comes out of waiting when the host cuts it off instead of answering", () => {
    const pair = new Pair();
    pair.machine.map(5, 10);
    pair.onTheWay = () => pair.revoke();
    expect(pair.read(5)).toBeUndefined();
    expect([pair.dma.reason, pair.dma.revoked]).toEqual([WORKER_REVOKED, true]);
    expect(pair.revocations).toEqual([{ code: "notifier-failed", inAccess: false }]);
  });

  it("touches nothing through an answer that it got just before it was cut off", () => {
    const pair = new Pair();
    pair.machine.map(5, 10);
    pair.machine.map(6, 11);
    expect(pair.read(6)).toBe(11);
    pair.onTheWay = (kind, arrive) => {
      arrive();
      if (kind === "miss") void pair.machine.invalidate(6, 1);
      else pair.revoke();
    };
    const byte = Uint8Array.of(0xee);
    expect(pair.dma.read(5 * 4096, byte)).toBe(false);
    expect([pair.dma.reason, byte[0]]).toEqual([WORKER_REVOKED, 0xee]);
  });

  it("is reported to be in an access when it was cut off in the middle of one, and makes no other", () => {
    const pair = new Pair();
    pair.machine.map(5, 10);
    const read = pair.machine.memory.read.bind(pair.machine.memory);
    pair.machine.memory.read = (gpa, into) => {
      pair.revoke();
      return read(gpa, into);
    };
    expect(pair.read(5)).toBe(10);
    expect(pair.revocations).toEqual([{ code: "notifier-failed", inAccess: true }]);
    expect(pair.read(5)).toBeUndefined();
    expect(pair.dma.reason).toBe(WORKER_REVOKED);
  });

  it("holds nobody up once its host has cut it off by itself", () => {
    const pair = new Pair();
    pair.machine.map(5, 10);
    expect(pair.read(5)).toBe(10);
    const before = pair.machine.invalidate(5, 1);
    expect(before).toBeInstanceOf(Promise);
    pair.revoke();
    expect(pair.machine.invalidate(5, 1)).toBeUndefined();
    expect(pair.cache.status).toMatchObject({ state: "revoked", pendingInvalidations: 0 });
    return before;
  });

  it("refuses with a reason of its own when the host does not answer, or has cut it off", () => {
    const pair = new Pair({ answerDeadlineMilliseconds: 10 });
    pair.machine.map(5, 10);
    pair.deaf = true;
    expect(pair.read(5)).toBeUndefined();
    expect(pair.dma.reason).toBe(NO_ANSWER);
    pair.deaf = false;
    expect(pair.read(5)).toBe(10);
    pair.deaf = true;
    void pair.machine.invalidate(5, 1);
    pair.machine.scheduler.advance(10_000);
    expect(pair.dma.revoked).toBe(true);
    expect(pair.read(5)).toBeUndefined();
    expect(pair.dma.reason).toBe(WORKER_REVOKED);
  });

  it("says reason 0 where there is no memory at the target", () => {
    const pair = new Pair();
    pair.machine.map(5, 10_000);
    expect(pair.read(5)).toBeUndefined();
    expect(pair.dma.reason).toBe(0);
  });

  it("holds no more rights than were asked for when the guest's tables have dirty flags", () => {
    const pair = new Pair({ rights: "requested" });
    pair.machine.map(5, 10);
    const out = new Translation();
    pair.dma.translate(5, Access.read, out);
    expect(out.access).toBe(Access.read);
    expect(pair.dma.write(5 * 4096, Uint8Array.of(1))).toBe(true);
    expect(pair.machine.translations).toBe(2);
  });

  it("takes no notice of messages that are not its own, or make no sense", () => {
    const pair = new Pair();
    const tag = "@iommu-kit/notifier-cache";
    let hears = (_message: unknown): void => undefined;
    const cache = new WorkerCacheNotifier(pair.machine.space, {
      port: {
        postMessage: () => undefined,
        on: (_event: "message", listener: (message: unknown) => void) => (hears = listener),
      },
    });
    const translations = pair.machine.translations;
    for (const message of [
      undefined,
      5,
      "text",
      {},
      { tag: "other" },
      { tag, kind: "miss" },
      { tag, kind: "ack" },
      { tag, kind: "wake" },
    ])
      hears(message);
    for (const iovaPfn of [-1, 1.5, 2 ** 53, "5"]) hears({ tag, kind: "miss", id: 1, iovaPfn, access: 1 });
    hears({ tag, kind: "miss", id: 1, iovaPfn: 5, access: 1 });
    expect(pair.machine.translations).toBe(translations);
    expect(cache.status.state).toBe("running");
    expect(NOT_ATTACHED).toBeLessThan(0);
  });

  it("property: never reads a frame that was taken away by an invalidation that has completed", async () => {
    const page = fc.nat({ max: 7 });
    const frame = fc.integer({ min: 1, max: PAGES - 1 });
    const change = fc.record({ change: page, frame, announce: fc.boolean() });
    const step = fc.oneof(
      { weight: 2, arbitrary: change },
      fc.record({ unmap: page }),
      fc.record({ invalidate: page, count: fc.integer({ min: 1, max: 8 }) }),
      {
        weight: 4,
        arbitrary: fc
          .record({ read: page, meanwhile: fc.option(change, { nil: undefined }), same: fc.boolean() })
          .map(({ read, meanwhile, same }) => ({
            read,
            meanwhile: same && meanwhile !== undefined ? { ...meanwhile, change: read } : meanwhile,
          })),
      },
      fc.constant({ deliver: true } as const),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 20, maxLength: 80 }), async (steps) => {
        const pair = new Pair();
        const { machine } = pair;
        // For every page the frames that may still be read; `undefined` stands for a refusal.
        const allowed = Array.from({ length: 8 }, () => new Set<number | undefined>([undefined]));
        const now = (at: number): number | undefined => machine.read(at)?.gpaPfn;
        const invalidate = (first: number, count: number): void => {
          const after = Array.from({ length: 8 }, (_, at) => now(at));
          const changes = Array.from({ length: 8 }, () => new Set<number | undefined>());
          const watch = { first, count, after, changes };
          open.add(watch);
          const completed = (): void => {
            open.delete(watch);
            for (let at = first; at < Math.min(8, first + count); at++)
              allowed[at] = new Set([after[at], ...(changes[at] ?? [])]);
          };
          const completion = machine.invalidate(first, count);
          if (completion === undefined) completed();
          else void completion.then(completed);
        };
        const open = new Set<{ readonly changes: Set<number | undefined>[] }>();
        const note = (at: number): void => {
          allowed[at]?.add(now(at));
          for (const { changes } of open) changes[at]?.add(now(at));
        };
        const apply = (edit: { readonly change: number; readonly frame: number; readonly announce: boolean }): void => {
          machine.map(edit.change, edit.frame);
          note(edit.change);
          if (edit.announce) invalidate(edit.change, 1);
        };
        for (const each of steps) {
          if ("change" in each) apply(each);
          else if ("unmap" in each) {
            machine.unmap(each.unmap);
            note(each.unmap);
          } else if ("invalidate" in each) invalidate(each.invalidate, each.count);
          else if ("deliver" in each) pair.deliver();
          else {
            const { meanwhile } = each;
            pair.afterAnswer = () => {
              pair.afterAnswer = undefined;
              if (meanwhile !== undefined) apply(meanwhile);
            };
            const before = new Set(allowed[each.read]);
            const got = pair.read(each.read);
            expect(before.has(got) || allowed[each.read]?.has(got)).toBe(true);
            // It acknowledged the invalidation inside of this read: the old frame is not an answer any more.
            const asked = pair.afterAnswer === undefined && got !== undefined;
            if (asked && meanwhile?.announce === true && meanwhile.change === each.read)
              expect(got).toBe(now(each.read));
          }
          for (let i = 0; i < 6; i++) await Promise.resolve();
        }
      }),
      { numRuns: 150 },
    );
  });
});

/** A consumer that is cut off and needs time to let go: nobody is told that its pages are gone before they are. */
import { describe, expect, it } from "vitest";
import { type Completion, type IommuError, type Notifier, whenDone } from "../src/index.js";
import { Machine } from "./support/machine.js";

interface Consumer {
  readonly notifier: Notifier;
  letGo: () => void;
  cannot: (cause: unknown) => void;
}

/** Takes everything, refuses to unmap, and lets go when the test says so. */
function consumerOf(kind: "map" | "unmap" | "device-tlb", how: "throws" | "rejects" | "hangs"): Consumer {
  let [letGo, cannot] = [(): void => undefined, (_cause: unknown): void => undefined];
  const done = new Promise<void>((resolve, reject) => ([letGo, cannot] = [resolve, reject]));
  let failing = false;
  const unmap = (): Completion => {
    // The first flush of a cache comes with its attachment.
    if (kind !== "map" && !failing) return void (failing = true);
    if (how === "throws") throw new Error("EIO");
    return how === "rejects" ? Promise.reject(new Error("EIO")) : new Promise(() => undefined);
  };
  const revoke = (): Completion => done;
  const notifier: Notifier =
    kind === "map"
      ? { kind, granularity: "page", map: () => undefined, unmap, revoke }
      : kind === "unmap"
        ? { kind, unmap, revoke }
        : { kind, invalidate: unmap, revoke };
  return { notifier, letGo: () => letGo(), cannot: (cause) => cannot(cause) };
}

async function turns(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

describe.each(["map", "unmap"] as const)("a %s notifier", (kind) => {
  describe.each(["throws", "rejects", "hangs"] as const)("that %s", (how) => {
    function begin() {
      const machine = new Machine();
      const consumer = consumerOf(kind, how);
      machine.tables.map(0, 4, 100);
      const attachment = machine.nicSpace.attach(consumer.notifier);
      const errors: IommuError[] = [];
      machine.unit.events.on("failed", ({ error }) => errors.push(error));
      machine.tables.unmap(0, 1);
      const done: string[] = [];
      void machine.invalidate()?.then(() => done.push("first"));
      if (how === "hangs") machine.scheduler.advance(machine.unit.limits.consumerDeadlineMilliseconds);
      return { machine, consumer, attachment, errors, done };
    }

    it("keeps the guest waiting until its revoke is done", async () => {
      const { consumer, attachment, errors, done } = begin();
      await turns();
      expect([attachment.state, errors.length, done]).toEqual(["failed", 1, []]);
      consumer.letGo();
      await turns();
      expect([errors.length, done]).toEqual([1, ["first"]]);
    });

    it("and does not let go either is reported once more, and then the guest goes on", async () => {
      for (const end of ["rejects", "takes too long"]) {
        const { machine, consumer, attachment, errors, done } = begin();
        await turns();
        if (end === "rejects") consumer.cannot(new Error("EIO again"));
        else machine.scheduler.advance(machine.unit.limits.consumerDeadlineMilliseconds);
        await turns();
        expect(done).toEqual(["first"]);
        expect(errors.map(({ hint }) => hint)).toEqual([errors[0]?.hint, "reset the device behind it"]);
        expect(errors[1]?.code).toBe("notifier-failed");
        expect(errors[1]?.message).toMatch(/expected revoke to let go of everything, got a failure/);
        expect(attachment.failure).toBe(errors[0]);
      }
    });
  });
});

describe.each(["map", "unmap"] as const)("while a %s notifier is being revoked", (kind) => {
  function revoking() {
    const machine = new Machine();
    const consumer = consumerOf(kind, "throws");
    machine.tables.map(0, 4, 100);
    const attachment = machine.nicSpace.attach(consumer.notifier);
    machine.tables.unmap(0, 1);
    void machine.invalidate();
    expect(attachment.state).toBe("failed");
    return { machine, consumer, attachment };
  }

  it.each<[string, (parts: ReturnType<typeof revoking>) => Completion]>([
    ["what the guest does", ({ machine }) => machine.invalidate()],
    ["its detach", ({ attachment }) => attachment.detach()],
    ["the unplugging of its device", ({ machine }) => machine.nicSpace.unplug()],
    ["the end of its unit", ({ machine }) => machine.unit.destroy()],
  ])("%s waits for it too", async (_what, act) => {
    const parts = revoking();
    let done = false;
    whenDone(act(parts), () => (done = true));
    await turns();
    expect(done).toBe(false);
    parts.consumer.letGo();
    await turns();
    expect(done).toBe(true);
  });

  it("nothing is waited for any more once it has let go", async () => {
    const { machine, consumer } = revoking();
    consumer.letGo();
    await turns();
    expect(machine.invalidate()).toBeUndefined();
  });
});

describe.each(["map", "unmap"] as const)("a %s notifier that is cut off for its delay", (kind) => {
  it("keeps the guest waiting until its revoke is done, although its late answer comes before that", async () => {
    const machine = new Machine();
    const late: (() => void)[] = [];
    let letGo = (): void => undefined;
    let asked = 0;
    const unmap = (): Completion => {
      asked += 1;
      // The first flush of a cache comes with its attachment.
      return kind === "unmap" && asked === 1 ? undefined : new Promise((resolve) => late.push(resolve));
    };
    const revoke = (): Completion => new Promise((resolve) => (letGo = resolve));
    machine.tables.map(0, 4, 100);
    machine.nicSpace.attach(
      kind === "map" ? { kind, granularity: "page", map: () => undefined, unmap, revoke } : { kind, unmap, revoke },
    );
    machine.tables.unmap(0, 1);
    const done: string[] = [];
    void machine.invalidate()?.then(() => done.push("first"));
    machine.scheduler.advance(machine.unit.limits.consumerDeadlineMilliseconds);
    for (const answer of late) answer();
    await turns();
    expect(done).toEqual([]);
    letGo();
    await turns();
    expect(done).toEqual(["first"]);
  });
});

it.each(["map", "unmap"] as const)("a %s notifier that has nothing to revoke is reported once", (kind) => {
  const machine = new Machine();
  machine.tables.map(0, 4, 100);
  const { notifier } = consumerOf(kind, "throws");
  delete notifier.revoke;
  const attachment = machine.nicSpace.attach(notifier);
  const errors: IommuError[] = [];
  machine.unit.events.on("failed", ({ error }) => errors.push(error));
  machine.tables.unmap(0, 1);
  expect(machine.invalidate()).toBeUndefined();
  expect(errors).toEqual([attachment.failure]);
});

it("a cache that is cut off with two flushes under way keeps the guest waiting for both until its revoke is done", async () => {
  const machine = new Machine();
  const consumer = consumerOf("unmap", "hangs");
  machine.nicSpace.attach(consumer.notifier);
  const done: number[] = [];
  for (const which of [1, 2]) whenDone(machine.invalidate(), () => done.push(which));
  machine.scheduler.advance(machine.unit.limits.consumerDeadlineMilliseconds);
  await turns();
  expect(done).toEqual([]);
  consumer.letGo();
  await turns();
  expect(done).toEqual([1, 2]);
});

it("a revoke that ends late ends no wait of the attachment that followed", async () => {
  const machine = new Machine();
  const answers: (() => void)[] = [];
  let letGo = (): void => undefined;
  let works = false;
  const notifier: Notifier = {
    kind: "map",
    granularity: "page",
    map: () => undefined,
    unmap: () => {
      if (!works) throw new Error("EIO");
      return new Promise<void>((resolve) => answers.push(resolve));
    },
    revoke: () => new Promise<void>((resolve) => (letGo = resolve)),
  };
  machine.tables.map(0, 4, 100);
  const attachment = machine.nicSpace.attach(notifier);
  machine.tables.unmap(0, 1);
  void machine.invalidate();
  void attachment.detach();

  works = true;
  machine.nicSpace.attach(notifier);
  machine.tables.unmap(1, 1);
  let done = false;
  whenDone(machine.invalidate(), () => (done = true));
  letGo();
  await turns();
  expect([answers.length, done]).toEqual([1, false]);
  for (const answer of answers) answer();
  await turns();
  expect(done).toBe(true);
});
